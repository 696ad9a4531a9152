"""CAAT's first claim where it can be computed: a linear model, Gaussian classes, adversaries and anti-adversaries.

    python benchmarks/fairness_theory.py --out fairness.png   # the table and its picture, in seconds

Along the direction of the weights the classes are N(m, (K s)²) and N(-m, s²): with K > 1 the first is the harder one.
An adversary moves an image by e towards the boundary, an anti-adversary away from it (e < 0), by class or by whether
its label is wrong. The model is sign(a z + b). Training minimises, over moved images, the share of wrong ones, whose
best threshold b / a is the root of a quadratic where no label is wrong; or the logistic loss, over a and b.
Reported are the errors of both classes at that threshold, with true labels: natural, and where an adversary moves each
image by REACH.

Three settings: (a) balanced and clean, (b) a share of the harder class's labels flipped, (c) a rarer harder class.
Source of the model: Xu et al., ICML 2021, arXiv 2010.06121; of the claim: Zhou, Yang and Wu, AAAI 2023, arXiv
2304.12550.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

Floats = NDArray[np.float64]
MEAN, NARROW, WIDE = 1.0, 0.6, 1.2
REACH = 0.4  # of an adversary


@dataclass(frozen=True)
class Group:
    """Images of one true class under one label: how many, where they lie, and how far training moves them.

    `moved` > 0 is an adversary, which makes the label harder to get right; < 0 an anti-adversary.
    """

    share: float
    true: int
    label: int
    moved: float = 0.0

    @property
    def spread(self) -> float:
        return WIDE if self.true > 0 else NARROW

    def error(self, threshold: Floats) -> Floats:
        """The share of them that sign(z + threshold) takes for the other class than their label's, once moved."""
        centre = self.true * MEAN - self.label * self.moved
        return np.asarray(norm.cdf(-self.label * (centre + threshold) / self.spread))


def risk(groups: list[Group], threshold: Floats) -> Floats:
    """What training minimises."""
    return np.asarray(sum(group.share * group.error(threshold) for group in groups))


def best(groups: list[Group]) -> float:
    """The threshold of least risk, on a grid of 1/20,000 between the means."""
    grid = np.linspace(-2 * MEAN, 2 * MEAN, 80_001)
    return float(grid[risk(groups, grid).argmin()])


def best_logistic(groups: list[Group]) -> float:
    """b / a of least mean log(1 + exp(-y (a z + b))), by 60 points of Gauss-Hermite quadrature a group."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    parts = [
        (group.label, group.true * MEAN - group.label * group.moved + group.spread * nodes, group.share * weights)
        for group in groups
    ]

    def loss(at: Floats) -> float:
        return sum(float(share @ np.logaddexp(0, -label * (at[0] * z + at[1]))) for label, z, share in parts)

    found = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    return float(found[1] / found[0])


def by_formula(moved: float, moved_easy: float, rarity: float = 1.0) -> float:
    """The same of two groups: where rarity · φ((m − e + b) / Ks) / Ks = φ((m − e' − b) / s) / s.

    With u = m − e and v = m − e' it is ((v − b) / s)² − ((u + b) / Ks)² = 2 log(K / rarity).
    """
    u, v, ratio = MEAN - moved, MEAN - moved_easy, (NARROW / WIDE) ** 2
    a = 1 - ratio
    half, rest = -(v + ratio * u), v**2 - ratio * u**2 - 2 * NARROW**2 * math.log(WIDE / NARROW / rarity)
    return (-half - math.sqrt(half**2 - a * rest)) / a


def errors(threshold: float, moved: float = 0.0) -> tuple[float, float]:
    """Errors of the harder and the easier class under an adversary who moves images so far: natural, with none."""
    hard, easy = Group(1.0, 1, 1, moved), Group(1.0, -1, -1, moved)
    at = np.array([threshold])
    return float(hard.error(at)[0]), float(easy.error(at)[0])


def balanced(moved: float, moved_easy: float, rarity: float = 1.0) -> list[Group]:
    """The harder class, `rarity` times as frequent, and the easier one; all labels right."""
    total = 1 + rarity
    return [Group(rarity / total, 1, 1, moved), Group(1 / total, -1, -1, moved_easy)]


def flipped(moved: float, moved_wrong: float, noise: float = 0.3) -> list[Group]:
    """A share of the harder class carries the other label, and is moved otherwise than images of right labels."""
    return [
        Group((1 - noise) / 2, 1, 1, moved),
        Group(noise / 2, 1, -1, moved_wrong),
        Group(1 / 2, -1, -1, moved),
    ]


SETTINGS = {
    "balanced, clean": {
        "natural": balanced(0, 0),
        "adversaries": balanced(REACH, REACH),
        "anti-adversaries for the easier class": balanced(REACH, -REACH),
        "anti-adversaries for the harder class": balanced(-REACH, REACH),
    },
    "30 % of the harder class's labels wrong": {
        "natural": flipped(0, 0),
        "adversaries": flipped(REACH, REACH),
        "anti-adversaries for wrong labels": flipped(REACH, -REACH),
        "anti-adversaries for wrong labels, twice as far": flipped(REACH, -2 * REACH),
    },
    "the harder class a fifth as frequent": {
        "natural": balanced(0, 0, 0.2),
        "adversaries": balanced(REACH, REACH, 0.2),
        "anti-adversaries for the frequent class": balanced(REACH, -REACH, 0.2),
    },
}


LOSSES = {"share of wrong ones": best, "logistic": best_logistic}


def table() -> str:
    """Markdown, errors in percent."""
    classes = ("harder class", "easier class", "mean")
    columns = ("setting", "trained on", "loss", "threshold", *classes, *(f"robust: {one}" for one in classes))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for setting, ways in SETTINGS.items():
        for loss, found in LOSSES.items():
            for way, groups in ways.items():
                threshold = found(groups)
                pairs = (errors(threshold), errors(threshold, REACH))
                rates = [rate for hard, easy in pairs for rate in (hard, easy, (hard + easy) / 2)]
                shown = " | ".join(f"{100 * rate:.1f}" for rate in rates)
                lines.append(f"| {setting} | {way} | {loss} | {threshold:+.3f} | {shown} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Natural errors against how far the easier class is moved, the harder one by an adversary of `REACH`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    rows = figure.subplots(2, 3, sharey=True, sharex=True)
    moves = np.linspace(-REACH, REACH, 21)
    shown: tuple[tuple[str, str, Callable[[float], list[Group]]], ...] = (
        ("balanced, clean", "the easier class is moved by", lambda e: balanced(REACH, e)),
        ("30 % of the harder class's labels wrong", "images of wrong labels are moved by", lambda e: flipped(REACH, e)),
        ("harder class a fifth as frequent", "the frequent class is moved by", lambda e: balanced(REACH, e, 0.2)),
    )
    for place, (panels, (loss, found)) in enumerate(zip(rows, LOSSES.items(), strict=True)):
        panels[0].set_ylabel(f"natural error, %\n(trained by {loss})")
        for axes, (title, said, groups) in zip(panels, shown, strict=True):
            hard, easy = np.array([errors(found(groups(float(move)))) for move in moves]).T
            axes.plot(moves, 100 * hard, label="harder class")
            axes.plot(moves, 100 * easy, label="easier class")
            axes.plot(moves, 50 * (hard + easy), "k--", label="mean")
            axes.axvline(0, color="0.8", zorder=0)
            if place == 0:
                axes.set_title(title, fontsize=9)
            else:
                axes.set_xlabel(f"{said}\n← anti-adversary    adversary →", fontsize=9)
    rows[0][0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the picture goes, as PNG or SVG; none by default")
    given = parser.parse_args()
    print(table())
    if given.out:
        draw(given.out)


if __name__ == "__main__":
    main()
