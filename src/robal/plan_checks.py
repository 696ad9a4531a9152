"""What a plan asks of its data, checked before anything is bought: each mistake with what to do about it."""

from __future__ import annotations

import importlib.util

import torch

from robal.acquisition import needs_of, proxy_in
from robal.acquisition.acquisition import parts_of
from robal.acquisition.crafted import leaves_images_out
from robal.data import Data
from robal.errors import InputError
from robal.networks import head_makes_logits
from robal.oracles import Hidden, class_name
from robal.plan import Plan, device_of
from robal.threats import with_threat


def check(plan: Plan, data: Data) -> None:
    """Refuse a plan that its data cannot carry.

    Raises:
        InputError: fewer than two classes, a pool smaller than the budget, labels that are not there, images that the
            network does not take, nothing to choose the best epoch by, and the like.
    """
    device_of(plan.device)
    for one in (_threat, _images, _answers, _choice, _networks, _shares):
        one(plan, data)


def _threat(plan: Plan, _data: Data) -> None:
    """That every part goes with the plan's threat."""
    for part in ("start", "acquisition", "recipe", "relabel", "validation", "evaluation"):
        try:
            with_threat(getattr(plan, part), plan.threat)
        except InputError as error:
            raise InputError(f"{part} does not go with the plan's threat, {plan.threat}: {error}") from None


def _images(plan: Plan, data: Data) -> None:
    """Classes, and enough images and labels."""
    if len(data.classes) < 2:
        raise InputError(
            f"at least two classes are needed; there are {len(data.classes)}. "
            "For images without labels, name them: data.classes='[cat, dog]'"
        )
    candidates = data.pool.candidates
    if plan.budget + plan.audit_images > len(candidates):
        each = (len(candidates) - plan.audit_images) // (2 * (plan.rounds + 1))  # half of them are chosen from
        advice = f", as in start.labels={each} per_round={each}" if each else ""
        audit = f"{plan.audit_images} for the audit, " if plan.audit_images else ""
        raise InputError(
            f"the plan asks for {plan.budget + plan.audit_images} labels ({audit}{plan.start.labels} at the start, "
            f"{plan.rounds} rounds of {plan.per_round}) and the pool holds {len(candidates)} images; lower rounds "
            f"or per_round{advice}"
        )
    if plan.start.labels == 0 and data.known is None:
        raise InputError(
            "start.labels=0 needs labels that are known from the beginning: name what the model was trained on by "
            "data.train, or buy first labels"
        )


def _answers(plan: Plan, data: Data) -> None:
    """What the oracle can do, and what it cannot."""
    candidates = data.pool.candidates
    if plan.is_simulated and (data.hidden is None or bool((data.hidden[candidates] < 0).any())):
        unknown = len(candidates) if data.hidden is None else int((data.hidden[candidates] < 0).sum())
        raise InputError(
            f"{unknown} of {len(candidates)} images have no held-back label to simulate an annotator with; "
            "use oracle=CSVFile and fill in the labels yourself"
        )
    lower = [name.lower() for name in (*data.classes, *data.unforeseen)]
    for unforeseen in data.unforeseen:
        if class_name(unforeseen) != unforeseen or lower.count(unforeseen.lower()) > 1:
            raise InputError(f"{unforeseen!r} cannot be unforeseen: nobody could name it so beside the others")
    simple = isinstance(plan.oracle, Hidden) and not plan.oracle.noise and plan.meta_answers == 1
    if data.unforeseen and not (simple and plan.relabel is None):
        raise InputError(
            "classes that are unforeseen are named by the simulated oracle, once and without noise: leave out "
            "oracle.noise, relabel and meta.answers"
        )
    if plan.meta_share and plan.meta_answers > 1 and not plan.is_simulated:
        raise InputError(
            f"meta.answers={plan.meta_answers} is for the simulated oracle; {type(plan.oracle).__name__} asks "
            "people several times where it says so itself: leave meta.answers out"
        )
    if plan.relabel is not None and not plan.is_simulated:
        raise InputError(
            f"relabel is for the simulated oracle, not for {type(plan.oracle).__name__}: for people, "
            "`robal labels suspects` lists the labels that look wrong"
        )
    if plan.relabel is not None and importlib.util.find_spec("cleanlab") is None:
        raise InputError("relabel needs cleanlab: pip install 'robal[noise]'")
    flips = isinstance(plan.oracle, Hidden) and plan.oracle.noise > 0 and plan.oracle.kind == "flip2"
    if flips and len(data.classes) < 3:
        raise InputError(f"oracle.kind=flip2 needs three classes; there are {len(data.classes)}")
    if plan.relabel is not None and data.known is not None:
        raise InputError("relabel looks at bought labels alone, and data.train brings others; leave one of them out")


def _choice(plan: Plan, _data: Data) -> None:
    """What acquisition functions look at."""
    for of in (*parts_of(plan.start.acquisition), *parts_of(plan.acquisition)):
        if hasattr(of, "check"):
            of.check()
    if plan.recipe.pool is not None and leaves_images_out(plan.acquisition):
        raise InputError(
            "Crafted(images=False) keeps the chosen images from training, and recipe.pool has teachers who learn from "
            "them: add recipe.pool=null, or acquisition.images=true"
        )
    needed = {*needs_of(plan.start.acquisition), *(["proxy"] if proxy_in(plan.start.acquisition) else [])}
    if needed:
        name = type(plan.start.acquisition).__name__
        raise InputError(
            f"start.acquisition={name} needs {', '.join(sorted(needed))}, and nothing has been trained by then; "
            "use Random, TypiClust or NearExamples"
        )
    if "snapshots" in needs_of(plan.acquisition):
        recipes = {"start.recipe": plan.start.recipe, "recipe": plan.recipe}
        recipes = recipes if plan.trains_at_start else {"recipe": plan.recipe}
        lacking = {name: recipe for name, recipe in recipes.items() if not recipe.snapshots}
        if lacking:
            wanted = " ".join(f"{name}.snapshots={min(5, recipe.epochs)}" for name, recipe in lacking.items())
            name = type(plan.acquisition).__name__
            raise InputError(f"{name} looks at snapshots of the training and none are kept; add {wanted}")


def _networks(plan: Plan, data: Data) -> None:
    """That every network takes the images, and has the head that is trained apart."""
    every = [plan.start.recipe, plan.recipe, *([plan.relabel.recipe] if plan.relabel else [])]
    pools = [recipe.pool for recipe in every if recipe.pool is not None]
    every += [one for pool in pools for one in (pool.teacher, pool.witness) if one is not None]
    if plan.start.weights and not plan.start.labels and plan.recipe.backbone == 0 and not plan.recipe.warm_start:
        raise InputError(
            "recipe.backbone=0 without warm_start trains a head on what nobody has trained; leave warm_start=true, "
            "so that round 1 goes on from start.weights"
        )
    if any(recipe.head_apart for recipe in every):
        built = plan.network(data.images.shape, len(data.classes), plan.seed)
        if not head_makes_logits(built, torch.zeros(1, *data.images.shape)):
            raise InputError("backbone and probe are for a network whose last linear layer makes the logits")
    beside = proxy_in(plan.acquisition)
    for network in (plan.network, *([] if beside is None else [beside.network])):
        network(data.images.shape, len(data.classes), plan.seed)  # says so if it does not take these images


def _shares(plan: Plan, data: Data) -> None:
    """Enough of the answers for training, validation, meta set and folds, each."""
    (at_start, meta), (later, _) = plan.apart(plan.start.labels), plan.apart(plan.per_round)
    if plan.meta_share and meta < 1:
        raise InputError(
            f"{plan.start.labels} first labels have no share for the meta set (meta.share={plan.meta_share}) that "
            "the objective learns from; raise meta.share or start.labels"
        )
    if plan.start.labels and plan.start.labels - at_start - meta < 2:
        raise InputError(
            f"of {plan.start.labels} first labels {at_start} are for validation and {meta} for the meta set, which "
            "leaves fewer than two to train on; lower the shares or raise start.labels"
        )
    fewest = 2 * plan.relabel.folds if plan.relabel is not None else 0
    if plan.start.labels - at_start - meta < fewest:
        raise InputError(
            f"{fewest // 2} folds need at least {fewest} labels to train on; the start has "
            f"{plan.start.labels - at_start - meta}: raise start.labels or lower relabel.folds"
        )
    share = plan.validation.bought_share
    free = share == 0 and data.validation is not None and plan.validation.images > 0
    at_once = plan.start.recipe.keep == "best" and at_start == 0 and plan.trains_at_start
    if not free and (at_once or (plan.recipe.keep == "best" and at_start + later == 0)):
        raise InputError(
            'recipe.keep="best" chooses by validation images and there are none; '
            "set validation.bought_share=0.1 (and ask for enough images), or recipe.keep=last"
        )
    if plan.stop is not None and (plan.validation.measure == "loss" or not (free or at_start or later)):
        raise InputError(
            "stop goes by an accuracy on validation images: set validation.bought_share=0.1, and leave "
            "validation.measure=loss out"
        )
