"""Statistics against brute force and other implementations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import linregress, ttest_rel

from robal.studies.statistics import area, correlation, holm, labels_needed, over_seeds, over_stages, paired


def seeds(values: list[float]) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


def test_the_sign_flip_test_tries_every_pattern() -> None:
    one, other = [0.5, 0.7, 0.65, 0.4, 0.9], [0.45, 0.72, 0.5, 0.3, 0.7]
    differences = np.array(one) - np.array(other)
    means = [abs((differences * signs).mean()) for signs in itertools.product([1, -1], repeat=5)]
    wanted = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    found = paired(seeds(one), seeds(other))
    assert found.p == pytest.approx(wanted)
    assert found.least_p == 2 / 2**5
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    turned = paired(seeds(other), seeds(one))
    assert (turned.p, turned.mean) == (found.p, -found.mean)  # two-sided


def test_of_many_pairs_the_test_agrees_with_students() -> None:
    draw = np.random.default_rng(1)
    one, other = draw.normal(0.3, 1, 40).tolist(), draw.normal(0, 1, 40).tolist()
    assert paired(seeds(one), seeds(other)).p == pytest.approx(ttest_rel(one, other).pvalue, abs=0.02)


def test_pairs_are_of_seeds_that_both_have() -> None:
    found = paired({"0": 0.5, "7": 0.9}, {"7": 0.6, "3": 0.1})
    assert (found.seeds, found.p, found.interval, found.least_p) == (("7",), None, None, 1.0)
    assert found.mean == pytest.approx(0.3)
    assert np.isnan(paired({"0": 0.5}, {"1": 0.5}).mean)


def test_without_a_difference_nothing_is_shown() -> None:
    found = paired(seeds([0.5] * 6), seeds([0.5] * 6))
    assert (found.mean, found.p, found.effect, found.interval) == (0, 1, None, (0, 0))


def test_the_bootstrap_interval_covers_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = over_seeds(draw.normal(0, 1, 20).tolist()) or (0.0, 0.0)
        hits += low <= 0 <= high
    assert 85 <= hits <= 99  # 95 % in the long run, a little less of 20
    assert over_seeds([0.1] * 4) is None


def test_holms_correction() -> None:
    assert holm([0.02, 0.001, 0.9, 0.03]) == pytest.approx([0.06, 0.004, 0.9, 0.06])
    assert holm([]) == []


def test_areas_and_labels_needed() -> None:
    assert area([50], [0.3]) == 0.3
    assert area([100, 300], [0.2, 0.6]) == pytest.approx(0.4)
    assert labels_needed([100, 200], [0.5, 0.6], 0.3) == 100
    assert labels_needed([100, 200], [0.5, 0.6], 0.7) is None
    assert labels_needed([100, 200, 300], [0.2, 0.7, 0.4], 0.5) is None  # reached, and lost again


def test_the_papers_test_is_the_papers() -> None:
    """The least p that it can give for 48 stages is the least that the paper reports."""
    assert over_stages(list(np.linspace(2, 3, 48)), list(np.linspace(0, 0.5, 48))) == pytest.approx(8.155e-10, rel=1e-3)
    assert over_stages([0.5, 0.6], [0.5, 0.6]) == 1.0


def test_correlations() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=11)
    y = -0.7 * x + draw.normal(size=11)
    found = correlation(x.tolist(), y.tolist())
    assert found.r == pytest.approx(linregress(x, y).rvalue)
    assert found.interval is not None
    assert found.interval[0] < found.r < found.interval[1]  # type: ignore[operator]
    assert correlation([1.0, 2.0], [1.0, 2.0]).r is None
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).r is None
