"""Interval bounds hold on every network, are exact where they can be, and say what they cannot do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.errors import InputError
from robal.networks import (
    VGG8,
    Box,
    LeNet5,
    LeNet5DFAL,
    LeNet5DRE,
    PreActResNet,
    ResNet18,
    answers_in,
    largest_leads,
)
from robal.seeds import generator
from small_models import convnet

NETWORKS: list[tuple[Any, tuple[int, int, int]]] = [
    (LeNet5(dropout=0.3, mean=(0.1307,), std=(0.3081,)), (1, 28, 28)),
    (LeNet5DRE(), (1, 32, 32)),
    (LeNet5DFAL(), (1, 28, 28)),
    (VGG8(), (3, 32, 32)),
    (PreActResNet(widths=(4, 8), blocks=1), (3, 16, 16)),
    (ResNet18(), (3, 16, 16)),
]


def a_box(shape: tuple[int, ...], eps: float, count: int = 3) -> Box:
    images = torch.rand(count, *shape, generator=generator(0, "images"))
    return Box((images - eps).clamp(0, 1), (images + eps).clamp(0, 1))


def inside(box: Box, points: int) -> Tensor:
    """[points, B, ...]: images of the box, half of them at corners."""
    share = torch.rand(points, *box.lower.shape, generator=generator(0, "points"))
    share[::2] = share[::2].round()
    return box.lower + share * (box.upper - box.lower)


@pytest.mark.parametrize(("network", "shape"), NETWORKS, ids=lambda part: type(part).__name__)
def test_no_image_of_the_box_is_answered_outside_the_bounds(network: Any, shape: tuple[int, int, int]) -> None:
    model = network(shape, 10, 0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics of its own, as after training
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(generator=generator(0, "mean"))
            layer.running_var.uniform_(0.5, 2.0, generator=generator(0, "variance"))
            nn.init.normal_(layer.weight, generator=generator(0, "scale"))
    model.eval()
    for eps in (0.0, 0.002, 0.1):
        box, labels = a_box(shape, eps), torch.tensor([0, 5, 9])
        with torch.no_grad():
            answers, leads = answers_in(model, box), largest_leads(model, box, labels)
            logits = torch.stack([model(images) for images in inside(box, 6)])
        slack = 1e-4 * (1 + answers.upper.abs() + answers.lower.abs())
        assert bool((logits >= answers.lower - slack).all())
        assert bool((logits <= answers.upper + slack).all())
        of_label = logits.gather(2, labels.expand(6, 3)[..., None])
        assert bool((logits - of_label <= leads + slack).all())
        assert torch.equal(leads.gather(1, labels[:, None]), torch.zeros(3, 1))
        loose = answers.upper - answers.lower.gather(1, labels[:, None])
        assert bool((leads <= loose.scatter(1, labels[:, None], 0.0) + slack).all())
        if eps == 0:
            assert torch.allclose(leads, logits[0] - of_label[0], atol=1e-3, rtol=1e-3)


def test_they_are_exact_for_one_linear_layer_and_found_by_trying_all_corners() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    box, labels = a_box((1, 2, 3), 0.2, count=2), torch.tensor([1, 3])
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).view(-1, 1, 1, 2, 3)
    logits = torch.stack([model(images) for images in box.lower + corners * (box.upper - box.lower)])
    answers, leads = answers_in(model, box), largest_leads(model, box, labels)
    assert torch.allclose(answers.lower, logits.amin(0), atol=1e-6)
    assert torch.allclose(answers.upper, logits.amax(0), atol=1e-6)
    assert torch.allclose(leads, (logits - logits.gather(2, labels.expand(64, 2)[..., None])).amax(0), atol=1e-6)


def test_they_follow_the_formula_through_a_hidden_layer() -> None:
    """As in Gowal et al., equations 6 to 8, written out."""
    one, two = nn.Linear(4, 5), nn.Linear(5, 3)
    box = a_box((1, 2, 2), 0.3)
    low, high = box.lower.flatten(1), box.upper.flatten(1)
    positive, negative = one.weight.clamp_min(0), one.weight.clamp_max(0)
    low, high = (
        F.relu(low @ positive.T + high @ negative.T + one.bias),
        F.relu(high @ positive.T + low @ negative.T + one.bias),
    )
    positive, negative = two.weight.clamp_min(0), two.weight.clamp_max(0)
    answers = answers_in(nn.Sequential(nn.Flatten(), one, nn.ReLU(), two), box)
    assert torch.allclose(answers.lower, low @ positive.T + high @ negative.T + two.bias, atol=1e-6)
    assert torch.allclose(answers.upper, high @ positive.T + low @ negative.T + two.bias, atol=1e-6)


class Own(nn.Module):
    """Operations as people write them in a forward method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))

    def forward(self, inputs: Tensor) -> Tensor:
        active = torch.relu(self.conv((inputs - 0.5) / 0.25) * -2.0)
        active = active + active.relu()
        pooled = F.max_pool2d(active, 2).mean((2, 3))
        answer: Tensor = self.head(pooled.view(pooled.size(0), -1)) * self.scale
        return answer


def test_a_forward_method_of_a_users_own_is_followed() -> None:
    model, box, labels = Own(), a_box((1, 9, 9), 0.1), torch.tensor([0, 1, 2])
    answers, leads = answers_in(model, box), largest_leads(model, box, labels)
    logits = torch.stack([model(images) for images in inside(box, 200)])
    assert bool((logits >= answers.lower - 1e-5).all() and (logits <= answers.upper + 1e-5).all())
    assert bool((logits - logits.gather(2, labels.expand(200, 3)[..., None]) <= leads + 1e-5).all())
    assert torch.equal(leads.gather(1, labels[:, None]), torch.zeros(3, 1))


def test_weights_that_changed_change_the_bounds_and_gradients_reach_them() -> None:
    model, box = convnet(classes=3), a_box((1, 8, 8), 0.1)
    before = largest_leads(model, box, torch.tensor([0, 1, 2]))
    before.sum().backward()
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    assert all(weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in weights)
    with torch.no_grad():
        for weight in weights:
            weight.mul_(0.5)
    after = largest_leads(model, box, torch.tensor([0, 1, 2]))
    assert after.max() < before.max()


class Odd(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1).sin()


class Branching(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) if inputs.sum() > 0 else -inputs.flatten(1)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "Softmax"),
        (nn.Sequential(nn.LeakyReLU(-0.5), nn.Flatten()), "LeakyReLU"),
        (Odd(), "sin"),
        (Branching(), "torch.fx"),
    ],
)
def test_what_has_no_known_bounds_is_named(model: nn.Module, word: str) -> None:
    with pytest.raises(InputError, match=word):
        answers_in(model, a_box((1, 2, 2), 0.1))
