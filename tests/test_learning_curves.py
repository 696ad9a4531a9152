"""Learning curves carried on: against brute force, against runs drawn from the model, and against recorded runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from robal import learning_curves
from robal.errors import InputError
from robal.learning_curves import fitted

RECORDED = Path(__file__).parent.parent / "benchmarks" / "runs" / "learning-curves"
LABELS = [100, 200, 300, 400, 500, 600]


def test_the_posterior_is_that_of_brute_force() -> None:
    rates = [0.31, 0.45, 0.50, 0.56, 0.57, 0.61]
    n, z = np.array(LABELS) / LABELS[-1], logit(np.array(rates))
    v, g = np.meshgrid(np.linspace(-2, 3, 401), np.linspace(-1, 2, 301), indexing="ij")
    before = norm.logpdf(v, 0.0, 3.0) + norm.logpdf(g, 0.3, 0.5)
    levels, weights = [], []
    for c in learning_curves._BENDS:
        off = z[:, None, None] - v - g * ((1 - n**-c) / c)[:, None, None]
        ahead = v + g * (1 - 2.0**-c) / c
        for spread in learning_curves._SPREADS:
            weights.append(np.exp(before + norm.logpdf(off, 0, spread).sum(0)).ravel())
            levels.append(ahead.ravel())
    of, weight = np.concatenate(levels), np.concatenate(weights)
    order = of.argsort()
    below = weight[order].cumsum() / weight.sum()
    found = fitted(LABELS, rates)
    sampled = found.level + found.slope * (1 - 2.0**-found.bend) / found.bend
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(sampled, quantile) == pytest.approx(of[order][np.searchsorted(below, quantile)], abs=0.03)


def test_the_band_holds_what_is_drawn_from_the_model() -> None:
    draw, inside = np.random.default_rng(3), []
    for _ in range(200):
        level, slope, bend = draw.normal(0.5, 1.0), draw.normal(0.3, 0.3), draw.choice([0.5, 1.0, 2.0])
        noise = draw.choice([0.03, 0.1, 0.2])
        n = np.array([*LABELS, 1200])
        z = level + slope * (1 - (n / 600) ** -bend) / bend + draw.normal(0, noise, len(n))
        z[-1] += 0.3 * np.log(2) * draw.normal()
        expected = fitted(LABELS, expit(z[:-1])).at(1200)
        inside.append(expected.low <= expit(z[-1]) <= expected.high)
    assert 0.84 <= np.mean(inside) <= 0.96  # of 90 %


def test_a_curve_without_noise_is_carried_on() -> None:
    n = np.array(LABELS)
    z = 1.0 + 0.6 * (1 - (n / 600) ** -0.5) / 0.5
    expected = fitted(LABELS, expit(z)).at(1200)
    assert expected.rate == pytest.approx(expit(1.0 + 0.6 * (1 - 2**-0.5) / 0.5), abs=0.01)
    assert expected.gain == pytest.approx(expected.rate - expit(1.0), abs=0.01)


def test_more_rounds_make_the_band_narrower_and_more_labels_wider() -> None:
    rates = [float(expit(1.0 + 0.6 * np.log(n / 600))) for n in LABELS]
    few, many = fitted(LABELS[-3:], rates[-3:]), fitted(LABELS, rates)
    width = {name: one.at(900).high - one.at(900).low for name, one in (("few", few), ("many", many))}
    assert width["many"] < width["few"]
    assert many.at(5000).sure > many.at(900).sure


def test_where_nothing_rises_nothing_is_gained() -> None:
    flat = fitted(LABELS, [0.80, 0.81, 0.80, 0.80, 0.81, 0.80])
    assert abs(flat.at(700).gain) < 0.005
    assert flat.gains_less(700, 0.01) > 0.9
    steep = fitted(LABELS, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert steep.gains_less(700, 0.01) < 0.05


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_of_nothing_and_of_everything_are_no_trouble(rate: float) -> None:
    expected = fitted(LABELS, [rate] * 6).at(1200)
    assert abs(expected.rate - rate) < 0.01
    assert 0 <= expected.low <= expected.rate <= expected.high <= 1


def test_the_same_points_give_the_same_curve() -> None:
    assert fitted(LABELS, [0.5] * 6).at(900) == fitted(LABELS, [0.5] * 6).at(900)


@pytest.mark.parametrize(
    ("labels", "rates", "why"),
    [
        ([1, 2], [0.1, 0.2], "at least 3 measured rounds; there are 2"),
        ([1, 2, 2], [0.1, 0.2, 0.3], "ascending"),
        ([0, 2, 3], [0.1, 0.2, 0.3], "ascending"),
        ([1, 2, 3], [0.1, 0.2, 1.3], r"rates in \[0, 1\]"),
        ([1, 2, 3], [0.1, float("nan"), 0.3], r"rates in \[0, 1\]"),
        ([1, 2, 3], [0.1, 0.2], "there are 2"),
    ],
)
def test_points_that_are_no_curve_are_refused(labels: list[int], rates: list[float], why: str) -> None:
    with pytest.raises(InputError, match=why):
        fitted(labels, rates)


def test_the_end_of_recorded_runs_lies_in_the_band_that_their_first_half_gives() -> None:
    inside = []
    for path in sorted(RECORDED.glob("*/metrics.jsonl")):
        if "-s0-" in path.parent.name:
            continue  # the prior was chosen on these
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:]  # round 0 is natural
        labels, half = [row["labelled"] for row in rows], len(rows) // 2
        for rates in ([row["accuracy"] for row in rows], [row["robust_accuracy"]["PGD-20"] for row in rows]):
            expected = fitted(labels[:half], rates[:half]).at(labels[-1])
            inside.append(expected.low <= rates[-1] <= expected.high)
    assert len(inside) >= 8
    assert np.mean(inside) >= 0.8  # the band promises 90 %
