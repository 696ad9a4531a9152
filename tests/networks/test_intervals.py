"""Interval bounds: what the logits of any network of known layers can be over a box of images."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.networks import (
    VGG8,
    VGG8DFAL,
    VGG16,
    LeNet5,
    LeNet5DFAL,
    LeNet5DRE,
    PreActResNet,
    PreActResNet18,
    ResNet18,
    interval_bounds,
)
from robal.networks.building import Architecture
from robal.seeds import generator
from small_models import Viewing, convnet, trained_like


def around(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    images = images.double()
    return (images - eps).clamp(min=0), (images + eps).clamp(max=1)


def two_layers() -> nn.Sequential:
    """z_0 = 2a + b, z_1 = a - b + 1 with a = relu(x_0 - x_1), b = relu(x_0 + x_1 - 1)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    for layer, weight, bias in (
        (model[1], [[1.0, -1.0], [1.0, 1.0]], [0.0, -1.0]),
        (model[3], [[2.0, 1.0], [1.0, -1.0]], [0.0, 1.0]),
    ):
        layer.weight.data.copy_(torch.tensor(weight))
        layer.bias.data.copy_(torch.tensor(bias))
    return model


def test_the_bounds_of_two_layers_by_hand() -> None:
    """x in [0.5, 0.75] × [0.25, 0.5]: a in [0, 0.5], b in [0, 0.25]; z_0 - z_1 = a + 2b - 1."""
    low, high = torch.tensor([[0.5, 0.25]]).view(1, 1, 1, 2), torch.tensor([[0.75, 0.5]]).view(1, 1, 1, 2)
    for label, margins in ((0, [0.0, -1.0]), (1, [0.0, 0.0])):
        bounds = interval_bounds(two_layers(), low, high, torch.tensor([label]))
        assert bounds.low.tolist() == [[0.0, 0.75]]
        assert bounds.high.tolist() == [[1.25, 1.5]]
        assert bounds.margins.tolist() == [margins]  # z_1 - z_0 ≥ 1 - 0.5 - 2 · 0.25 = 0; without elision -0.5


def test_without_a_linear_layer_at_the_end_margins_are_those_of_the_logits() -> None:
    model = nn.Sequential(two_layers(), nn.ReLU())
    low, high = torch.tensor([[0.5, 0.25]]).view(1, 1, 1, 2), torch.tensor([[0.75, 0.5]]).view(1, 1, 1, 2)
    assert interval_bounds(model, low, high, torch.tensor([1])).margins.tolist() == [[0.75 - 1.25, 0.0]]


def test_a_negative_scale_turns_the_ends_round_and_a_layer_that_writes_leaves_the_box_alone() -> None:
    """relu, then 1 - 2 (x - 0.5) = 2 - 2x: [-0.25, 0.5] comes to [1, 2], and [0.5, 0.75] to [0.5, 1]."""
    norm = nn.BatchNorm2d(1, eps=0.0)
    for tensor, value in ((norm.running_mean, 0.5), (norm.running_var, 1.0), (norm.weight, -2.0), (norm.bias, 1.0)):
        assert tensor is not None
        tensor.data.fill_(value)
    low, high = torch.tensor([[[[-0.25, 0.5]]]]), torch.tensor([[[[0.5, 0.75]]]])
    model = nn.Sequential(nn.ReLU(inplace=True), norm, nn.Flatten())
    bounds = interval_bounds(model, low, high, torch.tensor([0]))
    assert bounds.low.tolist() == [[1.0, 0.5]]
    assert bounds.high.tolist() == [[2.0, 1.0]]
    assert low.tolist() == [[[[-0.25, 0.5]]]]


def test_for_a_linear_model_the_bounds_are_the_extremes_over_all_corners() -> None:
    """In a linear model each logit, and each margin, is smallest and largest at a corner of the box."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    image = torch.rand(1, 1, 2, 3, generator=generator(0), dtype=torch.float64)
    low, high = around(image, 0.2)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).view(-1, 1, 2, 3)
    with torch.no_grad():
        logits = model.eval()(low + corners * (high - low))
        bounds = interval_bounds(model, low, high, torch.tensor([2]))
    torch.testing.assert_close(bounds.margins[0], (logits[:, 2:] - logits).amin(0), rtol=0, atol=1e-12)
    one = nn.Sequential(model[0], model[1])
    with torch.no_grad():
        logits, bounds = one(low + corners * (high - low)), interval_bounds(one, low, high, torch.tensor([0]))
    torch.testing.assert_close(bounds.low[0], logits.amin(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(bounds.high[0], logits.amax(0), rtol=0, atol=1e-12)


NETWORKS: list[tuple[Architecture, tuple[int, int, int], float]] = [
    (LeNet5(mean=(0.3,), std=(0.2,), dropout=0.2), (1, 28, 28), 0.01),
    (LeNet5DRE(dropout=0.2), (1, 32, 32), 0.01),
    (LeNet5DFAL(), (1, 28, 28), 0.01),
    (VGG8(mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4)), (3, 16, 16), 0.003),
    (VGG8DFAL(), (1, 16, 16), 0.003),
    (VGG16(), (3, 32, 32), 0.001),
    (ResNet18(mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4)), (3, 16, 16), 0.001),
    (PreActResNet18(dropout=0.1), (3, 16, 16), 0.001),
    (PreActResNet(mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4)), (3, 16, 16), 0.001),
]


@pytest.mark.parametrize(("architecture", "shape", "eps"), NETWORKS, ids=[type(part[0]).__name__ for part in NETWORKS])
def test_every_shipped_network_stays_within_its_bounds(
    architecture: Architecture, shape: tuple[int, int, int], eps: float
) -> None:
    """At radius 0 the bounds are the logits; above it random points, corners and attacks stay between them."""
    model = trained_like(architecture(shape, 5, 0)).eval().requires_grad_(False)
    draw = generator(0, "network")
    image = torch.rand(1, *shape, generator=draw)
    label = torch.tensor([3])
    alone = interval_bounds(model, image.double(), image.double(), label)
    logits = model(image).double()
    scale = float(logits.abs().max())
    torch.testing.assert_close(alone.low, logits, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(alone.high, alone.low, rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(alone.margins, logits[:, 3:4] - logits, rtol=0, atol=1e-4 * scale)
    low, high = around(image, eps)
    bounds = interval_bounds(model, low, high, label)
    share = torch.rand(8, *shape, generator=draw, dtype=torch.float64)
    points = low + (high - low) * torch.cat([share, share.round()])
    reached = model(points.float()).double()
    assert (reached >= bounds.low - 1e-5 * scale).all()
    assert (reached <= bounds.high + 1e-5 * scale).all()
    assert (reached[:, 3:4] - reached >= bounds.margins - 1e-5 * scale).all()
    assert (bounds.margins >= (bounds.low[:, 3:4] - bounds.high).scatter(1, label[:, None], 0) - 1e-9 * scale).all()
    assert bounds.margins.isfinite().all()


class Residual(nn.Module):
    """Functions and methods in place of layers, one layer twice, ReLU in place, an addition that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.relu(self.conv(inputs))
        maps = maps + self.again(F.relu(self.again(maps)))
        maps += maps.relu()
        maps = F.max_pool2d(maps, 2)
        maps = F.adaptive_avg_pool2d(torch.relu(maps), 2)
        return self.head(torch.flatten(maps.reshape(maps.shape[0], 4, -1), 1))


@pytest.mark.parametrize("make", [Residual, Viewing, convnet, lambda: Residual().eval()])
def test_a_thousand_points_of_each_ball_stay_within_the_bounds(make: type[nn.Module]) -> None:
    model = trained_like(make()).eval().requires_grad_(False)
    images = torch.rand(3, 1, 8, 8, generator=generator(0))
    low, high = around(images, 0.1)
    labels = torch.tensor([0, 1, 3])
    kept = low.clone(), high.clone()
    bounds = interval_bounds(model, low, high, labels)
    assert torch.equal(low, kept[0])
    assert torch.equal(high, kept[1])
    draw = generator(0, "points")
    for number in range(10):
        share = torch.rand(100, 1, 8, 8, generator=draw, dtype=torch.float64)
        share = share.round() if number % 2 else share
        for one in range(3):
            reached = model((low[one] + (high - low)[one] * share).float()).double()
            assert (reached >= bounds.low[one] - 1e-5).all()
            assert (reached <= bounds.high[one] + 1e-5).all()
            assert (reached[:, labels[one], None] - reached >= bounds.margins[one] - 1e-5).all()
