"""Published tables as studies: the protocol, the numbers, and what is done otherwise, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from robal.errors import PlanError, did_you_mean
from robal.plans import merge, parse_override

STAGES = ("third", "last")


@dataclass(frozen=True)
class Reproduction:
    """A published table, or a part of one.

    Args:
        name: as in `robal reproduce NAME`.
        title: what it is.
        source: where it was published.
        grid: what it compares: labels and acquisition functions.
        preset: the protocol.
        rounds: by stage of the budget.
        published: by stage, label and measure, the rate, in [0, 1].
        deviations: what is done otherwise, in sentences.
        quick: settings for a look that takes minutes.
    """

    name: str
    title: str
    source: str
    grid: dict[str, Any]
    preset: str
    rounds: dict[str, int]
    published: dict[str, dict[str, dict[str, float]]]
    deviations: tuple[str, ...]
    quick: dict[str, Any]

    def study(
        self,
        stage: str = "third",
        only: Sequence[str] = (),
        seeds: int = 3,
        rounds: int | None = None,
        quick: bool = False,
        settings: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The study that reproduces it, as a study file says it.

        Args:
            stage: "third" or "last".
            only: some of the labels; all by default.
            seeds: how many, from 0 on.
            rounds: fewer or more than at the stage; then nothing is compared with what was published.
            quick: a look that takes minutes, and compares nothing.
            settings: further ones, key=value.

        Raises:
            PlanError: for a stage or a label that there is not.
        """
        if stage not in self.rounds:
            raise PlanError([f"{self.name} has the stages {', '.join(self.rounds)}, not {stage!r}"])
        unknown = [
            f"{self.name} has no {one!r}; {did_you_mean(one, self.grid)}" for one in only if one not in self.grid
        ]
        if unknown:
            raise PlanError(unknown)
        plan: dict[str, Any] = {"rounds": self.rounds[stage] if rounds is None else rounds}
        if quick:
            plan |= self.quick | ({} if rounds is None else {"rounds": rounds})
        refused = [setting for setting in settings if setting.startswith("acquisition")]
        if refused:
            raise PlanError([f"{refused[0]}: {self.name} compares acquisition functions; for others use robal compare"])
        for setting in settings:
            plan = merge(plan, _dotted(parse_override(setting)))
        grid = {label: value for label, value in self.grid.items() if not only or label in only}
        said: dict[str, Any] = {"preset": self.preset, "plan": plan, "grid": {"acquisition": grid, "seed": seeds}}
        if {"DRE", "Random"} <= set(grid):
            said["primary"] = {
                "axis": "acquisition",
                "compare": ["DRE", "Random"],
                "measure": "AutoAttack",
                "at": "end",
            }
        length = ("rounds", "start.labels", "per_round", "data", "network", "threat", "preset")
        same = not any(setting.startswith(length) for setting in settings)
        comparable = same and not quick and rounds in (None, self.rounds[stage])
        return said | {"reproduces": f"{self.name} {stage}" if comparable else f"{self.name} -"}


def _dotted(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"epochs": 5}} as {"recipe.epochs": 5}; components are left whole."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        found |= _dotted(value, f"{name}.") if isinstance(value, dict) and "name" not in value else {name: value}
    return found


@cache
def reproductions() -> dict[str, Reproduction]:
    """All that can be reproduced, by name."""
    found = {}
    for file in sorted((files("robal.studies") / "published").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".yaml"):
            continue
        table, said = file.name.removesuffix(".yaml"), yaml.safe_load(file.read_text(encoding="utf-8"))
        for place, (column, about) in enumerate(said["columns"].items()):
            published = {
                stage: {label: _rates(cells.split()[place]) for label, cells in rows.items()}
                for stage, rows in said["published"].items()
            }
            found[f"{table}-{column}"] = Reproduction(
                f"{table}-{column}",
                said["title"].format(**about),
                said["source"],
                said["functions"],
                about["preset"],
                {stage: about[stage] for stage in STAGES},
                published,
                tuple(said["deviations"]),
                said["quick"],
            )
    return found


def _rates(cell: str) -> dict[str, float]:
    """ "97.15/50.13" in the words of the metrics."""
    accuracy, robust = (round(float(word) / 100, 6) for word in cell.split("/"))
    return {"accuracy": accuracy, "AutoAttack": robust}


def reproduction(name: str) -> Reproduction:
    """The one that is called so. Raises PlanError where none is."""
    if name not in reproductions():
        raise PlanError([f"nothing to reproduce is called {name!r}; {did_you_mean(name, reproductions())}"])
    return reproductions()[name]
