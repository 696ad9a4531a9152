"""Models small enough for a test, weights a function of the seed; and what a test has to see unchanged afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def convnet(classes: int = 4, seed: int = 0, size: int = 8, dropout: float = 0.2) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, dropout, linear, on [1, size, size]; BatchNorm as training would leave it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(6 * (size - 2) ** 2, classes),
        )
        return trained_like(model, seed)


def trained_like(model: nn.Module, seed: int = 0) -> Any:
    """The model itself, with BatchNorm statistics and weights that are not those of a fresh one."""
    draw = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 1.5),
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=draw))
    return model


def linear(weight: list[list[float]] | Tensor, bias: list[float] | None = None) -> nn.Sequential:
    """logits = weight · pixels + bias."""
    rows = torch.as_tensor(weight)
    layer = nn.Linear(rows.shape[1], rows.shape[0])
    layer.weight.data.copy_(rows)
    layer.bias.data.copy_(torch.zeros(len(rows)) if bias is None else torch.tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)


class Viewing(nn.Module):
    """As many people write it: `view` after a convolution, which bears neither channels_last nor a batch of none."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        inner = convnet(classes)
        self.conv, self.head = inner[0], inner[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs).relu()
        return self.head(maps.view(maps.size(0), -1))


class Stated(nn.Module):
    """The pixels of an image [K, 1, 1] are its embedding, and the probabilities that the model gives it; exact,
    whatever the batch."""

    features = "seen"

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Identity()
        self.one = nn.Parameter(torch.ones(()))  # a weight, for those that ask how the logits follow from the weights

    def forward(self, inputs: Tensor) -> Tensor:
        return self.seen(inputs.flatten(1)).clamp_min(1e-30).log() * self.one


def stated(probs: Tensor) -> Tensor:
    """Images of which `Stated` says the rows of `probs`, [N, K]."""
    return probs.to(torch.float32)[:, :, None, None]


class Counting(nn.Module):
    """Another model, and how many images each of its forward passes had."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes.append(len(inputs))
        return self.inner(inputs)


def condition(model: nn.Module) -> list[Any]:
    """Everything of a model that a borrower has to give back: modes, flags, weights, buffers, gradients."""
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.detach().flatten().tolist() for parameter in model.parameters()],
        [buffer.flatten().tolist() for buffer in model.buffers()],
        [None if parameter.grad is None else parameter.grad.flatten().tolist() for parameter in model.parameters()],
    ]


def standing(model: nn.Module, moved: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: the images that the model gets right."""
    with torch.no_grad():
        return model(moved).argmax(1) == labels


class Stepped(nn.Module):
    """A model that hides its gradient: pixels are counted in whole steps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner((inputs * 16).round() / 16)


def as_images(points: Tensor, bias: list[float] | None = None) -> tuple[nn.Module, Tensor]:
    """Images whose pixels are their embeddings; the largest of the first three pixels is the predicted class."""
    return linear(torch.eye(3, points.shape[1]), bias), points[:, None, None, :]
