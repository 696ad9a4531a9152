"""What a study would run, how many labels, and about how long; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from robal.acquisition import proxy_in
from robal.attacks import FGSM
from robal.data import Data
from robal.evaluation import seconds_needed
from robal.other_models import initial
from robal.plan import Plan
from robal.report.words import duration
from robal.studies.compare import Place, Standing
from robal.studies.study import Cell
from robal.training import Recipe


@dataclass(frozen=True)
class Cost:
    """What one run would cost.

    Args:
        cell: the run.
        standing: how far it is.
        evaluations: gradient evaluations of all its trainings, and of its attacks on validation and test images.
        seconds: what is left of it, on one thread of this machine; choosing images is not counted.
    """

    cell: Cell
    standing: Standing
    evaluations: int
    seconds: float


def costs_of(said: Mapping[str, Any], folder: Path) -> list[Cost]:
    """Of each run of the study that a mapping describes, beside what its folder holds already.

    Raises:
        PlanError: as `Study.check`.
    """
    place = Place.foreseen(folder, said)
    study = place.study
    data = study.check()
    speeds: dict[tuple[str, str], float] = {}
    found = []
    for cell in study.cells:
        plan, images = cell.plan, data[repr(cell.plan.data)]
        standing, beside = place.standing(cell), proxy_in(plan.acquisition)
        numbers = range(plan.rounds + 1)
        parts = [(plan, [_evaluations(plan, number, images) for number in numbers])]
        if beside is not None:  # each round but the first trains it as the round before was trained
            of_proxy = replace(plan, network=beside.network)
            parts.append((of_proxy, [_training(plan, number - 1, images) if number else 0 for number in numbers]))
        seconds = 0.0
        for one, by_round in parts:
            alike = (repr(one.network), repr(one.data))
            if alike not in speeds:
                speeds[alike] = _seconds_each(one, images)
            seconds += speeds[alike] * sum(by_round[standing.rounds :])
        found.append(Cost(cell, standing, sum(sum(by_round) for _, by_round in parts), seconds))
    return found


def _seconds_each(plan: Plan, data: Data) -> float:
    """Of one gradient evaluation, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = initial(plan, data).model
        few = data.images.at_rest(torch.arange(min(100, len(data.images))))
        labels = torch.zeros(len(few), dtype=torch.int64)
        attack = FGSM()
        times = [seconds_needed(model, few, labels, [attack])[attack.label] for _ in range(3)]
        return min(times) / (len(few) * attack.passes)
    finally:
        torch.set_num_threads(threads)


def _training(plan: Plan, number: int, data: Data) -> int:
    """Gradient evaluations of a round's training, of what its epochs are chosen by, and of a search for suspects."""
    if number == 0 and not plan.trains_at_start:
        return 0
    recipe: Recipe = (plan.start if number == 0 else plan).recipe
    bought = plan.start.labels + number * plan.per_round
    apart = [sum(shares) for shares in zip(*(plan.apart(asked) for asked in _asked(plan, number)), strict=True)]
    known = 0 if data.known is None else int((data.known >= 0).sum())
    an_epoch = (bought - sum(apart) + known) * recipe.objective.passes + apart[1] * recipe.meta_passes
    training = recipe.budget or round(recipe.restarts * recipe.epochs * an_epoch)
    images = apart[0]
    if plan.validation.bought_share == 0 and data.validation is not None:
        images = min(plan.validation.images, len(data.validation))
    if images:  # to choose the epoch by, and for the metrics
        passes = plan.validation.attack.passes if plan.validation.measure == "robust" else 1
        training += images * passes * (1 + (recipe.restarts * recipe.epochs if recipe.keep == "best" else 0))
    if plan.relabel is not None and number:  # each fold's model is trained on the others
        asks, before = plan.relabel, bought - plan.per_round
        each = asks.recipe.epochs * before * (asks.folds - 1) * asks.recipe.objective.passes
        training += asks.folds * asks.recipe.budget if asks.recipe.budget else each
    return training


def _asked(plan: Plan, number: int) -> list[int]:
    """How many images each round up to `number` asks about."""
    return [plan.start.labels, *[plan.per_round] * number]


def repeated(plan: Plan) -> int:
    """How many further answers a run may buy, at most, about images that have one."""
    meta = sum(plan.apart(asked)[1] for asked in _asked(plan, plan.rounds)) * (plan.meta_answers - 1)
    return meta + (plan.rounds * plan.relabel.per_round * (plan.relabel.answers - 1) if plan.relabel else 0)


def _evaluations(plan: Plan, number: int, data: Data) -> int:
    """Gradient evaluations of a round: training, and attacks, which stop earlier on images that fall."""
    training = _training(plan, number, data)
    attacks = (*plan.evaluation.each_round, *(plan.evaluation.at_end if number == plan.rounds else ()))
    training += plan.audit_images * sum(attack.passes for attack in attacks)
    if data.test is None:
        return training
    asked, test = plan.evaluation, len(data.test)
    each = min(asked.each_round_images or asked.images, test) * sum(attack.passes for attack in asked.each_round)
    if number < plan.rounds:
        return training + each
    return training + each + min(asked.images, test) * sum(attack.passes for attack in asked.at_end)


def table_of(runs: Sequence[Cost], workers: int) -> Table:
    """For the terminal: a line a run, and the sums; the time with so many workers at once."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), caption_justify="left")
    for head in ("run", "status"):
        table.add_column(head, overflow="fold")
    for head in ("labels", "gradient evaluations", "about"):
        table.add_column(head, justify="right")
    for run in runs:
        how, rounds = run.standing.status, f"round {run.standing.rounds} of {run.cell.plan.rounds}"
        left = "–" if how in ("finished", "damaged") else duration(run.seconds)
        shown = rounds if how == "begun" else how
        table.add_row(run.cell.name, shown, f"{run.cell.plan.budget:,}", f"{run.evaluations:,}", left)
    seconds = sum(run.seconds for run in runs if run.standing.status not in ("finished", "damaged"))
    labels = sum(run.cell.plan.budget for run in runs)
    audits = sum(run.cell.plan.audit_images for run in runs)
    further = sum(repeated(run.cell.plan) for run in runs)
    shared = len(runs) - len({run.cell.start or run.cell.name for run in runs})
    said = [f"{len(runs)} runs, {labels:,} labels; about {duration(seconds / workers)} with {workers} at once"]
    if audits:
        said.append(f"{audits:,} test labels for audits beside them")
    if further:
        said.append(f"up to {further:,} further answers where an image is asked about again")
    if shared:
        said.append(f"{shared} of them take over the first round of another, which is the same")
    table.caption = Text("\n".join(said))
    return table
