"""Published tables as studies: the protocol, the numbers, and what is done otherwise, as data (`published/`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from importlib.resources import files
from typing import Any, Literal

import yaml

from robal import presets
from robal.errors import PlanError, did_you_mean
from robal.plan import Plan
from robal.plans import flat, merge, nested, parse_override, read_plan, read_yaml
from robal.studies.measures import measures_of

HIGHEST = "highest of all"  # a published row that is told of the best line of each measure
At = int | Literal["end"]  # labels bought, or the end of each run


@dataclass(frozen=True)
class Reproduction:
    """A published table or figure, or a part of one.

    Args:
        name: as in `robal reproduce NAME`.
        title: what it is.
        source: where it was published.
        preset: the protocol.
        settings: of the plan, beside the preset's.
        grids: what is compared, as in a study file, without the seeds.
        axis: of the grids: what is compared, and what `only` chooses from.
        rounds: by stage of the budget, the first one by default.
        published: by labels bought, label of the axis and measure, the rate, in [0, 1].
        correlations: published correlations of bias and robustness: by measure of bias, the mean over stages and the
            extreme one.
        primary: the comparison that is tested, where its labels are asked for.
        deviations: what is done otherwise, in sentences.
        quick: settings for a look that takes minutes.
        running_maximum: whether the published figures are, as it seems, the highest so far instead of the last.
        at_most: measures whose published figures are bounds from above.
        stand_in: settings by which another data set stands in where the original is absent; empty: none.
        also: other names of it, and the stage that they mean.
        measures: what is shown by class, as in a study file, where a run has it.
    """

    name: str
    title: str
    source: str
    preset: str
    settings: Mapping[str, Any]
    grids: Sequence[Mapping[str, Any]]
    axis: str
    rounds: Mapping[str, int]
    published: Mapping[At, Mapping[str, Mapping[str, float]]]
    correlations: Mapping[str, Mapping[str, float]]
    primary: Mapping[str, Any]
    deviations: tuple[str, ...]
    quick: Mapping[str, Any]
    running_maximum: bool = False
    at_most: tuple[str, ...] = ()
    stand_in: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    measures: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """What `only` chooses from."""
        return tuple(dict.fromkeys(label for grid in self.grids for label in grid[self.axis]))

    @property
    def dataset(self) -> str:
        """The data set that it was published for."""
        return _plan(self.preset, self.settings).data.name

    def study(
        self,
        stage: str | None = None,
        only: Sequence[str] = (),
        seeds: int = 3,
        rounds: int | None = None,
        quick: bool = False,
        settings: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The study that reproduces it, as a study file says it.

        Args:
            stage: as in `rounds`.
            only: some of the labels; all by default.
            seeds: how many, from 0 on.
            rounds: fewer or more than at the stage; published figures are compared where runs have their labels.
            quick: a look that takes minutes, and compares nothing.
            settings: further ones, key=value.

        Raises:
            PlanError: for a stage or a label that there is not.
        """
        stage = stage or next(iter(self.rounds))
        if stage not in self.rounds:
            raise PlanError([f"{self.name} has the stages {', '.join(self.rounds)}, not {stage!r}"])
        unknown = [
            f"{self.name} has no {one!r}; {did_you_mean(one, self.labels)}" for one in only if one not in self.labels
        ]
        if unknown:
            raise PlanError(unknown)
        plan: dict[str, Any] = {**self.settings, "rounds": self.rounds[stage] if rounds is None else rounds}
        if quick:
            plan |= {**self.quick, **({} if rounds is None else {"rounds": rounds})}
        refused = [setting for setting in settings if self._says(setting.partition("=")[0])]
        if refused:
            raise PlanError(
                [f"{refused[0]}: {self.name} says itself what it compares; for other choices use robal compare"]
            )
        for setting in settings:
            plan |= flat(parse_override(setting), into_components=False)
        grids = []
        for grid in self.grids:
            kept = {label: value for label, value in grid[self.axis].items() if not only or label in only}
            if kept:
                grids.append({**grid, self.axis: kept, "seed": seeds})
        said: dict[str, Any] = {"preset": self.preset, "plan": plan, "grid": grids[0] if len(grids) == 1 else grids}
        if self.primary and set(self.primary["compare"]) <= {label for grid in grids for label in grid[self.axis]}:
            said["primary"] = {"axis": self.axis, **self.primary}
        if self.measures:
            there = measures_of(_plan(self.preset, plan))  # a quick look has fewer attacks
            said["measures"] = [measure for measure in self.measures if measure in there]
        return said | {"reproduces": self.name}

    def _says(self, key: str) -> bool:
        """Whether a grid sets a key of the plan, or a part of it."""
        held: set[str] = set()
        for grid in self.grids:
            for axis, values in grid.items():
                held |= (
                    {axis} if axis in Plan.__dataclass_fields__ else {one for value in values.values() for one in value}
                )
        return any(f"{key}.".startswith(f"{one}.") or f"{one}.".startswith(f"{key}.") for one in held)


def _plan(preset: str, settings: Mapping[str, Any]) -> Plan:
    each = (nested({key: value}) for key, value in settings.items())
    return read_plan(base=reduce(merge, each, read_yaml(presets.text(preset), preset)))


@cache
def reproductions() -> dict[str, Reproduction]:
    """All that can be reproduced, by name."""
    found = {}
    for file in sorted((files("robal.studies") / "published").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            table, said = file.name.removesuffix(".yaml"), yaml.safe_load(file.read_text(encoding="utf-8"))
            for place, (column, about) in enumerate(said["columns"].items()):
                one = _read(table, column, place, about, said)
                found[one.name] = one
    return found


def _read(table: str, column: str, place: int, about: Mapping[str, Any], said: Mapping[str, Any]) -> Reproduction:
    """A column of a published table: $key in its settings and grids is what the column says of that key."""
    name = f"{table}-{column}".removesuffix("-")
    preset, settings = about["preset"], _filled(said.get("settings") or {}, about)
    rounds = {stage: about[stage] for stage in said.get("stages", ["last"])}
    plan = _plan(preset, settings)
    published: dict[At, dict[str, dict[str, float]]] = {}
    for key, rows in (said.get("published") or {}).items():
        at: At = plan.start.labels + rounds[key] * plan.per_round if key in rounds else key
        cells = {label: str(row).split()[place] for label, row in rows.items()}
        published[at] = {
            label: dict(zip(said["measures"], [round(float(word) / 100, 6) for word in cell.split("/")], strict=True))
            for label, cell in cells.items()
            if cell != "-"
        }
    return Reproduction(
        name,
        said["title"].format(**about),
        said["source"],
        preset,
        settings,
        _filled(about.get("grids") or said["grids"], about),
        said.get("axis", "acquisition"),
        rounds,
        published,
        about.get("correlations") or {},
        said.get("primary") or {},
        tuple(said["deviations"]),
        _filled(said["quick"], about),
        bool(said.get("running_maximum")),
        tuple(said.get("at_most", ())),
        about.get("stand_in") or {},
        {f"{other}-{column}": stage for other, stage in (said.get("also") or {}).items()},
        tuple(said.get("by_class", ())),
    )


def _filled(template: Any, about: Mapping[str, Any]) -> Any:
    """
    >>> _filled({"start.labels": "$all"}, {"all": 60_000})
    {'start.labels': 60000}
    """
    if isinstance(template, Mapping):
        return {key: _filled(value, about) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, about) for value in template]
    return about[template[1:]] if isinstance(template, str) and template.startswith("$") else template


def reproduction(name: str) -> Reproduction:
    """The one that is called so, or also so. Raises PlanError where none is."""
    for one in reproductions().values():
        if name in (one.name, *one.also):
            return one
    every = [name for one in reproductions().values() for name in (one.name, *one.also)]
    raise PlanError([f"nothing to reproduce is called {name!r}; {did_you_mean(name, every)}"])


def named(name: str) -> list[Reproduction]:
    """The one that is called so, or all columns of a table: those whose names begin with `name` and a hyphen.

    >>> [one.name for one in named("dfal-quickdraw")]
    ['dfal-quickdraw-lenet5', 'dfal-quickdraw-vgg8']
    """
    columns = [
        one
        for one in reproductions().values()
        if any(f"{each}-".startswith(f"{name}-") for each in (one.name, *one.also))
    ]
    return columns or [reproduction(name)]
