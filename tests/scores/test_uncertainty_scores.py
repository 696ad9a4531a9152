"""Scores from probabilities: against hand, against scipy, and their laws."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import robal.scores
from robal.errors import InputError
from robal.scores import deepgini, entropy, least_confidence, margin
from robal.seeds import generator

EXPORTED: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(robal.scores, name)
    for name in robal.scores.__all__
    if list(inspect.signature(getattr(robal.scores, name)).parameters) == ["probs"]
}
HAND = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.1, 0.6, 0.3]])


@pytest.fixture(params=sorted(EXPORTED))
def score(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return EXPORTED[request.param]


def some_probs(rows: int = 200, classes: int = 7) -> Tensor:
    return torch.randn(rows, classes, generator=generator(0, "probs")).mul(2).softmax(1)


def test_the_four_scores_are_found_by_their_export() -> None:
    assert set(EXPORTED) >= {"deepgini", "entropy", "least_confidence", "margin"}


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (entropy, [1.5 * math.log(2), 0.0, -(0.1 * math.log(0.1) + 0.6 * math.log(0.6) + 0.3 * math.log(0.3))]),
        (deepgini, [0.625, 0.0, 0.54]),
        (least_confidence, [0.5, 0.0, 0.4]),
        (margin, [-0.25, -1.0, -0.3]),
    ],
)
def test_scores_by_hand(function: Callable[[Tensor], Tensor], wanted: list[float]) -> None:
    torch.testing.assert_close(function(HAND), torch.tensor(wanted))


def test_entropy_is_that_of_scipy() -> None:
    probs = some_probs()
    np.testing.assert_allclose(entropy(probs), stats.entropy(probs.double().numpy(), axis=1), rtol=1e-5)


def test_the_others_are_loops_in_plain_python() -> None:
    rows = some_probs().double().tolist()
    for function, by_row in (
        (deepgini, lambda row: 1 - sum(p * p for p in row)),
        (least_confidence, lambda row: 1 - max(row)),
        (margin, lambda row: sorted(row)[-2] - sorted(row)[-1]),
    ):
        np.testing.assert_allclose(function(some_probs()), [by_row(row) for row in rows], rtol=1e-4, atol=1e-6)


def test_a_uniform_row_scores_highest_and_a_certain_one_lowest(score: Callable[[Tensor], Tensor]) -> None:
    extremes = torch.stack([torch.full((7,), 1 / 7), torch.eye(7)[3]])
    values = score(torch.cat([extremes, some_probs()]))
    assert values[0] == values.max()
    assert values[1] == values.min()


def test_the_order_of_the_classes_does_not_matter(score: Callable[[Tensor], Tensor]) -> None:
    probs = some_probs()
    torch.testing.assert_close(score(probs[:, torch.tensor([3, 1, 0, 2, 6, 5, 4])]), score(probs))


def test_for_two_classes_all_scores_rank_alike(score: Callable[[Tensor], Tensor]) -> None:
    probs = some_probs(classes=2)
    ranked = score(probs.double()).argsort(stable=True)
    assert torch.equal(ranked, least_confidence(probs.double()).argsort(stable=True))


def test_scores_leave_their_argument_alone_and_stay_finite_at_the_corners(score: Callable[[Tensor], Tensor]) -> None:
    probs = torch.cat([torch.eye(7), some_probs(), torch.tensor([[1 - 6e-8, 1e-8, 1e-8, 1e-8, 1e-8, 1e-8, 1e-8]])])
    kept = probs.clone()
    values = score(probs)
    assert values.shape == (len(probs),)
    assert torch.isfinite(values).all()
    assert torch.equal(probs, kept)


def test_no_row_gives_no_score(score: Callable[[Tensor], Tensor]) -> None:
    assert score(torch.zeros(0, 3)).shape == (0,)


def test_a_hair_above_one_is_rounding_and_entropy_stays_at_zero() -> None:
    assert float(entropy(torch.tensor([[1.0000001, 0.0]]))) == 0


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.tensor([[2.0, -1.0]]), r"not probabilities.*apply softmax to logits first"),
        (torch.tensor([[0.5, 0.4]]), "not probabilities"),
        (torch.tensor([[0.5, 0.5], [float("nan"), 0.5]]), "not probabilities"),
        (torch.tensor([0.5, 0.5]), r"shape \[M, C\] with C >= 2; these have \[2\]"),
        (torch.tensor([[1.0], [1.0]]), r"these have \[2, 1\]"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(
    score: Callable[[Tensor], Tensor], probs: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score(probs)
