"""BoundaryEnriched: how many come from near the boundary, how many of each class, and that chance does the rest."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from robal.acquisition.acquisition import select
from robal.acquisition.boundary import BoundaryEnriched, boundary_enriched
from robal.acquisition.uncertainty import DeepGini, Margin
from robal.engines import Local
from robal.errors import InputError
from robal.scores import deepgini, margin
from robal.seeds import generator
from small_models import Stated, stated


def some(count: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = generator(seed, "some")
    weight = torch.arange(1.0, classes + 1)
    return torch.rand(count, generator=draw), torch.multinomial(weight, count, replacement=True, generator=draw)


def the_region(scores: Tensor, count: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:count])


def test_by_hand_two_of_four_come_from_the_best_two_of_eight() -> None:
    """Among the others, three of class 0 and three of class 1: one of each."""
    scores = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8, 0.1, 0.2, 0.3])
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    seen: set[int] = set()
    for seed in range(50):
        chosen = set(boundary_enriched(scores, classes, 4, generator(seed), share=0.5, closest=0.25).tolist())
        assert {1, 4} < chosen
        assert len(chosen & {0, 2, 3}) == len(chosen & {5, 6, 7}) == 1
        seen |= chosen
    assert seen == set(range(8))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("closest", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 20, 57, 200])
def test_the_region_gives_its_share_as_far_as_both_sides_have_enough(share: float, closest: float, n: int) -> None:
    scores, classes = some(200)
    chosen = boundary_enriched(scores, classes, n, generator(1), share, closest).tolist()
    region = the_region(scores, math.floor(closest * 200 + 0.5))
    wanted = math.floor(share * n + 0.5)
    if wanted > len(region):
        wanted = len(region)
    if n - wanted > 200 - len(region):
        wanted = n - (200 - len(region))
    assert len(set(chosen)) == n
    assert len(region & set(chosen)) == wanted


@pytest.mark.parametrize("n", [10, 33, 60])
def test_each_side_keeps_every_class_within_one_image_of_its_share(n: int) -> None:
    scores, classes = some(300)
    region = the_region(scores, 60)
    for seed in range(10):
        chosen = set(boundary_enriched(scores, classes, n, generator(seed)).tolist())
        for side in (region, set(range(300)) - region):
            taken = Counter(int(classes[i]) for i in chosen & side)
            for label, count in Counter(int(classes[i]) for i in side).items():
                assert abs(taken[label] - len(chosen & side) * count / len(side)) < 1


def test_within_a_class_and_a_side_no_image_is_preferred() -> None:
    scores, classes = torch.arange(20.0), torch.arange(20) % 2
    seen = torch.zeros(20)
    for seed in range(2000):
        seen[boundary_enriched(scores, classes, 8, generator(seed), share=0.5, closest=0.4)] += 1
    for group in (seen[12:][0::2], seen[12:][1::2], seen[:12][0::2], seen[:12][1::2]):
        chance = 2 / len(group)
        assert (group - 2000 * chance).abs().max() < 4 * math.sqrt(2000 * chance * (1 - chance))


def test_the_order_does_not_tell_the_sides_apart() -> None:
    scores, classes = some(100)
    region = the_region(scores, 20)
    first = [int(boundary_enriched(scores, classes, 20, generator(seed))[0]) in region for seed in range(100)]
    assert 30 < sum(first) < 70


def test_of_equal_scores_those_of_lower_index_are_the_region() -> None:
    chosen = boundary_enriched(torch.full((50,), 0.7), torch.zeros(50).long(), 10, generator(0), 1.0, 0.2)
    assert sorted(chosen.tolist()) == list(range(10))


def test_nothing_and_everything() -> None:
    scores, classes = some(30)
    assert boundary_enriched(scores, classes, 0, generator(0)).tolist() == []
    assert sorted(boundary_enriched(scores, classes, 30, generator(0)).tolist()) == list(range(30))
    assert boundary_enriched(scores[:1], classes[:1], 1, generator(0)).tolist() == [0]


@pytest.mark.parametrize(
    ("component", "function"), [(BoundaryEnriched(), margin), (BoundaryEnriched(score=DeepGini()), deepgini)]
)
def test_the_component_takes_its_region_by_the_score_it_is_given(component: Any, function: Any) -> None:
    probs = torch.randn(200, 4, generator=generator(5)).mul(2).softmax(1)
    chosen = select(component, Stated(), stated(probs), 40)
    assert len(the_region(function(probs), 40) & set(chosen.tolist())) == 20
    wanted = boundary_enriched(function(probs), probs.argmax(1), 40, generator(0, "select"))
    assert chosen.tolist() == wanted.tolist()
    assert chosen.tolist() == select(component, Stated(), stated(probs), 40, engine=Local(7)).tolist()
    assert chosen.tolist() != select(component, Stated(), stated(probs), 40, seed=1).tolist()


def test_settings_reach_the_function_and_certain_probabilities_do_no_harm() -> None:
    probs = torch.eye(4)[torch.arange(40) % 4]
    chosen = select(BoundaryEnriched(share=1.0, closest=0.25, score=Margin()), Stated(), stated(probs), 8)
    assert sorted((chosen % 4).tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert max(chosen.tolist()) < 10
    assert sorted(select(BoundaryEnriched(), Stated(), stated(probs), 40).tolist()) == list(range(40))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.2}, r"share is a share in \[0, 1\]; not 1.2"),
        ({"share": -0.1}, r"share is a share in \[0, 1\]; not -0.1"),
        ({"closest": 20}, r"closest is a share in \[0, 1\]; not 20"),
        ({"closest": float("nan")}, r"closest is a share in \[0, 1\]; not nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BoundaryEnriched(**settings)
