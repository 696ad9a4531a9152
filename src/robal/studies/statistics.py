"""What may be said of runs that differ by one thing: pairs by seed, and no more certainty than so few give."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # its parts are imported when they are first named

from robal.wilson import Z95

FEWEST_FOR_BOOTSTRAP = 5  # below, its intervals are far too narrow
MOST_EXACT = 16  # pairs; all 2^n patterns of signs are tried up to there


@dataclass(frozen=True)
class Paired:
    """How one thing differs from another, by seeds that both have.

    Args:
        seeds: of the pairs.
        differences: [n], one less the other, in the order of `seeds`.
        mean: of them; nan without any.
        interval: 95 %, bootstrap over seeds (BCa), or None for fewer than five.
        least_p: what p could be at least: 2 / 2^m, of the m pairs that differ at all.
        effect: mean over the standard deviation of the differences (Cohen's d_z), or None where that is 0 or unknown.
    """

    seeds: tuple[str, ...]
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    least_p: float
    effect: float | None

    @cached_property
    def p(self) -> float | None:
        """Of the two-sided exact sign-flip test of "no difference", or None for fewer than two pairs.

        The test flips the sign of each difference, which it may where there is no difference: a permutation test whose
        only assumption is that seeds are independent (Fisher 1935).
        """
        if len(self.seeds) < 2:
            return None
        drawn = scipy.stats.permutation_test(
            [np.array(self.differences)],
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf if len(self.seeds) <= MOST_EXACT else 100_000,
            random_state=np.random.default_rng(0),
        )
        return float(drawn.pvalue)


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> Paired:
    """Compare two things by the seeds that both have.

    >>> found = paired({"0": 0.5, "1": 0.7}, {"0": 0.4, "1": 0.4, "2": 0.9})
    >>> round(found.mean, 3), found.p, found.least_p
    (0.2, 0.5, 0.5)
    """
    seeds = tuple(seed for seed in one if seed in other)
    differences = np.array([one[seed] - other[seed] for seed in seeds])
    n, different = len(seeds), int((differences != 0).sum())
    spread = float(differences.std(ddof=1)) if n >= 2 else 0.0
    mean = float(differences.mean()) if n else float("nan")
    return Paired(
        seeds,
        tuple(differences.tolist()),
        mean,
        over_seeds(differences.tolist()),
        2 / 2**different if different else 1.0,
        mean / spread if spread > 0 else None,
    )


def over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean, by bootstrap over seeds (BCa, 10,000 draws); None for fewer than five values."""
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate draws
        found = scipy.stats.bootstrap(
            [list(values)], np.mean, n_resamples=10_000, random_state=np.random.default_rng(0)
        )
    low, high = found.confidence_interval
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def holm(values: Sequence[float]) -> list[float]:
    """p values that hold for all tests together (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted, most = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = round(most, 12)
    return adjusted


def area(labels: Sequence[float], rates: Sequence[float]) -> float:
    """The mean height of a curve over labels bought: the trapezoids' area by the width. Of one point, its height.

    >>> area([100, 200, 400], [0.0, 0.5, 1.0])  # (25 + 150) / 300
    0.5833333333333334
    """
    if len(labels) == 1:
        return float(rates[0])
    return float(scipy.integrate.trapezoid(rates, labels) / (labels[-1] - labels[0]))


def labels_needed(labels: Sequence[float], rates: Sequence[float], target: float) -> float | None:
    """Where a curve, straight between its points, first reaches a target and stays at or above it; None: nowhere.

    >>> labels_needed([100, 200, 300], [0.2, 0.4, 0.6], 0.5)
    250.0
    >>> labels_needed([100, 200, 300], [0.6, 0.4, 0.6], 0.5)  # once is not enough
    250.0
    """
    below = [place for place, rate in enumerate(rates) if rate < target]
    if not below:
        return float(labels[0])
    last = below[-1]
    if last + 1 == len(rates):
        return None
    share = (target - rates[last]) / (rates[last + 1] - rates[last])
    return float(labels[last] + share * (labels[last + 1] - labels[last]))


def over_stages(one: Sequence[float], other: Sequence[float]) -> float:
    """p of the test in DRE's paper: Wilcoxon's signed ranks, one-sided (`one` is higher), normal approximation.

    Its pairs are the stages of one run, means of three repeats. Stages of a run follow from one another and are no
    independent samples, nothing is corrected for many tests: such a p is far too small. With all signs equal it
    is 8.155e-10 for 48 stages, the least that the paper reports.

    >>> f"{over_stages([i + 2.0 for i in range(48)], [i + 1 - i / 100 for i in range(48)]):.4g}"
    '8.155e-10'
    """
    if all(a == b for a, b in zip(one, other, strict=True)):
        return 1.0
    return float(scipy.stats.wilcoxon(one, other, alternative="greater", method="asymptotic").pvalue)


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of bias and robustness over acquisition functions.

    Args:
        r: in [-1, 1], or None for fewer than three points, or points that are all the same.
        interval: 95 %, by Fisher's z; None for fewer than four points.
        points: how many.
    """

    r: float | None
    interval: tuple[float, float] | None
    points: int


def correlation(bias: Sequence[float], robust: Sequence[float]) -> Correlation:
    """Of bias and robustness, a point a function.

    >>> correlation([0.1, 0.2, 0.3, 0.4], [0.9, 0.7, 0.5, 0.3]).r
    -1.0
    """
    n = len(bias)
    if n < 3 or np.ptp(bias) == 0 or np.ptp(robust) == 0:
        return Correlation(None, None, n)
    r = round(float(scipy.stats.pearsonr(bias, robust).statistic), 12)
    if n < 4 or abs(r) == 1:
        return Correlation(r, None, n)
    z, half = math.atanh(r), Z95 / math.sqrt(n - 3)
    return Correlation(r, (math.tanh(z - half), math.tanh(z + half)), n)
