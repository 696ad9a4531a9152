"""A retraining as a plan: the loop with one question, on top of what the model was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from robal import presets
from robal.acquisition import Acquisition, Crafted
from robal.attacks import PGD, Attack, Monitor
from robal.data import Data
from robal.errors import InputError, PlanError
from robal.evaluation import predict
from robal.images import files_at
from robal.networks import load_weights
from robal.oracles import CSVFile
from robal.plan import Evaluation, Plan, device_of, name_of
from robal.plans import flat, parse_override, read_component, read_network, read_plan, read_yaml
from robal.progress import say
from robal.selection import in_another_order, named_classes, say_order
from robal.source import Source, canonical
from robal.state import there
from robal.threats import L2, Linf, Threat, parse

_LOOKED_AT = 500  # images
_ELSEWHERE = {
    "per_round": "--budget",
    "seed": "--seed",
    "network": "--model",
    "data.name": "--images",
    "data.train": "--train",
    "data.test": "--test",
    "data.resize": "--resize",
    "data.classes": "--classes",
    "dataset": "--images",
    "data": "--images",
    "start": "--weights",
    "start.weights": "--weights",
    "start.labels": "--budget",
    "acquisition": "--acquisition",
}


def retraining_plan(
    model: str,
    train: str,
    images: str,
    *,
    weights: Path | None = None,
    budget: str = "1%",
    acquisition: str | None = None,
    attack: str | None = None,
    threat: str | None = None,
    test: str | None = None,
    classes: str | None = None,
    resize: int | None = None,
    folder: Path | None = None,
    seed: int = 0,
    preset: str = "retrain",
    settings: Sequence[str] = (),
) -> tuple[Plan, Data]:
    """What `robal retrain` carries out; its arguments are those of the command line, as text. And the data of it.

    `settings` are the plan's beside these. Where somebody has to label, because not all labels are held, that is by a
    CSV file unless the settings say otherwise.

    Raises:
        PlanError, DataError, InputError: each says what was expected, what came and what to do.
    """
    given: dict[str, object] = {}
    for setting in settings:
        given |= flat(parse_override(setting))
    said = {part for key in given for part in _with_parents(key)}
    for key, option in _ELSEWHERE.items():
        if key in given or f"{key}.name" in given or (key == "network" and key in said):
            raise PlanError([f"{key} is said by {option}, not by a setting"])
    for key, option, value in (
        ("threat", "--threat", threat),
        ("acquisition.inner", "--acquisition", acquisition),
        ("acquisition.attack", "--attack", attack),
    ):
        if value is not None and key in said:
            raise PlanError([f"{option} {value} says {key}, and so do the settings: leave one of them out"])
    plan = read_plan(None, [*settings], read_yaml(presets.text(preset), preset))
    if plan.start.labels or not plan.rounds:
        raise PlanError([f"a retraining buys no first labels and has a round; {preset} is none: try --preset retrain"])
    network = read_network(model)
    source = replace(
        plan.data, name=images, train=train, test=test or plan.data.test, resize=resize or plan.data.resize
    )
    source = source if folder is None else replace(source, folder=str(folder))
    source = source if classes is None else replace(source, classes=named_classes(classes))
    start = replace(plan.start, weights="" if weights is None else str(weights))
    plan = replace(plan, data=source, network=network, seed=seed, start=start).located()
    is_one = canonical(plan.data.name) == canonical(plan.data.train)
    if weights is not None and is_one and plan.data.read(plan.data.train).test_images is None:
        raise InputError(f"{train} has no test images, and the model was trained on all others: name new --images")
    plan = replace(plan, threat=plan.threat if threat is None else parse(threat))
    plan = replace(plan, acquisition=_crafted(plan.acquisition, acquisition, attack, "acquisition" in said))
    if (plan.data.held_out, plan.data.held_out_images) != (Source.held_out, Source.held_out_images):
        raise InputError("data.held_out and data.held_out_images say nothing of a retraining; leave them out")
    data = plan.data.load()
    if data.test is None and not plan.audit_images:
        say("audit=100 asks for the labels of 100 images, drawn at random, to measure by")
    new = data.pool.candidates
    known = torch.zeros(len(new), dtype=torch.bool) if data.hidden is None else data.hidden[new] >= 0
    held = bool(known.all())
    if bool(known.any()) and not held:
        at = new[~known][:1]
        which = "".join(files_at(data.images, at)) or f"number {int(at)} of those to choose from"
        raise InputError(
            f"{int(known.sum()):,} of the {len(known):,} images of {data.name} have labels and the others, such as "
            f"{which}, have none; retraining takes images with all labels held, or without any: leave some of them out "
            "(those with labels may be named by --test)"
        )
    if weights is not None:
        if classes is None:
            say_order(data.classes, plan.data.train)
        problem = _order_of(plan, data, train)
        if problem and classes is None:
            raise InputError(problem)
        if problem:
            say(problem)
    if plan.is_simulated and not held and "oracle" not in said:
        plan = replace(plan, oracle=CSVFile())
    count = _share(budget, data)
    if count % plan.rounds:
        raise InputError(f"--budget {budget} is {count} images, which {plan.rounds} rounds cannot share evenly")
    plan = replace(plan, per_round=count // plan.rounds)
    if "evaluation.each_round" not in said:
        plan = replace(plan, evaluation=_measured(plan.evaluation, plan.threat, data))
    return plan, data


def _order_of(plan: Plan, data: Data, train: str) -> str:
    """What to say of a model whose outputs are in another order than the labels of what it was trained on, or ""."""
    known = there(data.known)
    trained_on = (known >= 0).nonzero().flatten()
    count = min(max(_LOOKED_AT, 3 * len(data.classes)), len(trained_on))
    some = trained_on[torch.linspace(0, len(trained_on) - 1, count).long()]
    network = plan.network(data.images.shape, len(data.classes), 0)
    load_weights(network, Path(plan.start.weights))
    network = network.to(device_of(plan.device))
    return in_another_order(predict(network, data.images.at_rest(some)), known[some], data.classes, train)


def _with_parents(key: str) -> list[str]:
    """
    >>> _with_parents("start.recipe.epochs")
    ['start', 'start.recipe', 'start.recipe.epochs']
    """
    parts = key.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _crafted(given: object, acquisition: str | None, attack: str | None, is_set: bool) -> Acquisition:
    """What chooses and crafts: the preset's, with its settings, but for what the command line says."""
    chooser = None if acquisition is None else read_component(Acquisition, acquisition, "acquisition")
    if isinstance(chooser, Crafted):
        if attack is not None or is_set:
            raise PlanError(
                ["an acquisition of the name Crafted says all itself; leave --attack and settings of it out"]
            )
        return chooser
    found = given if isinstance(given, Crafted) else Crafted(inner=given)  # type: ignore[arg-type]
    found = found if chooser is None else replace(found, inner=chooser)
    return found if attack is None else replace(found, attack=read_component(Attack, attack, "attack"))


def _share(budget: str, data: Data) -> int:
    """How many images a budget such as "200" or "1%" is; a share counts all new images, those of the test too."""
    new, word = len(data.pool.candidates), budget.strip()
    every = new + (len(data.test) if data.test is not None and data.tests_new else 0)
    try:
        number = float(word.removesuffix("%"))
    except ValueError:
        number = math.nan
    many = number / 100 * every if word.endswith("%") else number
    if not math.isfinite(many) or many <= 0 or (many != round(many) and not word.endswith("%")):
        raise PlanError([f"--budget is a number of images, or a share of them such as 1%; {budget!r} came"])
    count = round(many)
    if count < 1:
        raise InputError(f"{budget} of {every} images is less than one; raise --budget")
    if count >= new:
        raise InputError(
            f"--budget {budget} asks for {count} images, and there are {new} to choose from: with all of them there is "
            "nothing to choose, so train on them instead, or lower --budget"
        )
    return count


def _measured(asked: Evaluation, threat: Threat, data: Data) -> Evaluation:
    """Beside what is asked for a norm that nothing was crafted for; of a threat that Square knows not, PGD alone."""
    attacks = list(asked.each_round)
    if not isinstance(threat, Linf | L2):
        return replace(asked, each_round=tuple(one for one in attacks if isinstance(one, PGD)) or (PGD(steps=50),))
    other = Monitor(threat=in_the_other_norm(threat, data.images.shape))
    if name_of(other, threat) not in {name_of(one, threat) for one in attacks}:
        attacks.append(other)
    return replace(asked, each_round=tuple(attacks))


def in_the_other_norm(threat: Linf | L2, shape: tuple[int, int, int]) -> Linf | L2:
    """A threat in the norm that nothing was crafted for, about as strong on images of (C, H, W): eps √(H W) / 4 in L2.

    >>> in_the_other_norm(Linf(0.3), (1, 32, 32)), in_the_other_norm(L2(2.4), (1, 32, 32))
    (L2(eps=2.4), Linf(eps=0.3))
    """
    root = math.sqrt(math.prod(shape[1:]))
    eps = float(f"{threat.eps * root / 4 if isinstance(threat, Linf) else 4 * threat.eps / root:.2g}")
    return L2(eps) if isinstance(threat, Linf) else Linf(min(eps, 1.0))
