"""BALD and DropOutEntropy: the formula of the passes, without the passes in memory."""

from __future__ import annotations

import math
import pickle
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import bayesian
from robal.acquisition.acquisition import select
from robal.acquisition.bayesian import BALD, DropOutEntropy, Entropies
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.networks import VGG16, DropoutPasses, LeNet5, frozen
from robal.pool import Pool
from robal.scores.bayesian import bald, dropout_entropy
from robal.scores.uncertainty import entropy
from robal.seeds import drawn, generator
from small_models import Stated, condition, convnet, stated

BOTH = pytest.mark.parametrize("kind", [BALD, DropOutEntropy])
PIXELS = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "pixels"))


def candidates(model: nn.Module, pixels: Tensor = PIXELS, classes: int = 4, tile: int = 128) -> Candidates:
    pool = Pool.unlabelled(InMemory(pixels), tuple(str(number) for number in range(classes)))
    return Candidates(model, pool, pool.candidates, Local(tile))


def scored(method: Any, seen: Candidates, seed: int = 0) -> Tensor:
    with frozen(seen.model), torch.no_grad():
        return method(seen, generator(seed, "scored"))


def passes(model: nn.Module, pixels: Tensor, count: int, rate: float = 0.1) -> Tensor:
    """[N, T, C], with the masks that the components draw from `scored`'s generator."""
    seed = drawn(generator(0, "scored"))
    images = pixels.float() / 255
    with frozen(model), torch.no_grad():
        logits = torch.stack(list(DropoutPasses(model, images, rate)(images, count, seed)), 1)
    return logits.double().softmax(2)


@BOTH
@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("dropout", ["put in", "own"])
def test_the_scores_are_the_formula_of_the_passes(
    kind: Any, count: int, dropout: str, lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    model = lenet
    if dropout == "own":
        model = LeNet5(dropout=0.3)((1, 28, 28), 10, 0)
        model.load_state_dict(lenet.state_dict())
    pixels = digits[0][1000:1150]
    formula = bald if kind is BALD else dropout_entropy
    got = scored(kind(passes=count), candidates(model, pixels, classes=10))
    torch.testing.assert_close(got, formula(passes(model, pixels, count)), atol=1e-6, rtol=0)
    assert got.max() > 0.001


def test_bald_by_hand() -> None:
    """One pixel is kept: sure of class 0. It is dropped, in k of T passes: (1/2, 1/2)."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1, 2, bias=False))
    model[2].weight = nn.Parameter(torch.tensor([[50.0], [-50.0]]))
    pixels = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    share = float((passes(model, pixels, 8)[0, :, 1] == 0.5).float().mean())
    assert 0 < share < 1
    mean = [1 - share / 2, share / 2]
    wanted = -sum(p * math.log(p) for p in mean)
    seen = candidates(model, pixels, classes=2)
    assert float(scored(DropOutEntropy(passes=8), seen)) == pytest.approx(wanted)
    assert float(scored(BALD(passes=8), seen)) == pytest.approx(wanted - share * math.log(2))


@BOTH
def test_scores_do_not_depend_on_the_tile(kind: Any) -> None:
    for model in (convnet(), Stated()):
        pixels = PIXELS if isinstance(model, nn.Sequential) else stated(torch.eye(4).repeat(10, 1))
        wanted = scored(kind(), candidates(model, pixels))
        for tile in (1, 7):
            torch.testing.assert_close(scored(kind(), candidates(model, pixels, tile=tile)), wanted, atol=1e-6, rtol=0)


def test_without_noise_it_is_the_entropy_and_nothing_to_learn() -> None:
    model = convnet(dropout=1e-12)
    seen = candidates(model)
    with frozen(model):
        wanted = entropy(seen.probs)
    torch.testing.assert_close(scored(DropOutEntropy(passes=3), seen).float(), wanted)
    nothing = scored(BALD(passes=3), seen)
    assert (nothing >= 0).all()
    assert (nothing < 1e-12).all()


def test_the_rate_is_for_networks_without_dropout_of_their_own() -> None:
    own, without = candidates(convnet(dropout=0.2)), candidates(convnet(dropout=0.0))
    assert torch.equal(scored(BALD(rate=0.5), own), scored(BALD(rate=0.1), own))
    assert scored(BALD(rate=0.5), without).mean() > 2 * scored(BALD(rate=0.1), without).mean()


def test_where_dropout_is_put_is_said_once_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(bayesian, "say", said.append)
    scored(BALD(), candidates(convnet(dropout=0.2), tile=7))
    assert said == []
    scored(BALD(rate=0.25), candidates(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), tile=7))
    assert said == ["the model has no dropout: rate 0.25 is put before 1"]


def test_vgg16_has_something_to_say() -> None:
    """In the DRE study's code its dropout had no effect, and every image scored 0."""
    pixels = torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8, generator=generator(0, "vgg"))
    scores = scored(BALD(passes=2), candidates(VGG16()((1, 32, 32), 4, 0), pixels, tile=3))
    assert (scores > 0).all()


def test_a_blend_of_two_digits_scores_higher_than_either(lenet: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][1000:], digits[1][1000:]
    ones, eights = (images[labels == digit][:40].float() for digit in (0, 7))
    rows = torch.cat([ones, eights, (ones + eights) / 2]).to(torch.uint8)
    for method in (BALD(), DropOutEntropy()):
        of_ones, of_eights, of_blends = scored(method, candidates(lenet, rows, classes=10)).split(40)
        assert of_blends.median() > 3 * max(of_ones.median(), of_eights.median())


def test_no_more_than_two_passes_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass, which is looked at for being logits, the one at hand, and the one being replaced."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = []
    inner = DropoutPasses.__call__

    def watched(self: DropoutPasses, images: Tensor, passes: int, seed: int) -> Iterator[Tensor]:
        for logits in inner(self, images, passes, seed):
            alive.add(logits)
            most.append(len(alive))
            yield logits
            del logits

    monkeypatch.setattr(DropoutPasses, "__call__", watched)
    scored(BALD(passes=30), candidates(convnet()))
    assert len(most) >= 30
    assert max(most) <= 4


@BOTH
def test_the_choice_follows_the_generator_alone_and_the_model_is_unchanged(kind: Any) -> None:
    model = convnet(dropout=0.5).train()
    before, state, kept = condition(model), torch.get_rng_state(), PIXELS.clone()
    first, same, other = (select(kind(), model, PIXELS, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert condition(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(PIXELS, kept)


@BOTH
def test_equal_images_score_equally_and_the_first_are_chosen(kind: Any) -> None:
    same = PIXELS[:1].expand(30, 1, 8, 8)
    assert select(kind(), convnet(), same, 30).tolist() == list(range(30))
    assert select(kind(), convnet(), same, 5, engine=Local(7)).tolist() == [0, 1, 2, 3, 4]
    assert select(kind(), convnet(), same[:1], 1).tolist() == [0]


@BOTH
def test_without_doubt_scores_are_finite_and_never_negative(kind: Any) -> None:
    model = convnet()
    model[5].weight.data.mul_(1e4)
    scores = scored(kind(), candidates(model))
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all()
    assert (scores < math.log(4) + 1e-9).all()


@BOTH
def test_an_empty_set_of_candidates_has_no_scores(kind: Any) -> None:
    seen = candidates(convnet())
    assert scored(kind(), replace(seen, indices=seen.indices[:0])).shape == (0,)


@BOTH
def test_a_model_that_normalises_its_images_in_place_is_the_same(kind: Any) -> None:
    class Normalised(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.inner, self.in_place = convnet(), in_place

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs.sub_(0.5).div_(0.25) if self.in_place else (inputs - 0.5) / 0.25)

    wanted = scored(kind(), candidates(Normalised(in_place=False), tile=16))
    assert torch.equal(scored(kind(), candidates(Normalised(in_place=True), tile=16)), wanted)


@BOTH
def test_a_model_that_ends_in_a_softmax_is_refused(kind: Any) -> None:
    with pytest.raises(ContractError, match="the model ends in a softmax"):
        select(kind(), nn.Sequential(convnet(), nn.Softmax(1)), PIXELS, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BALD(passes=1), "BALD needs passes >= 2; 1 came"),
        (lambda: DropOutEntropy(passes=0), "DropOutEntropy needs passes >= 1; 0 came"),
        (lambda: BALD(rate=0.0), r"BALD needs a dropout rate in \(0, 1\); 0.0 came"),
        (lambda: DropOutEntropy(rate=1.0), r"DropOutEntropy needs a dropout rate in \(0, 1\); 1.0 came"),
    ],
)
def test_numbers_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_the_tile_function_is_a_value_that_travels() -> None:
    function = Entropies(3, 0.1, 5)
    assert pickle.loads(pickle.dumps(function)) == function
    assert hash(function) == hash(Entropies(3, 0.1, 5))
    model = convnet().eval()
    with torch.no_grad():
        rows = function(model, PIXELS[:5].float() / 255, generator(0))
        other = function(convnet(seed=1).eval(), PIXELS[:5].float() / 255, generator(0))
    shapes = {name: tuple(values.shape) for name, values in rows.items()}
    assert shapes == {"of the mean": (5,), "mean": (5,), "logits": (5, 4)}
    assert not torch.equal(rows["mean"], other["mean"])
