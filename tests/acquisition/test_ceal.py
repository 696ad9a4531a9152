"""CEAL: the uncertain are asked about, the certain are trained on as the model labels them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robal.acquisition import CEAL, Margin, MaxEntropy, choose, examples_of
from robal.candidates import Candidates
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Examples, Pool
from robal.seeds import generator
from small_models import Stated, stated


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


# Entropies in nats: 0.693, 0.0560, 0.0079, 0.0315, 0.0499.
FIRST = torch.tensor([0.5, 0.99, 0.999, 0.005, 0.0087])
ROWS = torch.stack([FIRST, 1 - FIRST], 1)


def seen(rounds: int, rows: Tensor = ROWS) -> Candidates:
    pool = Pool.unlabelled(InMemory(stated(rows)), ("a", "b"))
    return Candidates(Stated(), pool, pool.candidates, history=[{"round": number} for number in range(rounds)])


def added(method: CEAL, rounds: int) -> Examples:
    nothing = torch.tensor([0])
    return examples_of(method, seen(rounds), nothing, nothing, generator(0))


def test_the_query_is_that_of_its_score() -> None:
    rows = torch.rand(30, 4, generator=generator(0)).softmax(1)
    for score in (MaxEntropy(), Margin()):
        wanted = choose(score, seen(1, rows[:, :2] / rows[:, :2].sum(1, keepdim=True)), 7, generator(0))
        got = choose(CEAL(score), seen(1, rows[:, :2] / rows[:, :2].sum(1, keepdim=True)), 7, generator(0))
        assert got.tolist() == wanted.tolist()


def test_images_below_the_threshold_are_labelled_by_the_model() -> None:
    assert binary_entropy(0.99) > 0.05 > binary_entropy(0.0087)
    sure = added(CEAL(threshold=0.05), rounds=1)
    assert sure.origin.tolist() == [2, 3, 4]
    assert sure.labels.tolist() == [0, 1, 1]
    assert [Examples.KINDS[kind] for kind in sure.kind.tolist()] == ["pseudo"] * 3
    assert torch.equal(sure.images, stated(ROWS)[2:])
    assert sure.weight.tolist() == [1, 1, 1]


def test_the_threshold_falls_round_by_round_down_to_nothing() -> None:
    method = CEAL(threshold=0.05, decay=0.01)
    assert [added(method, rounds).origin.tolist() for rounds in (0, 1, 2, 3, 4, 5, 6)] == [
        [2, 3, 4],  # alone, without any history, as in the first round
        [2, 3, 4],  # 0.05
        [2, 3],  # 0.04
        [2],  # 0.03
        [2],  # 0.02
        [2],  # 0.01
        [],  # 0
    ]


def test_a_threshold_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"threshold > 0 and decay >= 0; 0 and 0.1 came"):
        CEAL(threshold=0, decay=0.1)
