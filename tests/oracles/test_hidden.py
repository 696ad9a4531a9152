"""The simulated oracle."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor

from robal.errors import InputError
from robal.images import InMemory
from robal.oracles import Hidden
from robal.pool import Pool

MANY = 20_000
LABELS = torch.arange(MANY) % 5
POOL = Pool.unlabelled(InMemory(torch.zeros(MANY, 1, 1, 1)), ("a", "b", "c", "d", "e"))
ALL = torch.arange(MANY)


def test_without_noise_it_tells_the_truth() -> None:
    asked = torch.tensor([7, 3, 12])
    assert Hidden(labels=LABELS)(POOL, asked, seed=0).tolist() == [2, 3, 2]


def test_noise_comes_as_often_as_it_says_and_is_spread_over_the_other_classes() -> None:
    answers = Hidden(0.2, LABELS)(POOL, ALL, seed=0)
    wrong = answers != LABELS
    assert abs(int(wrong.sum()) - 0.2 * MANY) < 4 * (MANY * 0.2 * 0.8) ** 0.5
    shifts = torch.bincount((answers - LABELS)[wrong] % 5, minlength=5)
    assert shifts[0] == 0
    assert (shifts[1:] - 1000).abs().max() < 4 * 1000**0.5


def test_noise_of_one_is_never_right_and_always_a_class() -> None:
    answers = Hidden(1.0, LABELS)(POOL, ALL, seed=0)
    assert (answers != LABELS).all()
    assert answers.unique().tolist() == [0, 1, 2, 3, 4]


def test_an_image_gets_the_same_answer_whenever_and_with_whatever_it_is_asked_about() -> None:
    oracle = Hidden(0.5, LABELS)
    wanted = oracle(POOL, ALL, seed=0)
    for asked in (torch.tensor([5]), torch.tensor([9, 5, 11]), ALL.flip(0)):
        assert torch.equal(oracle(POOL, asked, seed=0), wanted[asked])
    known = POOL.reveal(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert torch.equal(oracle(known, ALL, seed=0), wanted)
    assert not torch.equal(oracle(POOL, ALL, seed=1), wanted)


def test_the_hidden_labels_and_the_global_stream_stay_as_they_were() -> None:
    before, labels = torch.get_rng_state(), LABELS.clone()
    answers = Hidden(0.5, LABELS)(POOL, ALL, seed=0)
    answers.zero_()
    assert torch.equal(LABELS, labels)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "no held-back labels to simulate an annotator with; use oracle=CSVFile"),
        (
            torch.where(ALL == 3, -1, LABELS),
            "some of the images asked about have no held-back label; use oracle=CSVFile",
        ),
    ],
)
def test_missing_labels_are_refused_with_the_way_out(labels: Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Hidden(labels=labels)(POOL, torch.tensor([2, 3]), seed=0)
    if labels is not None:
        assert Hidden(labels=labels)(POOL, torch.tensor([2, 4]), seed=0).tolist() == [2, 4]


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_a_chance_that_is_none_is_refused(noise: float) -> None:
    with pytest.raises(InputError, match=r"noise is a chance in \[0, 1\]"):
        Hidden(noise)


def test_it_is_a_frozen_value() -> None:
    assert Hidden(0.1) == Hidden(0.1) != Hidden()
    with pytest.raises(FrozenInstanceError):
        Hidden().noise = 0.5  # type: ignore[misc]
