"""Screened: the same choice for less, and its inner choice's twins."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition.acquisition import examples_of, is_score, needs_of, select
from robal.acquisition.dfal import DFAL
from robal.acquisition.distance import LogitMargin
from robal.acquisition.random import Random
from robal.acquisition.screened import Screened
from robal.acquisition.uncertainty import MaxEntropy
from robal.candidates import Candidates
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import convnet, linear

ONE_PIXEL = linear([[0.0], [10.0]], [5.0, 0.0])  # the boundary lies at a half
SHADES = torch.tensor([0.9, 0.45, 0.1, 0.52, 0.7, 0.53]).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Last:
    """The n last of whatever it is given."""

    needs = frozenset({"teacher"})

    def __call__(self, candidates: Candidates, n: int, draw: torch.Generator) -> Tensor:
        return candidates.indices.flip(0)[:n]


@dataclass(frozen=True)
class Pixel:
    """The first pixel; lighter is higher."""

    def __call__(self, candidates: Candidates, draw: torch.Generator) -> Tensor:
        return candidates.pool.images.batch(candidates.indices)[:, 0, 0, 0]


@pytest.mark.parametrize(
    ("keep", "n", "chosen"),
    [
        (1.0, 2, [4, 0]),  # 0.9 and 0.7 are the lightest, in the order of the pool 0, 4
        (1.2, 2, [5, 4]),  # 2.4 rounds up to three: 0.53 as well
        (2.0, 2, [5, 4]),  # 0.52, image 3, comes in, and is not among the last two
        (1.0, 6, [5, 4, 3, 2, 1, 0]),
        (9.0, 1, [5]),
    ],
)
def test_the_inner_choice_sees_the_best_by_the_screen(keep: float, n: int, chosen: list[int]) -> None:
    acquisition = Screened(Last(), by=Pixel(), keep=keep, candidates_per_query=0)
    assert select(acquisition, ONE_PIXEL, SHADES, n).tolist() == chosen


def test_of_equal_scores_the_lower_index_passes_the_screen() -> None:
    same = torch.full((9, 1, 1, 1), 0.3)
    assert select(Screened(Last(), by=Pixel(), keep=2, candidates_per_query=0), ONE_PIXEL, same, 2).tolist() == [3, 2]
    assert select(Screened(candidates_per_query=0), ONE_PIXEL, same, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("candidates_per_query", [0, 3])
def test_a_screen_that_lets_everything_through_changes_nothing(candidates_per_query: int) -> None:
    images = torch.rand(60, 1, 8, 8, generator=generator(0))
    for seed in range(3):
        screened = Screened(keep=1e6, candidates_per_query=candidates_per_query)
        wanted = select(DFAL(candidates_per_query), convnet(), images, 9, seed)
        assert torch.equal(select(screened, convnet(), images, 9, seed), wanted)


@pytest.mark.parametrize("candidates_per_query", [0, 4])
def test_the_default_screen_finds_what_dfal_finds(
    lenet: nn.Module, digits: tuple[Tensor, Tensor], candidates_per_query: int
) -> None:
    """Both draw the same candidates from the same stream."""
    images = digits[0][1000:1300]
    plain = select(DFAL(candidates_per_query), lenet, images, 30, seed=5)
    screened = select(Screened(candidates_per_query=candidates_per_query), lenet, images, 30, seed=5)
    assert len(set(plain.tolist()) & set(screened.tolist())) >= 29
    margin = select(LogitMargin(), lenet, images, 30)
    assert len(set(plain.tolist()) & set(margin.tolist())) < 29  # it is not for nothing


def test_the_draw_comes_before_the_screen() -> None:
    """One candidate an image: chance alone chooses, whatever the screen says."""
    seen = torch.zeros(6)
    for seed in range(200):
        seen[select(Screened(by=Pixel(), candidates_per_query=1), ONE_PIXEL, SHADES, 2, seed)] += 1
    assert (seen / 200 - 2 / 6).abs().max() < 0.14  # four standard deviations


def test_the_twins_are_those_of_the_inner_choice() -> None:
    pool = Pool.unlabelled(InMemory(SHADES), ("0", "1"))
    candidates = Candidates(ONE_PIXEL, pool, pool.candidates)
    chosen, labels = torch.tensor([1, 3]), torch.tensor([0, 1])
    added, wanted = (examples_of(a, candidates, chosen, labels, generator(0)) for a in (Screened(), DFAL()))
    assert len(added) == 2
    assert torch.equal(added.images, wanted.images)
    assert torch.equal(added.origin, chosen)
    for inner in (DFAL(0, twins=False), Random()):
        assert len(examples_of(Screened(inner), candidates, chosen, labels, generator(0))) == 0


def test_a_score_may_choose_inside_and_needs_are_those_of_the_parts() -> None:
    inside = select(Screened(MaxEntropy(), candidates_per_query=0), convnet(), torch.rand(20, 1, 8, 8), 4)
    assert len(set(inside.tolist())) == 4
    assert needs_of(Screened(Last())) == {"teacher"}
    assert not is_score(Screened())


@pytest.mark.parametrize("keep", [0.9, float("nan"), float("inf")])
def test_a_screen_that_keeps_too_few_is_refused(keep: float) -> None:
    with pytest.raises(InputError, match=f"at least 1 candidate an image; keep = {keep} came"):
        Screened(keep=keep)
    with pytest.raises(InputError, match=r"Screened looks at candidates_per_query >= 1 .* -3 came"):
        Screened(candidates_per_query=-3)
