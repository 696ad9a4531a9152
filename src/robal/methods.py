"""What a plan may name, for people to read: every method with the first line about it, or one of them whole."""

from __future__ import annotations

import inspect
from typing import Any

import yaml

from robal import acquisition, attacks, engines, networks, objectives, oracles, threats, training
from robal.errors import PlanError, did_you_mean
from robal.plans import COMPONENTS, encode, known

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


def listed(place: str | None = None) -> dict[str, dict[str, str]]:
    """Setting -> name -> the first line of its docstring; of all settings, or of one."""
    places = PLACES if place is None else {place: PLACES[place]}
    return {key: {name: _doc(of).splitlines()[0] for name, of in known(kind).items()} for key, kind in places.items()}


def described(name: str) -> str:
    """The docstring of a method, and what to write in a plan, with every setting and its default.

    Args:
        name: as exported, or an alias such as `entropy`, in whatever case.

    Raises:
        PlanError: for a name that nothing has.
    """
    names = {one: (place, of) for place, kind in PLACES.items() for one, of in known(kind).items()}
    aliases = {alias: to for package in COMPONENTS.values() for alias, to in getattr(package, "ALIASES", {}).items()}
    exported = {one.lower(): one for one in names} | {alias.lower(): to for alias, to in aliases.items()}
    found = names.get(exported.get(name.lower(), ""))
    if found is None:
        raise PlanError([f"{name!r} is unknown; {did_you_mean(name, {*names, *PLACES})}"])
    place, component = found
    plan: Any = encode(component())
    for word in reversed(place.split(".")):
        plan = {word: {"name": "CAAT", **plan} if word == "objective" and "weighing" in plan else plan}
    return f"{_doc(component)}\n\nIn a plan:\n\n{yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)}"


def _doc(component: type) -> str:
    return inspect.getdoc(component) or component.__name__
