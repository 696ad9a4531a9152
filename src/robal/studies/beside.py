"""Published figures and ours, side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from robal.studies.reproduce import HIGHEST, At, Reproduction, reproduction
from robal.studies.results import Block, Line, Results, bias_of
from robal.studies.statistics import over_seeds
from robal.studies.study import Cell, Study, study_of
from robal.studies.tracking import settings_of
from robal.wilson import wilson


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
        is_bound: whether what was published is said of all it may be of, from above.
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
    is_bound: bool = False

    @property
    def differs(self) -> bool:
        """Whether what was published lies outside our interval; a bound, below it."""
        return self.low > self.published or (self.high < self.published and not self.is_bound)


@dataclass(frozen=True)
class Correlated:
    """A published correlation of bias and robustness over stages, and ours."""

    measure: str
    mean: float
    extreme: float
    ours_mean: float
    ours_extreme: float
    stages: int


_SILENT = ("rounds", "seed", "device", "data.folder")
_HARMLESS = (
    *_SILENT,
    *("validation.images", "evaluation.images", "evaluation.each_round", "evaluation.each_round_images"),
)


@dataclass(frozen=True)
class Source:
    """What a study reproduces, and how.

    Args:
        about: None where it reproduces nothing.
        otherwise: what its plans say otherwise: by key, a sentence.
        comparable: whether its figures can stand beside the published ones.
    """

    about: Reproduction | None
    otherwise: Mapping[str, str]
    comparable: bool

    @classmethod
    def of(cls, study: Study) -> Source:
        """Seen from the study's plans."""
        if not study.reproduces:
            return cls(None, {}, False)
        about = reproduction(study.reproduces)
        whole = "end" not in about.published or {cell.plan.rounds for cell in study.cells} <= set(about.rounds.values())
        told = otherwise(about, study)
        return cls(about, told, whole and set(told) <= set(_HARMLESS))


def otherwise(about: Reproduction, study: Study) -> dict[str, str]:
    """What a study's plans say otherwise than the reproduction's: by key, a sentence."""
    meant = {_place(cell): cell.plan for cell in study_of(about.study(seeds=1)).cells}
    found: dict[str, str] = {}
    for cell in study.cells:
        if _place(cell) not in meant:
            return {"grid": f"{cell.said} is no part of it."}
        ours, theirs = settings_of(cell.plan), settings_of(meant[_place(cell)])
        for key in {**theirs, **ours}:
            if ours.get(key) != theirs.get(key) and key not in _SILENT:
                found[key] = f"{key} is {ours.get(key, 'not said')} instead of {theirs.get(key, 'not said')}."
    return found


def _place(cell: Cell) -> frozenset[tuple[str, str]]:
    return frozenset((axis, label) for axis, label in cell.labels.items() if axis != "seed")


def beside(results: Results, source: Source) -> list[Beside]:
    """The published figures and a study's, where they can be compared."""
    about, found = source.about, list[Beside]()
    if about is None or not source.comparable:
        return []
    for block in results.blocks:
        lines = {line.label: line for line in block.lines}
        for at, rows in about.published.items():
            for label, measures in rows.items():
                some = [lines[label]] if label in lines else []
                if label == HIGHEST and set(lines) == set(about.labels):
                    some = list(lines.values())
                for measure, published in measures.items():
                    ours = [one for line in some if (one := _ours(line, measure, at, about)) is not None]
                    if ours and len(ours) == len(some):
                        best = max(ours, key=lambda one: one.ours)
                        bound = measure in about.at_most
                        found.append(replace(best, label=label, published=published, is_bound=bound))
    return found


def points(source: Source, measure: str) -> dict[str, list[tuple[int, float]]]:
    """What was published, for the curves: by label, labels bought and rates."""
    about = source.about
    found: dict[str, list[tuple[int, float]]] = {}
    if about is not None and source.comparable:
        for at, rows in about.published.items():
            for label, measures in rows.items():
                if isinstance(at, int) and measure in measures:
                    found.setdefault(label, []).append((at, measures[measure]))
    return found


def correlated(results: Results, block: Block, source: Source) -> list[Correlated]:
    """Published correlations and ours, over the same functions: all of the table but DRE, in several rounds."""
    about = source.about
    measure = block.curve_measure(results.main[0])
    lines = tuple(line for line in block.lines if line.label != "DRE")
    if (
        about is None
        or not source.comparable
        or measure is None
        or {line.label for line in lines} != {*about.labels} - {"DRE"}
    ):
        return []
    bias, found = bias_of(replace(block, lines=lines), measure), []
    for name, published in about.correlations.items() if bias is not None else ():
        told = [] if bias is None else bias.correlations.get(name, ())
        values = [one.r for one in told if one.r is not None and one.points == len(lines)]
        if values:
            extreme, mean = max(values, key=abs), statistics.mean(values)
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
