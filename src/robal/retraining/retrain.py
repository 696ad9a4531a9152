"""A retraining as a plan: the loop with one question, on top of what the model was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robal import presets
from robal.acquisition import Acquisition, Crafted
from robal.attacks import PGD
from robal.data import Data
from robal.errors import InputError, PlanError
from robal.networks import Architecture, Custom
from robal.oracles import CSVFile, Hidden
from robal.plan import Plan, name_of
from robal.plans import read_component, read_plan, read_yaml
from robal.threats import L2, Linf, parse


def retraining_plan(
    model: str,
    train: str,
    images: str,
    *,
    weights: Path | None = None,
    budget: str = "1%",
    acquisition: str = "DRE",
    threat: str | None = None,
    test: str | None = None,
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
    plan = read_plan(None, [*settings], read_yaml(presets.text(preset), preset))
    if "per_round" in {setting.partition("=")[0] for setting in settings}:
        raise PlanError(["how many images are labelled is said by --budget, not by per_round"])
    said = {setting.partition("=")[0].partition(".")[0] for setting in settings}
    network = Custom(model) if ":" in model and "{" not in model else read_component(Architecture, model, "model")
    source = replace(
        plan.data, name=images, train=train, test=test or plan.data.test, resize=resize or plan.data.resize
    )
    source = source if folder is None else replace(source, folder=str(folder))
    plan = replace(plan, data=source, network=network, seed=seed)
    plan = replace(plan, start=replace(plan.start, weights="" if weights is None else str(weights)))
    if threat is not None:
        plan = replace(plan, threat=parse(threat))
    data = source.load()
    if "acquisition" not in said:
        inner = read_component(Acquisition, acquisition, "acquisition")
        given = plan.acquisition
        plan = replace(plan, acquisition=replace(given, inner=inner) if isinstance(given, Crafted) else inner)
    new = data.pool.candidates
    held = data.hidden is not None and bool((data.hidden[new] >= 0).all())
    if isinstance(plan.oracle, Hidden) and "oracle" not in said and not held:
        plan = replace(plan, oracle=CSVFile())
    plan = replace(plan, per_round=_share(budget, data))
    if "evaluation" not in said:
        plan = _with_another_norm(plan, data)
    return plan.located(), data


def _share(budget: str, data: Data) -> int:
    """How many images a budget such as "200" or "1%" is; a share counts all new images, those of the test too."""
    new, word = len(data.pool.candidates), budget.strip()
    tested = 0 if data.test is None or not data.tests_new else len(data.test)
    try:
        share = float(word.removesuffix("%"))
        many = share if not word.endswith("%") else share / 100 * (new + tested)
        count = round(many)
        is_whole = word.endswith("%") or many == count
    except (ValueError, OverflowError):
        raise PlanError([f"--budget is a number of images, or a share of them such as 1%; {budget!r} came"]) from None
    if not math.isfinite(many) or not is_whole or many <= 0:
        raise PlanError([f"--budget is a number of images, or a share of them such as 1%; {budget!r} came"])
    if count < 1:
        raise InputError(f"{budget} of {new + tested} images is less than one; raise --budget")
    if count >= new:
        raise InputError(
            f"--budget {budget} asks for {count} images, and there are {new} to choose from: with all of them there is "
            "nothing to choose, so train on them instead, or lower --budget"
        )
    return count


def _with_another_norm(plan: Plan, data: Data) -> Plan:
    """The plan that measures, beside its threat, one that nothing was crafted for: L2 for Linf."""
    if not isinstance(plan.threat, Linf):
        return plan
    pixels = math.prod(data.images.shape[1:])
    other = PGD(steps=50, threat=L2(round(plan.threat.eps * math.sqrt(pixels) / 4, 2)))
    asked = plan.evaluation
    names = {name_of(attack, plan.threat) for attack in (*asked.each_round, *asked.at_end)}
    if name_of(other, plan.threat) in names:
        return plan
    return replace(plan, evaluation=replace(asked, each_round=(*asked.each_round, other)))
