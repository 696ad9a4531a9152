"""A study file: a plan, what is varied in it, and the one comparison that was fixed beforehand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import product
from pathlib import Path
from typing import Any, Literal

from robal import presets
from robal.acquisition import Random
from robal.data import Data
from robal.errors import InputError, PlanError, did_you_mean
from robal.plan import Plan
from robal.plan_checks import check
from robal.plans import merge, nested, read_plan, read_yaml
from robal.records import digest
from robal.studies.measures import measures_of
from robal.studies.reproduce import reproduction
from robal.training import Recipe

_KEYS = ("preset", "plan", "grid", "primary", "measures", "reproduces")
_PLAN_KEYS = {"dataset", *Plan.__dataclass_fields__}
MOST_CELLS = 2_000
COLUMNS = ("runs", "labels", "accuracy", "interval", "effect", "pairs", "p", "time")  # words of the report's table


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        labels: by axis, what its value is called; the seed is an axis too.
        plan: the run's.
    """

    labels: Mapping[str, str]
    plan: Plan

    @cached_property
    def name(self) -> str:
        """The run's folder: readable, and unlike that of any other plan."""
        words = [f"s{label}" if axis == "seed" else label for axis, label in self.labels.items()]
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")[:80]
        return f"{readable}-{self.identity[:8]}"

    @cached_property
    def identity(self) -> str:
        """Of another plan, or another data set, another one."""
        return _identity(self.plan)

    @cached_property
    def start(self) -> str:
        """What the first round follows from: runs with the same one have the same round 0. "" where people answer."""
        if not self.plan.is_simulated:
            return ""
        same = replace(
            self.plan, acquisition=Random(), recipe=Recipe(), relabel=None, per_round=1, rounds=min(self.plan.rounds, 1)
        )
        apart = f" {self.plan.meta_share} {self.plan.meta_answers}" if self.plan.meta_share else ""
        return _identity(same) + apart

    @property
    def said(self) -> str:
        """ "acquisition DRE, seed 0" """
        return ", ".join(f"{axis} {label}" for axis, label in self.labels.items())


@dataclass(frozen=True)
class Primary:
    """The one comparison that is tested; all else explores. Fixed in the study file before anything runs.

    Args:
        axis: what is compared, as in `acquisition`.
        compare: two labels of that axis: the first is expected to be better, but the test is two-sided.
        measure: "accuracy", or an attack as the metrics call it, as in "AutoAttack".
        at: "end", after the last round, or "area", under the curve over labels bought: the mean height.
        where: labels of other axes that single out one comparison.
    """

    axis: str = "acquisition"
    compare: tuple[str, str] = ("DRE", "Random")
    measure: str = "AutoAttack"
    at: Literal["end", "area"] = "end"
    where: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Args:
        cells: every run, in the order of the file.
        axes: by axis, the labels of its values.
        primary: None where the study only explores.
        measures: what the report shows of the end beside accuracies, as `measures_of` names it.
        reproduces: what published table: "dre-table5-mnist"; "" where none.
    """

    cells: tuple[Cell, ...]
    axes: Mapping[str, tuple[str, ...]]
    primary: Primary | None = None
    measures: tuple[str, ...] = ()
    reproduces: str = ""

    def check(self) -> dict[str, Data]:
        """Load each data set once, and refuse what a run would stop at.

        Returns:
            By data source, what was loaded.

        Raises:
            PlanError: naming the cells whose plan its data cannot carry.
            DataError: for data that are missing.
        """
        loaded: dict[str, Data] = {}
        mistakes: dict[str, list[Cell]] = {}
        seen: dict[str, str | None] = {}
        for cell in self.cells:
            alike = _identity(replace(cell.plan, seed=0))
            if alike not in seen:
                source = repr(cell.plan.data)
                if source not in loaded:
                    loaded[source] = cell.plan.data.load()
                try:
                    check(cell.plan, loaded[source])
                    seen[alike] = None
                except InputError as error:
                    seen[alike] = str(error)
            if (mistake := seen[alike]) is not None:
                mistakes.setdefault(mistake, []).append(cell)
        _refuse(mistakes)
        return loaded


def _identity(plan: Plan) -> str:
    """The plan's digits, in which the data set counts; where it lies does not."""
    return hashlib.sha256(f"{digest(plan)} {Path(plan.data.name).name}".encode()).hexdigest()[:16]


def study_of(said: Mapping[str, Any], where: str = "the study") -> Study:
    """The study that a mapping describes, with the keys `preset`, `plan`, `grid` (or a list of grids) and `primary`.

    Raises:
        PlanError: with every mistake in it; one in a cell of the grid names the cell.
    """
    unknown = [f"{where}: {key}: unknown; {did_you_mean(str(key), _KEYS)}" for key in said if key not in _KEYS]
    if unknown:
        raise PlanError(unknown)
    grids, common = grids_of(said, where), said.get("plan") or {}
    if not isinstance(common, Mapping):
        raise PlanError([f"{where}: plan must be a mapping (key: value), not {common!r}"])
    preset = said.get("preset")
    base = merge(read_yaml(presets.text(str(preset)), str(preset)) if preset else {}, nested(common))
    cells: dict[str, Cell] = {}
    axes: dict[str, dict[str, None]] = {}
    for grid in grids:
        mine = {str(axis): _values(str(axis), values, where) for axis, values in grid.items()}
        seeds = mine.pop("seed", {str(base.get("seed", 0)): {}})
        mine["seed"] = seeds  # last
        if axes and set(mine) != set(axes):
            raise PlanError(
                [f"{where}: all grids vary the same: {', '.join(axes)} and {', '.join(mine)} do not go together"]
            )
        for cell in _cells(mine, base, where):
            other = cells.setdefault(cell.identity, cell)
            if dict(other.labels) != dict(cell.labels):
                same = f"{other.said} and {cell.said} are the same run"
                raise PlanError([f"{where}: {same}: what is varied makes no difference"])
        for axis, values in mine.items():
            axes.setdefault(axis, {}).update(dict.fromkeys(values))
    names = {axis: tuple(values) for axis, values in axes.items()}
    primary = _primary(said.get("primary"), names, where)
    if primary is not None:
        _check_measure(primary, cells.values(), where)
    measures = _further(said.get("measures"), cells.values(), where)
    reproduces = str(said.get("reproduces") or "")
    if reproduces:
        reproduction(reproduces)  # says so where there is none
    return Study(tuple(cells.values()), names, primary, measures, reproduces)


def grids_of(said: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The grids of a study, of which there is one or a list. Raises PlanError for what is no grid."""
    grids = said.get("grid")
    grids = grids if isinstance(grids, list) else [grids]
    if not grids or not all(isinstance(grid, Mapping) and grid for grid in grids):
        raise PlanError([f"{where}: grid names what is varied, as in grid: {{acquisition: [Random, DRE], seed: 3}}"])
    return grids


def holds(wide: Mapping[str, Any], grid: Mapping[str, Any], where: str = "the study") -> bool:
    """Whether all runs of a grid are runs of another.

    >>> holds({"acquisition": ["DRE", "Random"], "seed": 6}, {"acquisition": ["Random"], "seed": 2})
    True
    """
    more, less = (
        {str(axis): _values(str(axis), values, where) for axis, values in one.items()} for one in (wide, grid)
    )
    return set(more) == set(less) and all(less[axis].items() <= more[axis].items() for axis in less)


def _cells(axes: Mapping[str, Mapping[str, Any]], base: Any, where: str) -> list[Cell]:
    """The product of some axes.

    Raises:
        PlanError: with the mistakes of all cells, or for far too many of them.
    """
    count = reduce(lambda many, values: many * len(values), axes.values(), 1)
    if count > MOST_CELLS:
        raise PlanError([f"{where}: its grid has {count:,} runs, and at most {MOST_CELLS:,} make sense"])
    cells, mistakes = [], dict[str, list[Cell]]()
    for chosen in product(*(values.items() for values in axes.values())):
        labels = dict(zip(axes, (label for label, _ in chosen), strict=True))
        try:
            plan = read_plan(base=reduce(merge, (settings for _, settings in chosen), base))
            cells.append(Cell(labels, plan.located()))
        except PlanError as error:
            for mistake in error.mistakes:
                mistakes.setdefault(mistake, []).append(Cell(labels, Plan()))
    _refuse(mistakes)
    return cells


def _refuse(mistakes: Mapping[str, list[Cell]]) -> None:
    """One sentence a mistake: the first cell that has it, and how many more."""
    if mistakes:
        more = {
            mistake: f" (and {len(cells) - 1} more)" if len(cells) > 1 else "" for mistake, cells in mistakes.items()
        }
        raise PlanError([f"{cells[0].said}{more[mistake]}: {mistake}" for mistake, cells in mistakes.items()])


def _values(axis: str, values: Any, where: str) -> dict[str, dict[str, Any]]:
    """By label, the settings that a value of an axis stands for."""
    is_setting = axis.split(".")[0] in _PLAN_KEYS
    if axis in COLUMNS:
        raise PlanError([f"{where}: grid.{axis}: a column of the report is called so; give the axis another name"])
    if axis == "seed" and isinstance(values, int) and not isinstance(values, bool):
        values = list(range(values))
    if isinstance(values, list):
        if not is_setting:
            raise PlanError(
                [
                    f"{where}: grid.{axis} is no setting of a plan ({did_you_mean(axis, _PLAN_KEYS)}); an axis of a "
                    f"name of your own has labels with settings, as in {axis}: {{short: {{}}, long: {{rounds: 9}}}}"
                ]
            )
        labelled = {_label(value, axis, where): value for value in values}
        if len(labelled) < len(values):
            raise PlanError([f"{where}: grid.{axis} has a value twice"])
    elif isinstance(values, Mapping):
        labelled = {str(label): value for label, value in values.items()}
    else:
        raise PlanError([f"{where}: grid.{axis} is a list of values, or gives them labels (label: value)"])
    if not labelled:
        raise PlanError([f"{where}: grid.{axis} has no value"])
    if is_setting:
        return {label: nested({axis: value}) for label, value in labelled.items()}
    odd = [label for label, value in labelled.items() if not isinstance(value, Mapping | None)]
    if odd:
        raise PlanError([f"{where}: grid.{axis}.{odd[0]} must be a mapping of settings (key: value)"])
    return {label: nested(value or {}) for label, value in labelled.items()}


def _label(value: Any, axis: str, where: str) -> str:
    """A value in a word.

    >>> _label({"name": "DRE", "bins": 30}, "acquisition", "")
    'DRE bins=30'
    """
    if isinstance(value, str | int | float):
        return str(value).rpartition("/")[2] if axis in ("dataset", "data.name") else str(value)
    if (
        isinstance(value, Mapping)
        and "name" in value
        and not any(isinstance(part, dict | list) for part in value.values())
    ):
        return " ".join([str(value["name"]), *(f"{key}={part}" for key, part in value.items() if key != "name")])
    raise PlanError([f"{where}: grid.{axis}: give {value!r} a label, as in {axis}: {{label: …}}"])


def _primary(said: Any, axes: Mapping[str, tuple[str, ...]], where: str) -> Primary | None:
    if said is None:
        return None
    example = "primary: {axis: acquisition, compare: [DRE, Random], measure: AutoAttack, at: end}"
    if not isinstance(said, Mapping):
        raise PlanError([f"{where}: primary is a mapping, as in {example}"])
    unknown = [
        f"{where}: primary.{key}: unknown; as in {example}" for key in said if key not in Primary.__dataclass_fields__
    ]
    if unknown:
        raise PlanError(unknown)
    if not isinstance(said.get("compare", ()), list | tuple) or not isinstance(said.get("where") or {}, Mapping):
        raise PlanError([f"{where}: primary.compare is a list, and primary.where a mapping, as in {example}"])
    found = Primary(**{**said, "compare": tuple(map(str, said.get("compare", Primary.compare)))})
    found = replace(found, where={str(axis): str(label) for axis, label in (found.where or {}).items()})
    unknown = [axis for axis in found.where or {} if axis not in axes]
    mistakes = [f"{where}: primary.where: {axis!r} is no axis of the grid" for axis in unknown]
    if found.at not in ("end", "area"):
        mistakes.append(f"{where}: primary.at is end or area, not {found.at!r}")
    if found.axis not in axes or found.axis == "seed":
        mistakes.append(f"{where}: primary.axis: {found.axis!r} is no axis of the grid ({', '.join(axes)})")
    elif len(found.compare) != 2 or found.compare[0] == found.compare[1]:
        mistakes.append(f"{where}: primary.compare takes two labels of {found.axis}")
    for axis, label in [*((found.axis, label) for label in found.compare), *(found.where or {}).items()]:
        if axis in axes and label not in axes[axis]:
            mistakes.append(f"{where}: primary: {label!r} is no value of {axis} ({', '.join(axes[axis])})")
    fixed = {found.axis, "seed", *(found.where or {})}
    several = [axis for axis, labels in axes.items() if axis not in fixed and len(labels) > 1]
    if several:
        mistakes.append(
            f"{where}: primary is one comparison, and {', '.join(several)} has several values: say which, as in "
            f"where: {{{several[0]}: {axes[several[0]][0]}}}"
        )
    if mistakes:
        raise PlanError(mistakes)
    return found


def _further(said: Any, cells: Iterable[Cell], where: str) -> tuple[str, ...]:
    """The measures that a study asks for; refused where no run has them."""
    if said is None:
        return ()
    if not isinstance(said, list):
        raise PlanError([f"{where}: measures is a list, as in measures: ['accuracy, worst class']"])
    there = dict.fromkeys(name for cell in cells for name in measures_of(cell.plan))
    odd = [
        f"{where}: measures: no run has {name!r}; {did_you_mean(str(name), there)}"
        for name in said
        if name not in there
    ]
    if odd:
        raise PlanError(odd)
    return tuple(said)


def _check_measure(primary: Primary, cells: Iterable[Cell], where: str) -> None:
    """Refuse a measure that one of the runs which are compared would not have."""
    for cell in cells:
        if cell.labels[primary.axis] not in primary.compare or not (primary.where or {}).items() <= cell.labels.items():
            continue
        names = measures_of(cell.plan, primary.at)
        if primary.measure not in names:
            when = "in each round" if primary.at == "area" else "at its end"
            lacking = f"{primary.measure!r} is not measured {when} by {cell.said}; it measures "
            lacking += ", ".join(name for name in names if ", " not in name and not name.startswith("boundary error"))
            raise PlanError([f"{where}: primary.measure: {lacking}"])
