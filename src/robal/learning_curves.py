"""How a rate goes on with more labels: a learning curve fitted to what was measured, with an honest band.

The log-odds z of a rate, of a model trained on n labels, are, near the last measured n_L,

    z(n) = v + g (1 − (n / n_L)^(−c)) / c + noise of spread σ,

a power law that flattens with c and is a logarithm at c = 0: v is the level at n_L, g the gain there per e-fold of
labels. What is known of the four beforehand is wide: v and g normal, c and σ spread over a grid. Of v and g the
posterior is exact for each c and σ; these count by how well they explain the measured points. What is no power law, a
training that fails in one round, goes into σ, and with it into the band; and since no curve goes on for ever, the
log-odds may also drift off, by a normal number of spread 0.3 ln(n / n_L).

The prior was chosen on recorded runs, and the band checked on others: `benchmarks/forecast.py`.

Source: of power laws, Hestness et al. 2017, arXiv 1712.00409; of summing over what is unknown, Domhan et al., IJCAI
2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from robal.errors import InputError

FEWEST = 3  # measured points
_BENDS = np.array([1e-3, 0.5, 1.0, 2.0])
_DRIFT = 0.3
_SPREADS = np.geomspace(0.02, 1.0, 16)
_MEAN, _SPREAD = np.array([0.0, 0.3]), np.array([3.0, 0.5])  # beforehand, of v and g
_LEAST = 0.003  # rates nearer to 0 or 1 are moved there, for their log-odds
_DRAWN = 20_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """A rate at a number of labels that nobody has bought yet.

    Args:
        labels: how many, in all.
        rate: the median, in [0, 1].
        low, high: the band in which what a run would measure lies with the probability that was asked for.
        gain: the median of how much the rate rises from the last measured point, noise aside.
        sure: how far the gain may be off to either side: half the width of its own band.
    """

    labels: int
    rate: float
    low: float
    high: float
    gain: float
    sure: float


@dataclass(frozen=True, eq=False)
class Curve:
    """A fitted learning curve: equally probable ones, [S] each, as the module's docstring names their parts.

    Args:
        last: n_L.
        level, slope, bend: v, g and c.
        noise: what one measurement may be off, in log-odds.
        drift: by how much they leave the curve, for each e-fold of labels.
    """

    last: float
    level: Array
    slope: Array
    bend: Array
    noise: Array
    drift: Array

    def at(self, labels: int, probability: float = 0.9) -> Expected:
        """What to expect with so many labels in all."""
        ends = ((1 - probability) / 2, 0.5, (1 + probability) / 2)
        low, rate, high = np.quantile(scipy.special.expit(self._risen(labels) + self.noise), ends)
        least, gain, most = np.quantile(self._gains(labels), ends)
        return Expected(labels, float(rate), float(low), float(high), float(gain), float(most - least) / 2)

    def gains_less(self, labels: int, gain: float) -> float:
        """The probability that the rate gains less than `gain` up to so many labels in all, noise aside."""
        return float((self._gains(labels) < gain).mean())

    def _gains(self, labels: int) -> Array:
        found: Array = scipy.special.expit(self._risen(labels)) - scipy.special.expit(self.level)
        return found

    def _risen(self, labels: int) -> Array:
        times = labels / self.last
        return self.level + self.slope * _rise(times, self.bend) + self.drift * math.log(times)


def fitted(labels: Sequence[int], rates: Sequence[float]) -> Curve:
    """The learning curve of measured points; the same for the same points.

    Args:
        labels: how many were bought, ascending.
        rates: what was measured with them, in [0, 1].

    Raises:
        InputError: for fewer than three points, or numbers that are no rates and labels.

    >>> curve = fitted([100, 200, 300, 400, 500], [0.5, 0.6, 0.65, 0.68, 0.70])
    >>> f"{curve.at(1000).gain:.2f}"
    '0.06'
    """
    if len(labels) != len(rates) or len(labels) < FEWEST:
        raise InputError(f"a learning curve is fitted to at least {FEWEST} measured rounds; there are {len(rates)}")
    n, y = np.asarray(labels, float), np.asarray(rates, float)
    if (np.diff(n) <= 0).any() or n[0] <= 0 or not ((y >= 0) & (y <= 1)).all():
        raise InputError("a learning curve has ascending numbers of labels, and rates in [0, 1]")
    bends, spreads = (part.ravel() for part in np.meshgrid(_BENDS, _SPREADS, indexing="ij"))
    basis = np.stack([np.ones((len(bends), len(n))), _rise(n / n[-1], bends[:, None])], axis=2)  # [G, P, 2]
    turned = basis.transpose(0, 2, 1)
    precision = np.diag(_SPREAD**-2) + turned @ basis / spreads[:, None, None] ** 2
    covariance = np.linalg.inv(precision)
    off = scipy.special.logit(y.clip(_LEAST, 1 - _LEAST)) - basis @ _MEAN  # [G, P]
    pull = (turned @ off[:, :, None])[:, :, 0] / spreads[:, None] ** 2
    moved = (covariance @ pull[:, :, None])[:, :, 0]
    # ln p(points | c, σ), up to what all share
    explained = (off**2).sum(1) / spreads**2 - (pull * moved).sum(1)
    likelihood = -0.5 * (explained + np.linalg.slogdet(precision)[1]) - len(n) * np.log(spreads)
    weights = np.exp(likelihood - likelihood.max())
    draw = np.random.default_rng(0)
    which = draw.choice(len(weights), _DRAWN, p=weights / weights.sum())
    normal = draw.standard_normal((_DRAWN, 4))
    both = (_MEAN + moved)[which] + (np.linalg.cholesky(covariance)[which] @ normal[:, :2, None])[:, :, 0]
    noise, drift = spreads[which] * normal[:, 2], _DRIFT * normal[:, 3]
    return Curve(float(n[-1]), both[:, 0], both[:, 1], bends[which], noise, drift)


def _rise(times: float | Array, bend: Array) -> Array:
    found: Array = (1 - np.asarray(times, float) ** -bend) / bend
    return found
