"""Plans as YAML and back. Names are the exported ones; all mistakes are found at once, each with a hint."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache, reduce
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from robal import acquisition, attacks, engines, networks, objectives, oracles, threats, training
from robal.datasets import known_name
from robal.engines import Local
from robal.errors import InputError, PlanError, did_you_mean
from robal.plan import Plan
from robal.training import PoolTraining, Recipe

# What a field of the plan may hold by name, and the package whose exports are the names.
COMPONENTS: dict[Any, types.ModuleType] = {
    acquisition.Acquisition: acquisition,
    acquisition.Score: acquisition,
    attacks.Attack: attacks,
    engines.Engine: engines,
    networks.Architecture: networks,
    objectives.Objective: objectives,
    objectives.Weighing: objectives,
    oracles.Oracle: oracles,
    threats.Threat: threats,
    training.Augmentation: training,
    training.Optimiser: training,
    training.Schedule: training,
}


@cache
def known(kind: Any) -> dict[str, type]:
    """The exported components of a kind (a protocol, such as `Attack`), by name."""
    package = COMPONENTS[kind]
    found = {}
    for name in package.__all__:
        component = getattr(package, name)
        if isinstance(component, type) and is_dataclass(component) and _is_kind(component, kind):
            found[name] = component
    return found


def _is_kind(component: type, kind: Any) -> bool:
    try:
        instance = component()
    except TypeError:  # a value, such as Batch: components can be built without arguments
        return False
    if not isinstance(instance, kind):
        return False
    if kind in (acquisition.Score, acquisition.Acquisition):
        arguments = len(inspect.signature(instance).parameters)
        return arguments == 2 or (arguments == 3 and kind is acquisition.Acquisition)
    return True


def read_plan(
    path: Path | str | None = None, overrides: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> Plan:
    """A plan from a YAML file and `key.sub=value` overrides, over a base (a preset, or the embedded default).

    The embedded default trains on its pool too, by a teacher whose settings were chosen for the digits; a plan for
    other data does so where it says `recipe.pool`.

    Raises:
        PlanError: with every mistake in it.
    """
    layers = [base or {}]
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise PlanError([f"there is no plan file {path}"]) from None
        except IsADirectoryError:
            of_run = (Path(path) / "plan.yaml").exists()
            advice = f"`robal resume {path}` goes on with it" if of_run else f"for images, `robal run data.name={path}`"
            raise PlanError([f"{path} is a folder, not a plan file; {advice}"]) from None
        except UnicodeDecodeError as error:
            raise PlanError([f"{path} is no plan file: it should be UTF-8 text ({error})"]) from None
        layers.append(nested(read_yaml(text, str(path))))
    overrides = list(overrides)
    keys = {override.partition("=")[0].strip() for override in overrides}
    both = sorted(key for key in keys if key.endswith("epochs") and key.removesuffix("epochs") + "budget" in keys)
    if both:
        raise PlanError([f"{key} and {key.removesuffix('epochs')}budget: say one of them" for key in both])
    layers += [parse_override(override) for override in overrides]
    mapping = _merged(Plan(), layers)
    data = mapping.get("data")
    if isinstance(data, Mapping) and known_name(str(data.get("name"))) != Plan().data.name:
        mapping = _merged(replace(Plan(), recipe=replace(Plan().recipe, pool=None)), layers)
    return decode(mapping)


def _merged(default: Plan, layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = reduce(merge, layers, encode(default))
    if "dataset" in mapping:  # what people call it, beside the plan's own data.name
        mapping = merge(mapping, {"data": {"name": mapping.pop("dataset")}})
    return mapping


def decode(mapping: Mapping[str, Any]) -> Plan:
    """The plan that a mapping describes. Raises PlanError with every mistake in it."""
    mistakes: list[str] = []
    plan = _build(Plan, dict(mapping), "", mistakes)
    if mistakes:
        raise PlanError(mistakes)
    return plan


def read_component(kind: Any, text: str, what: str) -> Any:
    """A component from the command line: a name (`DRE`), or YAML (`{name: DRE, bins: 30}`).

    Raises:
        PlanError: with every mistake in it.
    """
    mistakes: list[str] = []
    component = _build(kind, parse_override(f"{what}={text}")[what], what, mistakes)
    if mistakes:
        raise PlanError(mistakes)
    return component


def read_network(text: str) -> networks.Architecture:
    """A network from the command line: `module:function`, a name, or YAML. Raises PlanError with every mistake."""
    if ":" in text and "{" not in text:
        return networks.Custom(text)
    return read_component(networks.Architecture, text, "model")


def encode(value: Any) -> Any:
    """A plan, or a part of one, as YAML-ready values; components carry their `name`.

    >>> encode(threats.Linf(0.3))
    {'name': 'Linf', 'eps': 0.3}

    Raises:
        PlanError: for a part that YAML cannot hold, such as a function.
    """
    if is_dataclass(value) and not isinstance(value, type):
        private = getattr(value, "PRIVATE", ())
        parts = {field.name: encode(getattr(value, field.name)) for field in fields(value) if field.name not in private}
        kind = type(value)
        if kind.__module__.startswith("robal.") and kind.__name__ in _STRUCTURES:
            return parts
        own = any(kind in known(protocol).values() for protocol in COMPONENTS)
        return {"name": kind.__name__ if own else f"{kind.__module__}:{kind.__qualname__}"} | parts
    if isinstance(value, tuple | list):
        return [encode(part) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise PlanError([f"{value!r} cannot be written down: a component of a plan is a frozen dataclass of a module"])


def default_folder(plan: Plan) -> Path:
    """runs/<data>-<acquisition>-<digest>: the same plan has the same folder, another plan another one."""
    decisive = encode(replace(plan, engine=Local()))
    del decisive["engine"]  # wherever the work is done
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:6]
    acquisition_name = type(plan.acquisition).__name__
    return Path("runs") / f"{Path(plan.data.name).stem.replace(':', '-')}-{acquisition_name}-{digest}"


_STRUCTURES = {"ClassCosts", "DeepFool", "Evaluation", "Meta", "Plan", "PoolTraining", "Recipe", "Relabel"}
_STRUCTURES |= {"Source", "Start", "Stop", "Validation"}


def to_yaml(plan: Plan) -> str:
    """The whole plan as YAML, in the order of its fields."""
    return yaml.safe_dump(encode(plan), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping. Raises PlanError for anything else."""
    try:
        mapping = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError([f"{where} is not YAML: {' '.join(str(error).split())}"]) from None
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise PlanError([f"{where} must hold a mapping (key: value); it holds a {type(mapping).__name__}"])
    return mapping


def parse_override(text: str) -> dict[str, Any]:
    """`recipe.epochs=5` as {"recipe": {"epochs": 5}}; values are YAML.

    >>> parse_override("recipe.objective.attack.steps=7")
    {'recipe': {'objective': {'attack': {'steps': 7}}}}
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise PlanError([f"{text!r} is no override; write key=value, for example recipe.epochs=5"])
    try:
        return nested({key.strip(): yaml.safe_load(value)})
    except yaml.YAMLError:
        raise PlanError([f"{text!r}: {value!r} is not YAML; put it in quotes"]) from None


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"recipe.epochs": 5} as {"recipe": {"epochs": 5}}; later settings over earlier ones."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        part = value
        for word in reversed(str(key).split(".")):
            part = {word: part}
        found = merge(found, part)
    return found


def flat(mapping: Mapping[str, Any], into_components: bool = True, prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"epochs": 5}} as {"recipe.epochs": 5}.

    Args:
        mapping: settings within settings.
        into_components: else what has a name is left whole.
        prefix: what every key begins with.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    found: dict[str, Any] = {}
    for key, part in mapping.items():
        is_whole = not isinstance(part, Mapping) or (not into_components and "name" in part)
        name = f"{prefix}{key}"
        found |= {name: part} if is_whole else flat(part, into_components, f"{name}.")
    return found


def merge(old: Any, new: Any, is_component: bool = True) -> Any:
    """`new` over `old`. A component of another name replaces the whole old one; the same name keeps its settings.

    What lies under `data` has a name and is no component: its settings stay where another data set is named. A recipe
    for which epochs are said, and no budget, has no budget any more.

    >>> merge({"a": {"name": "DRE", "bins": 30}}, {"a": "DRE"})
    {'a': {'name': 'DRE', 'bins': 30}}
    >>> merge({"a": {"name": "DRE", "bins": 30}}, {"a": "MCP"})
    {'a': {'name': 'MCP'}}
    >>> merge({"data": {"name": "mnist", "resize": 32}}, {"data": {"name": "fashion-mnist"}})
    {'data': {'name': 'fashion-mnist', 'resize': 32}}
    """
    if isinstance(old, dict) and ("name" in old or not is_component) and isinstance(new, str):
        new = {"name": new}
    if isinstance(old, str) and isinstance(new, Mapping):  # `acquisition: DRE`, then `acquisition.bins: 5`
        old = {"name": old}
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return new
    if is_component and "name" in old and _exported(new.get("name", old["name"])) != _exported(old["name"]):
        return dict(new)
    if old.get("budget") is not None and "epochs" in new:
        old = old | {"budget": None}
    return {**old, **{key: merge(old.get(key), value, key != "data") for key, value in new.items()}}


def _exported(name: Any) -> Any:
    """The exported name that an alias stands for, in whatever package; any other name itself."""
    aliases = (getattr(package, "ALIASES", {}) for package in COMPONENTS.values())
    return next((known[name] for known in aliases if isinstance(name, str) and name in known), name)


@cache
def _checked(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _build(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    """`value` as a `kind`; what is wrong goes to `mistakes` and None comes back."""
    if get_origin(kind) in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        if value is None and len(options) < len(get_args(kind)):
            return None
        if options[0] in COMPONENTS or is_dataclass(options[0]):
            return _build(options[0], value, where, mistakes)
    if get_origin(kind) is tuple and get_args(kind)[0] in COMPONENTS:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_build(get_args(kind)[0], item, f"{where}[{i}]", mistakes) for i, item in enumerate(items))
    if kind in COMPONENTS:
        return _component(kind, value, where, mistakes)
    if float in (kind, *get_args(kind)) and isinstance(value, str) and value.count("/") == 1:
        above, below = value.split("/")
        if above.strip().isdecimal() and below.strip().isdecimal() and int(below):
            return int(above) / int(below)  # 8/255
    if is_dataclass(kind):
        return _dataclass(kind, value, where, mistakes)
    if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
        mistakes.append(f"{where}: should be a number, not {value!r}")  # YAML's yes, no, on and off are no 1 and 0
        return None
    try:
        return _checked(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        mistakes.append(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, not {value!r}")
        return None


def _component(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        mistakes.append(f"{where}: needs a name ({', '.join(known(kind))}), not {value!r}")
        return None
    norm, _, size = name.partition(":")
    if kind is threats.Threat and size and (norm.lower() in threats.ALIASES or not size.isidentifier()):
        try:
            return threats.parse(name)
        except InputError as error:
            mistakes.append(f"{where}: {error}")
            return None
    if ":" in name:
        found = _imported(kind, name, where, mistakes)
    else:
        names = known(kind)
        aliases = {alias: of for alias, of in getattr(COMPONENTS[kind], "ALIASES", {}).items() if of in names}
        found = names.get(aliases.get(name, name))
        if found is None:
            other = {alias for alias in aliases if alias.lower() not in {exported.lower() for exported in names}}
            mistakes.append(f"{where}: {name!r} is unknown; {did_you_mean(name, {*names, *other})}")
    return None if found is None else _dataclass(found, settings, where, mistakes)


def _imported(kind: Any, name: str, where: str, mistakes: list[str]) -> type | None:
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the module, which may raise anything
        mistakes.append(f"{where}: {name!r} cannot be imported: {type(error).__name__}: {error}")
        return None
    if not isinstance(found, type) or not is_dataclass(found) or not _is_kind(found, kind):
        hint = f"; for a function, write {{name: Custom, factory: '{name}'}}" if kind is networks.Architecture else ""
        mistakes.append(
            f"{where}: {name!r} must be a frozen dataclass, buildable without arguments, that does what "
            f"{kind.__name__} says{hint}"
        )
        return None
    return found


def _completed(kind: Any, key: str, part: Any) -> Any:
    """Some settings of a field that has a default of its own, such as a pool's teacher, over that default."""
    made = next(field.default_factory for field in fields(kind) if field.name == key)
    if kind is Plan or made is MISSING or not isinstance(part, Mapping):
        return part
    default = made()
    return merge(encode(default), part) if is_dataclass(default) else part


def _fitting_teacher(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pool's teacher for which no cost is said takes at most a quarter of the recipe's budget."""
    pool, budget = recipe.get("pool"), recipe.get("budget")
    if pool == PoolTraining.__name__:
        pool = {}
    teacher = pool.get("teacher", {}) if isinstance(pool, Mapping) else None
    if not isinstance(teacher, Mapping) or {"budget", "epochs"} & set(teacher) or not isinstance(budget, int):
        return recipe
    most = min(budget // 4, PoolTraining().teacher.budget or budget)
    return merge({**recipe, "pool": pool}, {"pool": {"teacher": {"budget": most}}})


def _dataclass(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    if value == kind.__name__:
        value = {}  # a name alone, as of a component
    if not isinstance(value, Mapping):
        mistakes.append(f"{where or 'the plan'}: must be a mapping (key: value), not {value!r}")
        return None
    hints, private = _hints(kind), getattr(kind, "PRIVATE", ())
    names = [field.name for field in fields(kind) if field.init and field.name not in private]
    before = len(mistakes)
    settings = {}
    if "name" not in names and value.get("name") == kind.__name__:
        value = {key: part for key, part in value.items() if key != "name"}  # said, though there is no choice
    if kind is Recipe:
        value = _fitting_teacher(value)
    for key, part in value.items():
        inner = f"{where}.{key}" if where else str(key)
        if key not in names:
            hint = did_you_mean(str(key), names) if names else "it has no settings"
            mistakes.append(f"{inner}: unknown; {hint}")
        else:
            if hints[key] == tuple[str, ...] and isinstance(part, str) and part:
                part = [one.strip() for one in part.split(",")]  # as on the command line: cat,dog
            settings[key] = _build(hints[key], _completed(kind, key, part), inner, mistakes)
    if len(mistakes) > before:
        return None
    try:
        return kind(**settings)
    except (ValueError, TypeError) as error:  # InputError of ours, anything of a component of the user's
        mistakes.append(f"{where or 'the plan'}: {error}")
        return None
