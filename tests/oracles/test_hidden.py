"""The simulated oracle."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robal.errors import InputError
from robal.images import InMemory
from robal.oracles import Hidden, Judgements, agreed_by_several
from robal.pool import SKIPPED, Pool

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


@pytest.mark.parametrize(("kind", "ways"), [("flip1", 1), ("flip2", 2)])
def test_flips_go_from_each_class_to_the_same_few_others_evenly(kind: Any, ways: int) -> None:
    answers = Hidden(0.4, LABELS, kind)(POOL, ALL, seed=0)
    for label in range(5):
        counts = answers[label == LABELS].bincount(minlength=5)
        chance = 0.4 / ways
        others = counts[(counts > 0) & (torch.arange(5) != label)]
        assert len(others) == ways
        assert (others - chance * MANY / 5).abs().max() < 4 * (MANY / 5 * chance * (1 - chance)) ** 0.5


def test_another_attempt_errs_apart_from_the_first_and_by_the_same_flips() -> None:
    first, second = (Hidden(0.4, LABELS, "flip1", attempt)(POOL, ALL, seed=0) for attempt in (0, 1))
    both = (first != LABELS) & (second != LABELS)
    assert abs(int(both.sum()) - 0.16 * MANY) < 4 * (MANY * 0.16 * 0.84) ** 0.5
    assert torch.equal(first[both], second[both])


def test_noise_by_instance_follows_the_image() -> None:
    """Images that look alike err alike: the wrong class is a function of the picture, but for chance."""
    draw = torch.Generator().manual_seed(0)
    pictures = torch.rand(20, 1, 6, 6, generator=draw)
    which = torch.randint(20, (MANY,), generator=draw)
    pool = Pool.unlabelled(InMemory(pictures[which]), tuple("abcde"))
    labels = which % 5
    answers = Hidden(0.3, labels, "instance")(pool, ALL, seed=0)
    wrong = answers != labels
    assert abs(int(wrong.sum()) - 0.3 * MANY) < 4 * (MANY * 0.3 * 0.7) ** 0.5
    even = 0
    for picture in range(20):
        counts = answers[wrong & (which == picture)].bincount(minlength=5)
        assert counts[picture % 5] == 0
        even += int(counts.max() < 0.5 * counts.sum())
    assert even < 10  # evenly it would be a quarter each, for all twenty
    asked = torch.tensor([7, 3, 12])
    assert torch.equal(Hidden(0.3, labels, "instance")(pool, asked, seed=0), answers[asked])


def test_flips_to_two_others_need_three_classes() -> None:
    pool = Pool.unlabelled(POOL.images, ("a", "b"))
    with pytest.raises(InputError, match="flip2 needs three classes; there are 2"):
        Hidden(0.1, LABELS % 2, "flip2")(pool, ALL, seed=0)


def test_a_kind_of_noise_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="one of symmetric, flip1, flip2, instance; not 'pair'"):
        Hidden(0.1, kind="pair")  # type: ignore[arg-type]


def test_several_are_asked_until_one_answer_leads_by_two_and_all_answers_are_recorded(tmp_path: Path) -> None:
    oracle, images = Hidden(0.4, LABELS), torch.arange(3000)
    first = oracle(POOL, images, seed=0)
    said = Judgements(tmp_path / "state.sqlite")
    said.prepare()
    agreed = agreed_by_several(oracle, POOL, images, first, 7, 0, said)
    rates = [float(claim.float().mean()) for claim in (agreed == LABELS[:3000], agreed == SKIPPED)]
    assert rates == pytest.approx([0.78, 0.158], abs=0.03)  # by 40,000 draws apart from this code
    votes = said.votes(images.tolist())
    for number in range(50):
        labels = [one.label for (image, _), one in votes.items() if image == number]
        assert labels[0] == first[number]
        counts = sorted((labels.count(label) for label in set(labels)), reverse=True)
        assert counts[0] - sum(counts[1:2]) == (2 if int(agreed[number]) >= 0 else pytest.approx(0.5, abs=0.5))
        assert len(labels) <= 7
        assert int(agreed[number]) in (SKIPPED, max(labels, key=labels.count))
    assert said.repeated(images.tolist()) == len(votes) - 3000
    assert torch.equal(agreed_by_several(oracle, POOL, images, first, 7, 0, said), agreed)  # as after a kill
    assert said.repeated(images.tolist()) == len(votes) - 3000


def test_without_noise_two_are_asked(tmp_path: Path) -> None:
    oracle, images = Hidden(labels=LABELS), torch.arange(30)
    said = Judgements(tmp_path / "state.sqlite")
    said.prepare()
    assert torch.equal(agreed_by_several(oracle, POOL, images, LABELS[:30], 5, 0, said), LABELS[:30])
    assert said.repeated(images.tolist()) == 30
