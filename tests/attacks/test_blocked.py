"""Convolution and pooling in one step: the numbers of the three layers, wherever it stands in for them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from robal.attacks import blocked, crafting
from robal.attacks.blocked import Pooled
from robal.networks import Architecture, LeNet5, LeNet5DFAL, LeNet5DRE
from robal.seeds import generator
from small_models import trained_like


def convolution(ins: int = 1, outs: int = 3, *, padding: int = 2, bias: bool = True, whole: bool = False) -> nn.Conv2d:
    """With `whole`, its weights are -1, 0 and 1."""
    draw = generator(0, "convolution")
    conv = nn.Conv2d(ins, outs, 5, padding=padding, bias=bias).requires_grad_(False)
    for tensor in conv.parameters():
        drawn = torch.rand(tensor.shape, generator=draw) - 0.5
        tensor.copy_((3 * drawn).round() if whole else drawn)
    return conv


def layers(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2))


def images(*shape: int, whole: bool = False) -> Tensor:
    drawn = torch.rand(shape, generator=generator(0, "images"))
    return (2 * drawn).round() if whole else drawn


def answer_and_gradient(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = inputs.detach().requires_grad_()
    answer = module(leaf)
    weights = torch.randint(-3, 4, answer.shape, generator=generator(0, "weights")).float()
    return answer.detach(), torch.autograd.grad((answer * weights).sum(), leaf)[0]


def count(module: nn.Module) -> int:
    return sum(type(layer) is Pooled for layer in module.modules())


def used(module: nn.Module, inputs: Tensor) -> bool:
    """Whether the answer comes from the one step and not from the three layers."""
    return "Blocked" in type(module(inputs.detach().requires_grad_()).grad_fn).__name__


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("ins", "outs", "high", "wide"), [(1, 3, 12, 12), (3, 2, 9, 12), (2, 5, 8, 11), (1, 1, 7, 7)])
def test_answers_and_gradients_are_those_of_the_three_layers_to_the_bit_also_where_pixels_are_equal(
    ins: int, outs: int, high: int, wide: int, padding: int
) -> None:
    """Whole numbers leave nothing to round, and a window's largest value is often there twice."""
    conv = convolution(ins, outs, padding=padding, whole=True)
    inputs = images(17, ins, high, wide, whole=True)
    windows = F.unfold(conv(inputs).flatten(0, 1)[:, None], 2, stride=2)
    assert ((windows == windows.amax(1, keepdim=True)).sum(1) > 1).float().mean() > 0.05
    got, wanted = answer_and_gradient(Pooled(conv), inputs), answer_and_gradient(layers(conv), inputs)
    assert used(Pooled(conv), inputs)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("bias", [True, False])
def test_answers_and_gradients_are_those_of_the_three_layers_up_to_rounding(bias: bool) -> None:
    conv = convolution(3, 6, bias=bias)
    inputs = images(20, 3, 16, 16)
    got, wanted = answer_and_gradient(Pooled(conv), inputs), answer_and_gradient(layers(conv), inputs)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(Pooled(conv)(inputs), got[0])


@pytest.mark.parametrize("rows", [1, 2, 4, 100])
def test_few_rows_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    conv = convolution(whole=True)
    inputs = images(16, 1, 14, 12, whole=True)
    wanted = answer_and_gradient(layers(conv), inputs)
    monkeypatch.setattr(blocked, "_PATCHES", rows * 36 * 6 * 16)
    got = answer_and_gradient(Pooled(conv), inputs)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0), (3, 2, 1, 0)])
def test_it_takes_any_layout_and_gives_the_gradient_contiguous_or_batch_last(order: tuple[int, ...]) -> None:
    conv = convolution(2, 3, whole=True)
    inputs = images(16, 2, 12, 12, whole=True)
    back = [order.index(axis) for axis in range(4)]
    lying = inputs.permute(order).contiguous().permute(back)
    got, wanted = answer_and_gradient(Pooled(conv), lying), answer_and_gradient(layers(conv), inputs)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])
    batch_last = order == (1, 2, 3, 0)
    assert got[1].is_contiguous() is not batch_last
    assert got[1].permute(1, 2, 3, 0).is_contiguous() is batch_last


def test_few_images_and_weights_that_learn_get_the_three_layers() -> None:
    conv = convolution()
    assert used(Pooled(conv), images(16, 1, 8, 8))
    assert not used(Pooled(conv), images(15, 1, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not used(Pooled(conv), images(16, 1, 8, 8))
    conv.requires_grad_()
    Pooled(conv)(images(16, 1, 8, 8)).sum().backward()
    assert conv.weight.grad is not None


def test_gradients_of_gradients_batched_ones_and_torch_func_work() -> None:
    conv = convolution()
    inputs = images(16, 1, 8, 8)

    def square(module: nn.Module, leaf: Tensor) -> Tensor:
        return module(leaf).square().sum()

    found = []
    for module in (Pooled(conv), layers(conv)):
        leaf = inputs.clone().requires_grad_()
        (first,) = torch.autograd.grad(square(module, leaf), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        answer = module(leaf)
        rows = torch.eye(answer.numel())[:5].view(5, *answer.shape)
        (batched,) = torch.autograd.grad(answer, leaf, rows, is_grads_batched=True)
        functional = torch.func.grad(lambda moved, module=module: square(module, moved))(inputs)
        found.append((first.detach(), second, batched, functional))
    for got, wanted in zip(*found, strict=True):
        assert wanted.abs().sum() > 0
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [LeNet5(), LeNet5(dropout=0.2), LeNet5DRE(), LeNet5DFAL()], ids=str)
def test_the_twins_of_the_lenets_pool_in_one_step_and_give_the_gradients_of_the_model(network: Architecture) -> None:
    shape = (1, 32, 32) if isinstance(network, LeNet5DRE) else (1, 28, 28)
    model = trained_like(network(shape, 10, seed=0)).eval()
    inputs = images(24, *shape)
    with crafting(model, inputs) as twin:
        assert count(twin) == 2
        got, wanted = answer_and_gradient(twin, inputs), answer_and_gradient(model, inputs)
    assert (got[0] - wanted[0]).norm() <= 1e-5 * wanted[0].norm()
    assert (got[1] - wanted[1]).norm() <= 1e-5 * wanted[1].norm()
    assert got[1].is_contiguous()


def test_a_blocked_twin_follows_the_training() -> None:
    model = LeNet5()((1, 28, 28), 10, seed=0)
    inputs = images(24, 1, 28, 28)
    with crafting(model, inputs) as first:
        pass
    model.load_state_dict(LeNet5()((1, 28, 28), 10, seed=1).state_dict())
    with crafting(model, inputs) as twin:
        assert twin is first
        torch.testing.assert_close(twin(inputs), model(inputs))
    torch.testing.assert_close(copy.deepcopy(twin)(inputs), model(inputs))


def test_a_blocked_twin_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LeNet5()((1, 28, 28), 10, seed=0)
    corners = blocked._corners
    with monkeypatch.context() as broken:
        broken.setattr(blocked, "_corners", lambda weight: corners(weight).flip(1))
        with crafting(model, images(24, 1, 28, 28)) as twin:
            assert twin is model
    with crafting(model, images(24, 1, 28, 28)) as twin:
        assert twin is not model


class Functional(nn.Module):
    """As the tutorials write it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.conv = form, convolution()

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs)
        forms: dict[str, Any] = {
            "F": lambda: F.max_pool2d(F.relu(maps), 2),
            "pair": lambda: F.max_pool2d(F.relu(maps), (2, 2)),
            "torch": lambda: torch.relu(torch.max_pool2d(maps, 2, 2)),
            "method": lambda: F.max_pool2d(maps, kernel_size=2, stride=2).relu(),
            "wider": lambda: F.max_pool2d(F.relu(maps), 3),
            "denser": lambda: F.max_pool2d(F.relu(maps), 2, 1),
            "padded": lambda: F.max_pool2d(F.relu(maps), 2, padding=1),
            "ceil": lambda: F.max_pool2d(F.relu(maps), 2, ceil_mode=True),
            "mean": lambda: F.avg_pool2d(F.relu(maps), 2),
            "tanh": lambda: F.max_pool2d(maps.tanh(), 2),
            "forked": lambda: F.max_pool2d(F.relu(maps), 2) + maps[:, :, ::2, ::2],
            "twice": lambda: F.max_pool2d(F.relu(maps), 2) + F.max_pool2d(F.relu(self.conv(inputs + 1)), 2),
        }
        return forms[self.form]().flatten(1)


@pytest.mark.parametrize(
    ("form", "times"),
    [("F", 1), ("pair", 1), ("torch", 1), ("method", 1)]
    + [(form, 0) for form in ("wider", "denser", "padded", "ceil", "mean", "tanh", "forked", "twice")],
)
def test_functions_are_known_by_what_they_do(form: str, times: int) -> None:
    model, inputs = Functional(form), images(16, 1, 12, 12)
    with crafting(model, inputs) as twin:
        assert twin is not model
        assert count(twin) == times
        torch.testing.assert_close(twin(inputs), model(inputs))


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_size": 3},
        {"stride": 2},
        {"dilation": 2},
        {"padding": (1, 2)},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 3},
        {"in_channels": 6},
        {"out_channels": 15},
    ],
    ids=str,
)
def test_convolutions_for_which_it_is_not_made_or_does_not_pay_stay(changes: dict[str, Any]) -> None:
    conv: dict[str, Any] = {"in_channels": 3, "out_channels": 6, "kernel_size": 5} | changes
    model = nn.Sequential(nn.Conv2d(**conv), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    inputs = images(16, conv["in_channels"], 16, 16)
    with crafting(model, inputs) as twin:
        assert twin is not model
        assert count(twin) == 0


def test_a_convolution_whose_weight_a_hook_makes_stays() -> None:
    conv = prune.random_unstructured(convolution(), "weight", 0.5)
    inputs = images(16, 1, 12, 12)
    with crafting(nn.Sequential(layers(conv), nn.Flatten()), inputs) as twin:
        assert count(twin) == 0
