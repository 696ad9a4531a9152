"""Errors class by class: counts by hand, intervals against slower ways to the same numbers, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix
from torch import Tensor

from robal.errors import InputError
from robal.evaluation.classwise import Errors, classwise, confusion

# Class 0: four images, one wrong, two broken, one standing. Class 1: two, none wrong, one broken. Class 2: none.
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])
CLEAN = torch.tensor([False, True, True, True, True, True])
ROBUST = torch.tensor([False, False, False, True, False, True])


def verdicts(images: list[int], natural: list[float], robust: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """So many images a class, of which the first share is wrong, and that share not robust."""
    labels = torch.repeat_interleave(torch.arange(len(images)), torch.tensor(images))
    position = torch.cat([torch.arange(count) / count for count in images])
    shares = torch.tensor([natural, robust])[:, labels]
    return position >= shares[0], position >= shares[1], labels


def test_errors_of_each_class_their_average_and_the_worst_by_hand() -> None:
    result = classwise(CLEAN, ROBUST, LABELS, 3)
    assert result.images == (4, 2, 0)
    assert result.natural.rates == (0.25, 0.0, None)
    assert result.boundary.rates == (0.5, 0.5, None)
    assert result.robust.rates == (0.75, 0.5, None)
    assert [kind.average for kind in (result.natural, result.boundary, result.robust)] == [0.125, 0.5, 0.625]
    assert [kind.worst for kind in (result.natural, result.boundary, result.robust)] == [0.25, 0.5, 0.75]
    assert [kind.worst_class for kind in (result.natural, result.boundary, result.robust)] == [0, 0, 0]
    assert [kind.gap for kind in (result.natural, result.boundary, result.robust)] == [0.25, 0.0, 0.25]


def test_natural_and_boundary_error_make_robust_error_in_every_class() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (500,), generator=draw)
    clean = torch.rand(500, generator=draw) < 0.8
    robust = clean & (torch.rand(500, generator=draw) < 0.6)
    result = classwise(clean, robust, labels, 7)
    for natural, boundary, both in zip(result.natural.rates, result.boundary.rates, result.robust.rates, strict=True):
        assert natural is not None
        assert boundary is not None
        assert natural + boundary == pytest.approx(both)
    shares = np.array(result.images) / 500
    overall = float(shares @ np.array(result.robust.rates, dtype=float))
    assert overall == pytest.approx(1 - float(robust.double().mean()))


def test_the_interval_of_a_class_is_wilsons_and_a_class_without_images_has_none() -> None:
    intervals = classwise(CLEAN, ROBUST, LABELS, 3).robust.intervals
    assert intervals[0] == pytest.approx(tuple(binomtest(3, 4).proportion_ci(0.95, method="wilson")))
    assert intervals[1] == pytest.approx(tuple(binomtest(1, 2).proportion_ci(0.95, method="wilson")))
    assert intervals[2] is None


def test_the_gaps_interval_agrees_with_resampling_image_by_image() -> None:
    clean, robust, labels = verdicts([60, 80, 100], [0.0, 0.1, 0.2], [0.1, 0.4, 0.6])
    wrong, draws = (~robust).numpy(), np.random.default_rng(0)
    gaps, chance = [], []
    for _ in range(4000):
        chosen = draws.integers(len(labels), size=len(labels))
        mine = labels.numpy()[chosen]
        gaps.append(wrong[chosen][mine == 2].mean() - wrong[chosen][mine == 0].mean())
        shuffled = draws.permutation(labels.numpy())
        rates = [wrong[shuffled == label].mean() for label in range(3)]
        chance.append(max(rates) - min(rates))
    found = classwise(clean, robust, labels, 3, resamples=4000).robust
    assert found.gap == pytest.approx(0.5)
    # The quantiles of 4,000 draws have a standard error of about 0.003.
    assert found.gap_interval == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.015)
    assert found.gap_by_chance == pytest.approx(np.quantile(chance, 0.95), abs=0.015)


def test_a_gap_that_chance_explains_has_an_interval_from_zero_and_a_real_one_has_not() -> None:
    small = classwise(*verdicts([50] * 10, [0.0] * 10, [0.3, 0.34] * 5), 10).robust
    assert 0 < small.gap < small.gap_by_chance
    assert small.gap_interval[0] == 0 < small.gap < small.gap_interval[1]
    real = classwise(*verdicts([200] * 10, [0.0] * 10, [0.1] * 9 + [0.6]), 10).robust
    assert real.gap_by_chance < real.gap_interval[0] < 0.5 < real.gap_interval[1]
    assert real.worst_class == 9


def test_the_interval_holds_the_true_gap_about_as_often_as_it_says() -> None:
    draw, held = torch.Generator().manual_seed(0), {"equal": 0, "unequal": 0}
    labels = torch.arange(5).repeat_interleave(100)
    truths = {"equal": torch.full((5,), 0.3), "unequal": torch.linspace(0.1, 0.5, 5)}
    for name, rates in truths.items():
        for trial in range(40):
            robust = torch.rand(500, generator=draw) >= rates[labels]
            low, high = classwise(robust, robust, labels, 5, seed=trial, resamples=200).robust.gap_interval
            held[name] += low - 1e-6 <= float(rates.max() - rates.min()) <= high + 1e-6
    # 38 of 40 are due, ± 1.4; the plain percentiles of the largest difference hold a gap of 0 in none.
    assert held["equal"] >= 34
    assert held["unequal"] >= 34


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    given = verdicts([60, 80, 100], [0.0, 0.1, 0.2], [0.1, 0.4, 0.6])
    with torch.random.fork_rng(devices=[]):
        state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
        first = classwise(*given, 3, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert (np.random.get_state()[1] == legacy).all()  # type: ignore[index]
    assert classwise(*given, 3, seed=1) == first
    assert classwise(*given, 3, seed=2).robust.gap_interval != first.robust.gap_interval


def test_the_order_of_the_images_does_not_matter() -> None:
    given = verdicts([60, 80, 100], [0.0, 0.1, 0.2], [0.1, 0.4, 0.6])
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    assert classwise(*given, 3) == classwise(*(part[order] for part in given), 3)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("labels", [torch.tensor([1]), torch.tensor([0, 0, 0]), torch.arange(100)])
def test_one_image_one_class_a_hundred_classes_and_everything_right_or_wrong(labels: Tensor, right: bool) -> None:
    same = torch.full((len(labels),), right)
    result = classwise(same, same, labels, 100)
    for errors in (result.natural, result.boundary, result.robust):
        assert errors.gap == 0
        assert errors.gap_interval == (0, 0)
        assert errors.gap_by_chance == 0
        assert errors.rates[99] == (None if len(labels) < 100 else errors.rates[0])
    assert result.natural.average == result.robust.worst == (0 if right else 1)
    assert result.boundary.worst == 0


def test_where_all_classes_err_alike_the_gaps_interval_still_has_a_width() -> None:
    errors = classwise(*verdicts([50] * 4, [0.3] * 4, [0.3] * 4), 4).robust
    assert errors.gap == 0
    assert errors.gap_interval[0] == 0
    assert errors.gap_interval[1] > 0.05


def test_a_result_is_plain_numbers_that_json_takes() -> None:
    result = classwise(CLEAN, ROBUST, LABELS, 3)
    assert isinstance(result.robust, Errors)
    assert json.loads(json.dumps(asdict(result)))["robust"]["rates"] == [0.75, 0.5, None]


def test_a_confusion_matrix_has_labels_in_rows_and_agrees_with_scikit_learn() -> None:
    assert confusion(torch.tensor([0, 0, 2]), torch.tensor([1, 1, 2]), 3).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
    draw = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(6, (2, 300), generator=draw)
    ours = confusion(labels, predicted, 6)
    assert ours.dtype == torch.int64
    assert (ours.numpy() == confusion_matrix(labels, predicted, labels=range(6))).all()
    assert confusion(labels[:0], predicted[:0], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("clean", "robust", "labels", "message"),
    [
        (CLEAN, ROBUST, LABELS[:0], r"labels have shape \[N\] with N >= 1"),
        (CLEAN[:5], ROBUST, LABELS, r"clean verdicts must be bool \[6\], one an image; these are bool \[5\]"),
        (CLEAN, ROBUST.long(), LABELS, r"robust verdicts must be bool \[6\].*int64 \[6\]"),
        (ROBUST, CLEAN, LABELS, r"image 1 is robust, yet wrong before the attack.*pass `clean & robust`"),
        (CLEAN, ROBUST, LABELS + 2, r"labels must lie in \[0, 3\); 2 do not, the first is 3 at position 4"),
    ],
)
def test_what_cannot_be_right_is_refused(clean: Tensor, robust: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        classwise(clean, robust, labels, 3)


def test_no_resamples_and_predictions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="resamples must be at least 1; 0 came"):
        classwise(CLEAN, ROBUST, LABELS, 3, resamples=0)
    with pytest.raises(InputError, match=r"\[6\], \[5\] came"):
        confusion(LABELS, LABELS[:5], 3)
    with pytest.raises(InputError, match="predictions must lie in"):
        confusion(LABELS, LABELS + 2, 3)
