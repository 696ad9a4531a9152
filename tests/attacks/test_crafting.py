"""The twin that attacks see: as good as the model, never a different one."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, crafting, perturb
from robal.networks import Architecture, PreActResNet
from robal.plans import known
from robal.seeds import generator
from robal.threats import Linf
from small_models import condition, convnet, trained_like

NETWORKS = known(Architecture)
SHAPES = {"LeNet5": (1, 28, 28), "LeNet5DRE": (1, 32, 32), "LeNet5DFAL": (1, 28, 28), "VGG8DFAL": (1, 28, 28)}
PROBE = torch.rand(6, 1, 8, 8, generator=generator(0, "probe"))


@torch.no_grad()
def settled(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The model itself, with weights of BatchNorm that are not 0 and 1 and the statistics that go with them."""
    trained_like(model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    model.train()(torch.rand(8, *shape, generator=generator(1, "settling")))
    return model


@torch.no_grad()
def agree(model: nn.Module, twin: nn.Module, inputs: Tensor = PROBE, tolerance: float = 1e-4) -> bool:
    """Whether both give the same logits, within `tolerance` of their size."""
    wanted = copy.deepcopy(model).eval()(inputs)
    return bool((twin(inputs) - wanted).abs().max() <= tolerance * wanted.abs().max().clamp_min(1.0))


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"Custom", "Timm"}))
def test_every_exported_network_has_a_twin_that_agrees_with_it(name: str) -> None:
    shape = SHAPES.get(name, (3, 32, 32))
    model = settled(NETWORKS[name]()(shape, 10, seed=0), shape)
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    inputs = torch.rand(6, *shape, generator=generator(0, "probe"))
    with crafting(model, inputs) as twin:
        assert twin is not model
        assert agree(model, twin, inputs)
        left = sum(isinstance(layer, nn.BatchNorm2d) for layer in twin.modules())
        assert left < norms or norms == 0
        gradients = []
        for module in (twin, model):
            moved = inputs.clone().requires_grad_()
            gradients.append(torch.autograd.grad(module(moved).square().sum(), moved)[0])
        # Rounding lets a ReLU here and there stand on the other side, and no more.
        assert (F.cosine_similarity(*(gradient.flatten(1) for gradient in gradients)) > 0.99).all()


def test_the_twin_has_the_batchnorm_in_its_convolution() -> None:
    """By hand: weight 3, running mean 1, variance 4 - eps, scale 2, shift 5: y = 2 (3 x - 1) / 2 + 5 = 3 x + 4."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Flatten())
    conv, norm = model[0], model[1]
    conv.weight.data.fill_(3.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0 - norm.eps)
    norm.weight.data.fill_(2.0)
    norm.bias.data.fill_(5.0)
    with crafting(model, torch.rand(2, 1, 2, 2)) as twin:
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in twin.modules())
        torch.testing.assert_close(twin(torch.tensor([[[[0.0, 0.5]]]])), torch.tensor([[4.0, 5.5]]))


def test_a_preactivation_twin_keeps_the_batchnorm_of_sums_and_folds_the_one_between_convolutions() -> None:
    """Three blocks: the second BatchNorm of each follows a convolution; the first of each, and the last, do not."""
    model = settled(PreActResNet((4, 8, 8))((3, 16, 16), 5, seed=0), (3, 16, 16))
    inputs = torch.rand(6, 3, 16, 16, generator=generator(0, "probe"))
    with crafting(model, inputs) as twin:
        left = [name for name, layer in twin.named_modules() if isinstance(layer, nn.BatchNorm2d)]
        assert left == ["group1.0.bn1", "group2.0.bn1", "group3.0.bn1", "bn"]
        assert agree(model, twin, inputs, tolerance=1e-5)


def test_the_twin_follows_the_training() -> None:
    model = convnet().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    with crafting(model, PROBE) as first:
        assert agree(model, first)
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(model(PROBE), torch.tensor([0, 1, 2, 3, 0, 1])).backward()
        optimiser.step()
        with crafting(model, PROBE) as twin:
            assert twin is first  # traced once
            assert agree(model, twin)
    model.load_state_dict(convnet(seed=5).state_dict())
    with crafting(model, PROBE) as twin:
        assert agree(model, twin)
        assert agree(convnet(seed=5), twin)


def test_no_parameter_of_the_twin_asks_for_a_gradient() -> None:
    with crafting(convnet().train(), PROBE) as twin:
        assert not twin.training
        assert not any(parameter.requires_grad for parameter in twin.parameters())


class Branching(nn.Module):
    """Decides by its inputs' values, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = convnet()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs) if inputs.sum() > 0 else self.inner(-inputs)


class Noisy(Branching):
    """Draws anew each time."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(F.dropout(inputs, 0.5, training=True))


class Scaled(Branching):
    """Depends on a number that is no tensor."""

    scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs) * self.scale


@pytest.mark.parametrize("kind", [Branching, Noisy, Scaled])
def test_a_model_whose_twin_would_answer_differently_is_attacked_itself(kind: type[nn.Module]) -> None:
    model = kind().train()
    if isinstance(model, Scaled):
        with crafting(model, PROBE) as twin:
            assert twin is not model
        model.scale = 2.0
    before = condition(model)
    with crafting(model, PROBE) as seen:
        assert seen is model
        assert not any(module.training for module in seen.modules())
        assert not any(parameter.requires_grad for parameter in seen.parameters())
    assert condition(model) == before
    moved = perturb(PGD(steps=2, threat=Linf(0.1)), model, PROBE, torch.zeros(6, dtype=torch.int64), generator(0))
    assert not torch.equal(moved, PROBE)


def test_a_twin_whose_model_got_another_head_is_made_anew() -> None:
    model = convnet(classes=4)
    with crafting(model, PROBE) as twin:
        assert twin(PROBE).shape == (6, 4)
    model[5] = nn.Linear(model[5].in_features, 3)
    with crafting(model, PROBE) as twin:
        assert twin(PROBE).shape == (6, 3)
        assert agree(model, twin)


class Shared(nn.Module):
    """One BatchNorm after two convolutions: folding it into either would be wrong for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(inputs)))).flatten(1)


class Twice(Shared):
    """One convolution used twice, of which one use is followed by BatchNorm."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.norm(self.second(self.first(inputs)))).flatten(1)


@pytest.mark.parametrize("kind", [Shared, Twice])
def test_layers_used_twice_give_the_right_logits(kind: type[nn.Module]) -> None:
    model = trained_like(kind())
    with crafting(model, PROBE) as seen:
        assert agree(model, seen)


def test_a_batchnorm_whose_input_is_used_elsewhere_stays() -> None:
    class Forked(Shared):
        def forward(self, inputs: Tensor) -> Tensor:
            between = self.first(inputs)
            return (self.norm(between) + between).flatten(1)

    model = trained_like(Forked())
    with crafting(model, PROBE) as twin:
        assert twin is not model
        assert agree(model, twin)


def test_the_twin_keeps_nothing_of_the_model_alive() -> None:
    model = convnet()
    gone = weakref.ref(model)
    weight = weakref.ref(model[0].weight)
    with crafting(model, PROBE) as twin:
        pass
    copied = copy.deepcopy(twin)
    del model
    gc.collect()
    assert gone() is None
    assert weight() is None
    assert agree(convnet(), twin)
    assert agree(convnet(), copied)


class Rounds(torch.autograd.Function):
    """Rounding whose gradient is that of no rounding (straight through)."""

    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        return (inputs * 3).round() / 3

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


class StraightThrough(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(Rounds.apply(inputs))


class Hidden(nn.Module):
    """Half of what it says hangs on no gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            half = self.inner(inputs)
        return half + self.inner(1 - inputs)


class Switched(nn.Module):
    """Says the same whatever `hides_its_gradient` is; the gradient is another."""

    hides_its_gradient = False

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        half = inputs / 2
        return self.inner(half + (half.detach() if self.hides_its_gradient else half))


def test_a_model_that_hides_its_gradient_later_is_attacked_itself_from_then_on() -> None:
    model = Switched(convnet()).eval()
    with crafting(model, PROBE) as twin:
        assert twin is not model
    model.hides_its_gradient = True
    with crafting(model, PROBE) as seen:
        assert seen is model
    model.hides_its_gradient = False
    with crafting(model, PROBE) as twin:
        assert twin is not model


@pytest.mark.parametrize("kind", [StraightThrough, Hidden])
def test_a_model_with_gradients_of_its_own_is_attacked_itself(
    kind: Any, lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    model = kind(lenet).eval()
    inputs, labels = unseen[0][:20], unseen[1][:20]
    with crafting(model, inputs) as twin:
        assert twin is model
    attack = PGD(steps=5, random_start=False, threat=Linf(0.1))
    moved = perturb(attack, model, inputs, labels, torch.Generator())
    bare = attack(model, inputs, labels, torch.Generator())
    torch.testing.assert_close(moved, bare)
