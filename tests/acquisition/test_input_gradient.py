"""The images of low input gradient, in the eyes of one model and of several."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.acquisition.acquisition import select
from robal.acquisition.input_gradient import LowInputGradient
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import condition, convnet, linear


def scores_of(model: nn.Module, images: Tensor, classes: int, *snapshots: nn.Module) -> Tensor:
    pool = Pool.unlabelled(InMemory(images), [str(number) for number in range(classes)])
    states = tuple(snapshot.state_dict() for snapshot in snapshots)
    with torch.no_grad():
        return LowInputGradient()(Candidates(model, pool, pool.candidates, snapshots=states), generator(0))


def norms(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """By a backward pass an image."""
    found = []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        leaf = image.clone().requires_grad_()
        found.append(torch.autograd.grad(F.cross_entropy(model(leaf), label), leaf)[0].norm().double())
    return torch.stack(found)


def test_of_a_linear_model_it_is_by_hand() -> None:
    """Logits (4x, 0) at x = ½: ŷ = 1, the gradient is -p_2 · 4 with p_2 = 1 / (1 + e²)."""
    model, images = linear([[4.0], [0.0]]), torch.tensor([0.5, 1.0, 0.0])[:, None, None, None]
    scores = scores_of(model, images, 2)
    wanted = [-4 / (1 + math.exp(4 * x)) for x in (0.5, 1.0, 0.0)]
    assert scores.tolist() == pytest.approx(wanted)
    assert select(LowInputGradient(), model, images, 3).tolist() == [1, 0, 2]


def test_the_present_model_says_the_class_and_the_snapshots_are_averaged() -> None:
    """A snapshot (0, 4x) at x = ½ finds class 1 unlikely: its gradient is 4 / (1 + e⁻²), and ½ of the two counts."""
    model, snapshot = linear([[4.0], [0.0]]), linear([[0.0], [4.0]])
    image = torch.tensor([0.5])[:, None, None, None]
    now, then = 4 / (1 + math.exp(2)), 4 / (1 + math.exp(-2))
    assert scores_of(model, image, 2, model).tolist() == pytest.approx([-now])
    assert scores_of(model, image, 2, snapshot).tolist() == pytest.approx([-then])
    assert scores_of(model, image, 2, snapshot, model).tolist() == pytest.approx([-(now + then) / 2])


def test_it_is_the_mean_of_gradients_one_by_one() -> None:
    model, first, second = (convnet(4, seed).eval() for seed in range(3))
    images = torch.rand(150, 1, 8, 8, generator=generator(0, "images"))
    labels = model(images).argmax(1)
    assert not torch.equal(labels, first(images).argmax(1))
    wanted = -(norms(first, images, labels) + norms(second, images, labels)) / 2
    torch.testing.assert_close(scores_of(model, images, 4, first, second), wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(scores_of(model, images, 4), -norms(model, images, labels), rtol=1e-4, atol=0)
    states = [first.state_dict(), second.state_dict()]
    chosen = select(LowInputGradient(), model, images, 40, snapshots=states)
    assert chosen.tolist() == wanted.argsort(descending=True)[:40].tolist()
    for tile in (1, 7, 50):
        again = select(LowInputGradient(), model, images, 40, snapshots=states, engine=Local(tile))
        assert torch.equal(again, chosen)


def test_certain_images_are_still_told_apart() -> None:
    """p - 1 rounds to 0 in float32 from a gap of 17 on; the surer image comes first all the same."""
    model = linear([[100.0], [0.0]])
    images = torch.tensor([0.3, 0.5, 0.9, 0.4])[:, None, None, None]
    assert select(LowInputGradient(), model, images, 4).tolist() == [2, 1, 3, 0]
    assert scores_of(model, images, 2)[2].item() == pytest.approx(-100 * math.exp(-90), rel=1e-4, abs=0)


def test_what_the_model_learned_well_comes_first(lenet: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    """Of the digits that it has not seen, the first hundred are right more often than the others."""
    images, labels = digits[0][1000:], digits[1][1000:]
    with torch.no_grad():
        right = lenet(images.float() / 255).argmax(1) == labels
    assert not right.all()
    assert right[select(LowInputGradient(), lenet, images, 100)].all()


@pytest.mark.parametrize("n", [1, 6])
def test_identical_images_come_by_their_index(n: int) -> None:
    assert select(LowInputGradient(), convnet(), torch.full((6, 1, 8, 8), 0.5), n).tolist() == list(range(n))


def test_the_model_and_its_snapshots_are_left_as_they_were() -> None:
    model = convnet().train()
    snapshot = copy.deepcopy(convnet(seed=1).state_dict())
    kept, before = copy.deepcopy(snapshot), condition(model)
    select(LowInputGradient(), model, torch.rand(9, 1, 8, 8, generator=generator(0)), 4, snapshots=[snapshot])
    assert condition(model) == before
    assert all(torch.equal(kept[name], tensor) for name, tensor in snapshot.items())


def test_a_model_that_normalises_its_images_in_place_is_the_same() -> None:
    class Shift(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.in_place = in_place

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.sub_(0.5).div_(0.25) if self.in_place else (inputs - 0.5) / 0.25

    images = torch.rand(20, 1, 8, 8, generator=generator(0))
    models = {in_place: nn.Sequential(Shift(in_place), convnet()).eval() for in_place in (False, True)}
    snapshots = [nn.Sequential(nn.Identity(), convnet(seed=1))]
    wanted = scores_of(models[False], images, 4, *snapshots)
    assert torch.equal(scores_of(models[True], images, 4, *snapshots), wanted)
    assert torch.equal(scores_of(models[True], images, 4), scores_of(models[False], images, 4))


def test_a_model_without_gradients_is_refused_and_not_asked_in_vain() -> None:
    class Detaching(nn.Flatten):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs.detach())

    with pytest.raises(InputError, match="of Detaching do not follow from the images by autograd"):
        select(LowInputGradient(), Detaching(), torch.rand(9, 3, 1, 1, generator=generator(0)), 4)


def test_a_model_that_returns_probabilities_is_refused() -> None:
    model = nn.Sequential(linear([[3.0], [0.0]]), nn.Softmax(1))
    with pytest.raises(ContractError, match="the model ends in a softmax"):
        select(LowInputGradient(), model, torch.rand(9, 1, 1, 1, generator=generator(0)), 4)
