"""Published figures and ours, side by side."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

from robal.report.rates import wilson
from robal.studies.reproduce import HIGHEST, At, Reproduction, reproduction
from robal.studies.results import Block, Line, Results, bias_of
from robal.studies.statistics import over_seeds


@dataclass(frozen=True)
class Beside:
    """A published figure and ours.

    Args:
        label, measure: of what.
        labels: how many were bought.
        published, ours: rates; ours is a mean over `seeds` seeds.
        low, high: 95 % interval over the images, at our mean; with five seeds or more the wider of it and the seeds'.
        seeds: how many.
        highest: ours where the highest rate so far stands for each run's, where the published figure seems to be so.
    """

    label: str
    measure: str
    labels: int
    published: float
    ours: float
    low: float
    high: float
    seeds: int
    highest: float | None = None

    @property
    def differs(self) -> bool:
        """Whether what was published lies outside our interval."""
        return not self.low <= self.published <= self.high


@dataclass(frozen=True)
class Correlated:
    """A published correlation of bias and robustness over stages, and ours."""

    measure: str
    mean: float
    extreme: float
    ours_mean: float
    ours_extreme: float
    stages: int


def beside(results: Results) -> tuple[Reproduction | None, list[Beside]]:
    """What a study reproduces, if anything, and its figures beside the published ones where they can be compared."""
    about, comparable = of_results(results)
    if about is None or not comparable:
        return about, []
    found = []
    for block in results.blocks:
        lines = {line.label: line for line in block.lines}
        for at, rows in about.published.items():
            for label, measures in rows.items():
                for measure, published in measures.items():
                    some = list(lines.values()) if label == HIGHEST else [lines[label]] if label in lines else []
                    ours = [one for line in some if (one := _ours(line, measure, at, about)) is not None]
                    if ours:
                        best = max(ours, key=lambda one: one.ours)
                        found.append(replace(best, label=label, published=published))
    return about, found


def of_results(results: Results) -> tuple[Reproduction | None, bool]:
    """What a study reproduces, and whether its figures can be compared with the published ones."""
    name, _, stage = results.place.study.reproduces.partition(" ")
    return (reproduction(name), stage != "-") if name else (None, False)


def points(results: Results, measure: str) -> dict[str, list[tuple[int, float]]]:
    """What was published, for the curves: by label, labels bought and rates."""
    about, comparable = of_results(results)
    found: dict[str, list[tuple[int, float]]] = {}
    if about is not None and comparable:
        for at, rows in about.published.items():
            for label, measures in rows.items():
                if isinstance(at, int) and measure in measures:
                    found.setdefault(label, []).append((at, measures[measure]))
    return found


def correlated(results: Results, block: Block) -> list[Correlated]:
    """Published correlations and ours, where bias and robustness were measured in several rounds."""
    about, comparable = of_results(results)
    measure = block.curve_measure(results.main[0])
    bias = bias_of(block, measure) if about is not None and comparable and measure else None
    found = []
    for name, published in about.correlations.items() if about is not None and bias is not None else ():
        values = [one.r for one in bias.correlations.get(name, ()) if one.r is not None] if bias else []
        if values:
            extreme = max(values, key=abs)
            mean = statistics.mean(values)
            found.append(Correlated(name, published["mean"], published["extreme"], mean, extreme, len(values)))
    return found


def _ours(line: Line, measure: str, at: At, about: Reproduction) -> Beside | None:
    """What a line has for a published figure; None where it has none."""
    rates = [rate for run in line.runs if (rate := run.rate(measure, at)) is not None]
    images = [rate.images for rate in rates if rate.images]
    if not rates or not images:
        return None
    values = [rate.value for rate in rates]
    mean = statistics.mean(values)
    images_low, images_high = wilson(mean, min(images))
    low, high = over_seeds(values) or (images_low, images_high)
    highest = None
    if about.running_maximum:
        highest = statistics.mean(
            max(run.so_far(measure, at)) for run in line.runs if run.rate(measure, at) is not None
        )
    bought = at if isinstance(at, int) else line.bought
    return Beside(
        line.label, measure, bought, math.nan, mean, min(low, images_low), max(high, images_high), len(rates), highest
    )
