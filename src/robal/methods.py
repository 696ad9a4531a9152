"""What a plan may name, for people to read: every method with the first line about it, or one of them whole."""

from __future__ import annotations

import inspect
from typing import Any

import yaml

from robal import acquisition, attacks, engines, networks, objectives, oracles, threats, training
from robal.errors import PlanError, did_you_mean
from robal.plan import Evaluation, Meta, Relabel, Start, Stop, Validation
from robal.plans import COMPONENTS, encode, known
from robal.source import Source

PLACES: dict[str, Any] = {
    "acquisition": acquisition.Acquisition,
    "oracle": oracles.Oracle,
    "network": networks.Architecture,
    "threat": threats.Threat,
    "recipe.objective": objectives.Objective,
    "recipe.objective.weighing": objectives.Weighing,
    "recipe.optimiser": training.Optimiser,
    "recipe.schedule": training.Schedule,
    "recipe.augmentation": training.Augmentation,
    "evaluation.at_end": attacks.Attack,
    "engine": engines.Engine,
}
"""Setting of a plan -> the kind of what it names."""
PARTS: dict[str, type] = {
    "data": Source,
    "start": Start,
    "recipe": training.Recipe,
    "recipe.pool": training.PoolTraining,
    "validation": Validation,
    "meta": Meta,
    "relabel": Relabel,
    "evaluation": Evaluation,
    "stop": Stop,
}
"""Setting of a plan -> what it consists of, where there is nothing to choose between."""
_ATTACKS = "evaluation.each_round, validation.attack, and recipe.objective.attack where the objective takes one"


def listed(place: str | None = None) -> dict[str, dict[str, str]]:
    """Setting -> name -> the first line of its docstring; of all settings, or of one."""
    places = PLACES if place is None else {place: PLACES[place]}
    return {key: {name: _doc(of).splitlines()[0] for name, of in known(kind).items()} for key, kind in places.items()}


def described(name: str) -> str:
    """The docstring of a method or of a part of a plan, and what to write in one, with every setting and its default.

    Args:
        name: as exported, or an alias such as `entropy`, in whatever case; or the setting, for a part.

    Raises:
        PlanError: for a name that nothing has.
    """
    names = {part.__name__: (place, part) for place, part in PARTS.items()}
    names |= {one: (place, of) for place, kind in PLACES.items() for one, of in known(kind).items()}
    aliases = {alias: to for package in COMPONENTS.values() for alias, to in getattr(package, "ALIASES", {}).items()}
    exported = {one.lower(): one for one in names} | {alias.lower(): to for alias, to in aliases.items()}
    exported |= {place: part.__name__ for place, part in PARTS.items()}
    found = names.get(exported.get(name.lower(), ""))
    if found is None:
        hint = did_you_mean(name, {*names, *PLACES, *PARTS})
        raise PlanError([f"{name!r} is unknown; {hint if hint.startswith('did') else '`robal methods` lists all'}"])
    place, component = found
    plan: Any = encode(component())
    for word in reversed(place.split(".")):
        plan = {word: {"name": "CAAT", **plan} if word == "objective" and "weighing" in plan else plan}
    also = f"\nAlso in {_ATTACKS}.\n" if place == "evaluation.at_end" else ""
    return f"{_doc(component)}\n\nIn a plan:\n\n{yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)}{also}"


def _doc(component: type) -> str:
    return inspect.getdoc(component) or component.__name__
