"""What a study found: by what is compared, means over seeds, differences to a reference, and what the labels bought."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

from robal.bias import MEASURES
from robal.errors import RobalError
from robal.report.folder import Round, RunRecord, is_auto_attack, read
from robal.report.rates import Rate
from robal.studies.compare import Place, Standing
from robal.studies.measures import BOUNDARY, WORST, is_by_class, without_kind
from robal.studies.statistics import (
    Correlation,
    Paired,
    area,
    correlation,
    holm,
    labels_needed,
    over_seeds,
    over_stages,
    paired,
)
from robal.studies.study import Cell, Primary
from robal.wilson import wilson


def rate_of(row: Round, measure: str) -> Rate | None:
    """Of a round: "accuracy", robust accuracy under the attack that is called so, or what else `measures_of` names."""
    if not is_by_class(measure):
        return row.accuracy if measure == "accuracy" else row.robust.get(measure)
    rates = [rate for rate in _by_class(row, without_kind(measure)) if rate is not None]
    if not rates:
        return None
    if not measure.endswith(WORST):
        return Rate(statistics.mean(rates), None)
    return Rate(max(rates) if measure.startswith(BOUNDARY) else min(rates), None)


def _by_class(row: Round, measure: str) -> Sequence[float | None]:
    """Rates by class, None for one that is not there; the boundary error is what the attack takes from the accuracy."""
    if measure.startswith(BOUNDARY):
        return row.boundary.get(measure.removeprefix(BOUNDARY), ())
    return row.per_class.get("clean" if measure == "accuracy" else measure, ())


@dataclass(frozen=True)
class Run:
    """A cell and what its folder tells.

    Args:
        cell: of the study.
        record: the run.
    """

    cell: Cell
    record: RunRecord

    def curve(self, measure: str) -> tuple[list[int], list[float]]:
        """Labels bought and rates of the rounds that measured it."""
        seen = [(row.bought, rate.value) for row in self.record.rounds if (rate := rate_of(row, measure)) is not None]
        return [labels for labels, _ in seen], [rate for _, rate in seen]

    def rate(self, measure: str, at: int | Literal["end"]) -> Rate | None:
        """Where so many labels were bought, or at the end of a finished run; None where it was not measured there."""
        rows = [row for row in self.record.rounds if row.bought == at]
        if at == "end":
            rows = list(self.record.rounds[-1:]) if self.is_finished else []
        return rate_of(rows[-1], measure) if rows else None

    def so_far(self, measure: str, at: int | Literal["end"]) -> list[float]:
        """The rates up to there."""
        labels, rates = self.curve(measure)
        return [rate for bought, rate in zip(labels, rates, strict=True) if at == "end" or bought <= at]

    @property
    def is_finished(self) -> bool:
        """Whether the last round that the study asks for is measured."""
        last = self.record.last
        return last is not None and (last.number >= self.cell.plan.rounds or last.stopped)

    def value(self, measure: str, at: str = "end") -> float | None:
        """A rate of a finished run, after its last round or as its curve's mean height; None where not measured."""
        labels, rates = self.curve(measure)
        if not self.is_finished or not rates:
            return None
        last = self.record.last
        if at == "area":
            if last is not None and last.stopped and labels[-1] < self.cell.plan.budget:
                # it would hardly have risen: as high to the end, so that it compares with runs that went on
                labels, rates = [*labels, self.cell.plan.budget], [*rates, rates[-1]]
            return area(labels, rates)
        rate = None if last is None else rate_of(last, measure)
        return None if rate is None else rate.value


@dataclass(frozen=True)
class Line:
    """One thing that is compared, in one block.

    Args:
        label: what it is called.
        runs: of its seeds, those with at least one measured round.
    """

    label: str
    runs: tuple[Run, ...]

    def values(self, measure: str, at: str = "end") -> dict[str, float]:
        """By seed, of finished runs."""
        found = {run.cell.labels["seed"]: run.value(measure, at) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, measure: str, at: str = "end") -> float | None:
        """Over seeds."""
        values = list(self.values(measure, at).values())
        return statistics.mean(values) if values else None

    def by_class(self, measure: str) -> dict[str, float]:
        """By name, means over finished runs, at their ends, of the classes that all of them have test images of."""
        found = []
        for run in self.runs:
            if run.is_finished and run.record.last is not None:
                named = zip(run.record.classes, _by_class(run.record.last, measure), strict=False)
                found.append({name: rate for name, rate in named if rate is not None})
        shared = [name for name in (found[0] if found else {}) if all(name in rates for rates in found)]
        return {name: statistics.mean(rates[name] for rates in found) for name in shared}

    def over_seeds(self, measure: str, at: str = "end") -> tuple[float, float] | None:
        """95 % bootstrap interval of the mean; None for fewer than five seeds."""
        return over_seeds(list(self.values(measure, at).values()))

    def over_images(self, measure: str) -> tuple[float, float] | None:
        """95 % Wilson interval for the mean as if of one run: all seeds are measured on the same images."""
        mean, last = self.mean(measure), [run.record.last for run in self.runs if run.is_finished]
        images = [rate.images for row in last if row and (rate := rate_of(row, measure)) and rate.images]
        return None if mean is None or not images else wilson(mean, min(images))

    def curve(
        self, measure: str, seeds: Collection[str] | None = None
    ) -> tuple[list[int], list[float], list[float], list[float]]:
        """Labels, and mean, lowest and highest rate over finished runs (of some `seeds`), where all were measured."""
        by_labels: dict[int, list[float]] = {}
        some = [run for run in self.runs if run.is_finished and (seeds is None or run.cell.labels["seed"] in seeds)]
        for run in some:
            for labels, rate in zip(*run.curve(measure), strict=True):
                by_labels.setdefault(labels, []).append(rate)
        whole = {labels: rates for labels, rates in sorted(by_labels.items()) if len(rates) == len(some)}
        rates = list(whole.values())
        return (
            list(whole),
            [statistics.mean(some) for some in rates],
            [min(some) for some in rates],
            [max(some) for some in rates],
        )

    @cached_property
    def seconds(self) -> float:
        """Of one run, on average over those that are finished."""
        done = [run.record.seconds for run in self.runs if run.is_finished]
        return statistics.mean(done) if done else 0.0

    @cached_property
    def choosing(self) -> float:
        """Seconds of choosing what to ask about in one run, a teacher's or proxy's training included, on average."""
        done = [sum(row.times["choose"] for row in run.record.rounds) for run in self.runs if run.is_finished]
        return statistics.mean(done) if done else 0.0

    @cached_property
    def evaluations(self) -> int:
        """Gradient evaluations of one run's training, on average over those that are finished."""
        done = [sum(row.gradient_evaluations or 0 for row in run.record.rounds) for run in self.runs if run.is_finished]
        return round(statistics.mean(done)) if done else 0

    @property
    def bought(self) -> int:
        """Labels of one run at its end."""
        return max((run.record.last.bought for run in self.runs if run.record.last and run.is_finished), default=0)

    @property
    def finished(self) -> int:
        """How many runs are."""
        return sum(run.is_finished for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """How a line differs from the reference of its block, by seed.

    Args:
        pairs: the differences and the test.
        adjusted: p after Holm's correction over the lines of the block; None for the primary and where there is none.
        is_primary: fixed in the study file beforehand.
        least_p: the least that p, or the adjusted p, could be.
        needed: labels until the line reaches for good where the reference ends, by the curves of the seeds that both
            have; None where it never does, nan where no curve says.
    """

    pairs: Paired
    adjusted: float | None
    is_primary: bool
    least_p: float
    needed: float | None


@dataclass(frozen=True)
class Block:
    """The runs that differ by what is compared and by seed alone.

    Args:
        fixed: by axis, the labels that they share, where an axis has several.
        lines: what is compared, in the order of the study file.
        reference: the label that others are compared to.
        primary: the one comparison, where it lies in this block.
    """

    fixed: Mapping[str, str]
    lines: tuple[Line, ...]
    reference: str
    primary: Primary | None = None

    @property
    def said(self) -> str:
        """ "dataset mnist, network LeNet5", or ""."""
        return ", ".join(f"{axis} {label}" for axis, label in self.fixed.items())

    def line(self, label: str) -> Line:
        """The one that is called so."""
        return next(line for line in self.lines if line.label == label)

    def curve_measure(self, measure: str) -> str | None:
        """`measure` where curves have it, else AutoAttack's or the last attack that was measured in several rounds."""
        names = {name for line in self.lines for run in line.runs for name in run.record.attacks}
        order = [measure, *sorted(names, key=lambda name: (not is_auto_attack(name), name))]
        return next((name for name in order if len(self.line(self.reference).curve(name)[0]) > 1), None)

    def pairs(self, measure: str, at: str = "end") -> dict[str, Paired]:
        """By label, each other line beside the reference, by seeds that both have."""
        ours = self.line(self.reference).values(measure, at)
        others = [line for line in self.lines if line.label != self.reference]
        found = {line.label: paired(line.values(measure, at), ours) for line in others}
        return {label: pairs for label, pairs in found.items() if pairs.seeds}

    def differences(self, measure: str, at: str = "end") -> dict[str, Difference]:
        """By label, how each other line differs from the reference, and what tests say of all of them."""
        found = self.pairs(measure, at)
        same = self.primary is not None and (self.primary.measure, self.primary.at) == (measure, at)
        first = self.primary.compare[0] if self.primary is not None and same else None
        exploring = {label: pairs.p for label, pairs in found.items() if label != first and pairs.p is not None}
        adjusted = dict(zip(exploring, holm(list(exploring.values())), strict=True))
        return {
            label: Difference(
                pairs,
                adjusted.get(label),
                label == first,
                pairs.least_p if label == first else min(1.0, pairs.least_p * max(1, len(exploring))),
                self._needed(label, self.curve_measure(measure), pairs.seeds),
            )
            for label, pairs in found.items()
        }

    def _needed(self, label: str, measure: str | None, seeds: Collection[str]) -> float | None:
        if measure is None:
            return math.nan
        one, other = self.line(label).curve(measure, seeds), self.line(self.reference).curve(measure, seeds)
        return labels_needed(one[0], one[1], other[1][-1]) if len(one[0]) > 1 and len(other[0]) > 1 else math.nan

    def papers_test(self, label: str, measure: str) -> tuple[float, int] | None:
        """p of the paper's own test over stages, and how many stages; see `statistics.over_stages` for why not."""
        one, other = self.line(label).curve(measure), self.line(self.reference).curve(measure)
        stages = [labels for labels in one[0] if labels in other[0]]
        if len(stages) < 2:
            return None
        at = [(one[1][one[0].index(labels)], other[1][other[0].index(labels)]) for labels in stages]
        return over_stages([a for a, _ in at], [b for _, b in at]), len(stages)


@dataclass(frozen=True)
class Bias:
    """Bias and robustness in one block, as in figure 3 of DRE's paper.

    Args:
        rounds: the rounds that are told of.
        mean: by measure and label, the mean bias over rounds and seeds.
        correlations: by measure, one for each of `rounds`.
    """

    rounds: tuple[int, ...]
    mean: Mapping[str, Mapping[str, float]]
    correlations: Mapping[str, tuple[Correlation, ...]]


@dataclass(frozen=True)
class Results:
    """All that a study's folder tells.

    Args:
        place: the study in its folder.
        blocks: one for each combination of what is fixed.
        measures: "accuracy" and each attack that any run measured, AutoAttack last of them; then those that the study
            asks for.
        main: the measure that comparisons are shown for, and "end" or "area".
        axis: what is compared.
        standings: by cell name, how far it is.
        notes: what could not be read, and what is not finished.
    """

    place: Place
    blocks: tuple[Block, ...]
    measures: tuple[str, ...]
    main: tuple[str, str]
    axis: str
    standings: Mapping[str, Standing]
    notes: tuple[str, ...]


def results_of(place: Place) -> Results:
    """Read a study's folder; what is damaged is said and left out."""
    study, notes = place.study, []
    runs: dict[str, Run] = {}
    standings = {cell.name: place.standing(cell) for cell in study.cells}
    for cell in study.cells:
        standing = standings[cell.name]
        if standing.status in ("damaged", "failed", "waits"):
            notes.append(f"{cell.name} {standing.status}: {standing.why}")
        try:
            record = read(place.folder(cell), cell.name, strips=False) if standing.rounds else None
        except RobalError as error:
            notes.append(f"{cell.name} is left out: {error}")
            continue
        if record is not None and record.rounds:
            runs[cell.name] = Run(cell, record)
    axis = study.primary.axis if study.primary else _compared(study.axes)
    names = {name for run in runs.values() for name in run.record.attacks}
    measures = ("accuracy", *sorted(names, key=lambda name: (is_auto_attack(name), name)))
    usual = measures[-1]
    measures += tuple(name for name in study.measures if name not in measures)
    main = (study.primary.measure, study.primary.at) if study.primary else (usual, "end")
    others = [name for name in study.axes if name not in (axis, "seed")]
    blocks = []
    for chosen in product(*(study.axes[name] for name in others)):
        fixed = dict(zip(others, chosen, strict=True))
        lines = []
        for label in study.axes[axis]:
            wanted = fixed | {axis: label}
            some = [cell for cell in study.cells if wanted.items() <= dict(cell.labels).items()]
            found = tuple(runs[cell.name] for cell in some if cell.name in runs)
            if found:
                lines.append(Line(label, found))
        if lines:
            blocks.append(_block(fixed, lines, study.primary, study.axes))
    return Results(place, tuple(blocks), measures, main, axis, standings, tuple(notes))


def _compared(axes: Mapping[str, tuple[str, ...]]) -> str:
    """What a study without a primary comparison compares: acquisition where it varies, else what does first."""
    varied = [axis for axis, labels in axes.items() if len(labels) > 1 and axis != "seed"]
    return "acquisition" if "acquisition" in varied else varied[0] if varied else next(iter(axes))


def _block(
    fixed: Mapping[str, str], lines: Sequence[Line], primary: Primary | None, axes: Mapping[str, tuple[str, ...]]
) -> Block:
    labels = [line.label for line in lines]
    here = (
        primary
        if primary is not None and all(fixed.get(a) == label for a, label in (primary.where or {}).items())
        else None
    )
    wanted = primary.compare[1] if primary is not None else "Random"
    reference = wanted if wanted in labels else labels[0]
    several = {axis: label for axis, label in fixed.items() if len(axes[axis]) > 1}
    return Block(several, tuple(lines), reference, here if reference == wanted else None)


def bias_of(block: Block, measure: str) -> Bias | None:
    """Bias of each line's choices, round by round, against the robustness that followed; None where nothing is told."""
    by_round: dict[int, dict[str, dict[str, list[float]]]] = {}
    robust: dict[int, dict[str, list[float]]] = {}
    for line in block.lines:
        for run in line.runs:
            for row in run.record.rounds:
                rate = rate_of(row, measure)
                if not row.bias:
                    continue
                if rate is not None:
                    robust.setdefault(row.number, {}).setdefault(line.label, []).append(rate.value)
                for name, value in row.bias.items():
                    by_round.setdefault(row.number, {}).setdefault(name, {}).setdefault(line.label, []).append(value)
    if not by_round:
        return None
    rounds = tuple(sorted(by_round))
    mean, correlations = {}, {}
    for name in MEASURES:
        told = {label for number in rounds for label in by_round[number].get(name, {})}
        if not told:
            continue
        mean[name] = {
            line.label: statistics.mean(
                value for number in rounds for value in by_round[number].get(name, {}).get(line.label, [])
            )
            for line in block.lines
            if line.label in told
        }
        points = []
        for number in rounds:
            labels = [label for label in by_round[number].get(name, {}) if label in robust.get(number, {})]
            some = [statistics.mean(by_round[number][name][label]) for label in labels]
            points.append(correlation(some, [statistics.mean(robust[number][label]) for label in labels]))
        correlations[name] = tuple(points)
    return Bias(rounds, mean, correlations)
