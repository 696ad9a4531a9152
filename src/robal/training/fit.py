"""Training: examples in, a trained model out. The one place that builds optimisers and takes their steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from robal.errors import ContractError, InputError
from robal.networks import (
    channels_last,
    gains_from_bfloat16,
    head_makes_logits,
    head_of,
    home_of,
    in_bfloat16,
    with_one_more_class,
    without_last_class,
)
from robal.objectives import Batch, Lesson
from robal.pool import Examples
from robal.progress import say, track
from robal.seeds import generator, stream
from robal.threats import Linf, scaled, with_threat
from robal.training.batches import batches, steps_in_epoch
from robal.training.devices import Group, side_by_side
from robal.training.lookahead import lookahead
from robal.training.pseudo_labels import PseudoLabels, picked, pseudo_labels
from robal.training.recipe import PoolTraining, Recipe
from robal.training.tensors import (
    copied,
    load_optimiser,
    named,
    numbered,
    optimiser_tensors,
    put_back,
    restore,
    save_tensors,
    tensors_of,
)
from robal.training.trained import Trained

Judge = Callable[[nn.Module, int], float]
Fresh = Callable[[int], nn.Module]

_NUMBERS = ("epoch", "best_score", "best_epoch", "evaluations", "seconds")  # of a checkpoint


def fit(
    recipe: Recipe,
    examples: Examples,
    unlabelled: Tensor | None,
    previous: Trained,
    monitor: Judge | None,
    seed: int,
    *,
    fresh: Fresh | None = None,
    checkpoint: Path | None = None,
    what: str = "training",
) -> Trained:
    """Train a copy of the previous model on the examples; with `recipe.pool`, on images without labels too.

    Args:
        recipe: how.
        examples: what on; at least two. Those of the kind "meta" are not trained on: they are for an objective that
            learns beside the model.
        unlabelled: [U, C, H, W], images without labels, uint8 or float32 in [0, 1], for an objective that looks at
            them or for `recipe.pool`; None: none. Hidden labels never come here. A caller that keeps no reference of
            its own has them out of memory as soon as teacher and witness are done.
        previous: what training starts from; left unchanged.
        monitor: (model, epoch) -> a figure on validation data, higher is better; needed for keep="best".
        seed: names the random streams: the order of the examples, their augmentation, the crafting.
        fresh: number -> the network before any training: that of number 0 is what a teacher starts from and
            `recipe.shrink` mixes in; those of further numbers are what restarts begin with. None: the previous model.
        checkpoint: a file that holds the state after each epoch, so that a killed training repeats one epoch at most;
            those of teacher, witness and restarts lie beside it.
        what: a title for the progress bar.

    Returns:
        The trained model, in eval mode.

    Raises:
        InputError: for fewer than two examples, keep="best" without a monitor, or an objective that learns from a meta
            set without one.
        ContractError: when the loss becomes NaN or infinite, or is not one number an example.
    """
    outside = examples.of_kind("none")
    if len(outside):
        examples = examples.of_kind(*Examples.TRAINED, "meta")
    if len(examples) - examples.count("meta") < 2:
        raise InputError(f"training needs at least two examples; {len(examples) - examples.count('meta')} came")
    if recipe.needs_meta and not examples.count("meta"):
        raise InputError(
            f"{type(recipe.objective).__name__} learns from a meta set, bought images that it is not trained on, and "
            "there are none"
        )
    if recipe.keep == "best" and monitor is None:
        raise InputError('keep="best" chooses by validation images and there are none; use keep="last"')
    if unlabelled is not None and len(unlabelled) == 0:
        unlabelled = None
    if recipe.restarts > 1:
        share = None if recipe.budget is None else max(1, recipe.budget // recipe.restarts)
        return _best_of(
            [
                fit(
                    replace(recipe, restarts=1, budget=share),
                    examples,
                    unlabelled,
                    previous if fresh is None else Trained(fresh(number)),
                    monitor,
                    stream(seed, "restart", number),
                    fresh=fresh,
                    checkpoint=checkpoint and checkpoint.with_name(f"{checkpoint.stem}-{number}{checkpoint.suffix}"),
                    what=f"{what}, start {number + 1} of {recipe.restarts}",
                )
                for number in range(recipe.restarts)
            ]
        )
    if recipe.pool is None or unlabelled is None:
        return _train(recipe, examples, unlabelled, previous, monitor, seed, fresh, checkpoint, what)
    pool, start = recipe.pool, Trained(previous.model if fresh is None else fresh(0))
    used = torch.zeros(len(unlabelled), dtype=torch.bool)
    used[pool.drawn(len(unlabelled), seed)] = True
    images, guesses = picked(unlabelled, used), torch.full((len(unlabelled),), -1)
    outside = outside if pool.outside else outside.only(torch.arange(0))
    taught, said, classes = _taught(pool, examples, images, start, seed, checkpoint, what, outside)
    refused, collapsed = said.refused, said.has_collapsed(classes)
    if collapsed:
        say(f"{what}: pseudo-labels fall on far too few classes, so none is used this time")
        said = replace(said, accepted=torch.zeros_like(said.accepted))
    elif pool.from_teacher:
        previous = replace(previous, model=taught.model, companion=None, optimiser={})
    guesses[used] = said.labels
    pseudo, rest = said.examples(images, pool.soft), None
    if recipe.unlabelled_passes and not bool(said.accepted.all()):
        rest = picked(images, ~said.accepted)
    del unlabelled, images  # as large as the pool each, where they are not the same
    everything = Examples.join([examples, pseudo])
    del pseudo
    trained = _train(recipe, everything, rest, previous, monitor, seed, fresh, checkpoint, what, taught.evaluations)
    return replace(
        trained,
        teacher=None if collapsed else taught.model,
        guesses=guesses,
        refused=refused,
        earlier=trained.earlier + taught.earlier,
    )


def _best_of(found: list[Trained]) -> Trained:
    """The best by the monitor, the first of equals, at the cost of all."""
    best = max(found, key=lambda one: one.score)
    return replace(best, evaluations=sum(one.evaluations for one in found), earlier=sum(one.earlier for one in found))


def _taught(
    pool: PoolTraining,
    examples: Examples,
    images: Tensor,
    start: Trained,
    seed: int,
    checkpoint: Path | None,
    what: str,
    outside: Examples,
) -> tuple[Trained, PseudoLabels, Tensor]:
    """The teacher, at the cost of teacher and witness; what it says of `images`; the labels that both were taught.

    Where there are images `outside` of all classes, it learns them as one more, which it has forgotten when it comes.
    """
    bought, witness, spent, earlier = examples.of_kind("bought"), None, 0, 0.0
    lesson = bought if len(bought) > 1 else examples

    def beside(name: str) -> Path | None:
        return None if checkpoint is None else checkpoint.with_name(f"pool-{name}.safetensors")

    of_teacher, of_witness = stream(seed, "teacher"), stream(seed, "witness")
    title = f"{what}: the teacher"
    lessons, pupil, classes = lesson, start, 0
    if len(outside) and not head_makes_logits(start.model, images[:2]):
        say(f"{what}: the teacher cannot learn what is none of the classes, for its last linear layer makes no logits")
    elif len(outside):
        with_none, classes = with_one_more_class(start.model, stream(seed, "none"))
        theirs = Examples.of(outside.images, torch.full_like(outside.labels, classes), outside.origin)
        lessons = Examples.join([lesson, theirs])
        pupil = Trained(with_none)
    taught = fit(pool.teacher, lessons, images, pupil, None, of_teacher, checkpoint=beside("teacher"), what=title)
    if pool.witness is not None:
        title = f"{what}: the witness"
        alone = fit(pool.witness, lesson, None, start, None, of_witness, checkpoint=beside("witness"), what=title)
        witness, spent, earlier = alone.model, alone.evaluations, alone.earlier
    said = pseudo_labels(pool, taught.model, images, witness, outside=classes)
    if classes:
        taught = replace(taught, model=without_last_class(taught.model))
    both = replace(taught, evaluations=taught.evaluations + spent, earlier=taught.earlier + earlier)
    return both, said, lesson.labels


def _train(
    recipe: Recipe,
    examples: Examples,
    unlabelled: Tensor | None,
    previous: Trained,
    monitor: Judge | None,
    seed: int,
    fresh: Fresh | None,
    checkpoint: Path | None,
    what: str,
    spent: int = 0,
) -> Trained:
    """`fit` without a teacher; `spent` gradient evaluations were, and count towards the budget."""
    if recipe.devices > 1 and not distributed.is_initialized():
        first = None if fresh is None or recipe.shrink == 1 else Same(fresh(0))
        sent = replace(previous, model=copy.deepcopy(previous.model).cpu(), companion=None)
        given = (recipe, examples, unlabelled, sent, monitor, seed, first, checkpoint, what, spent)
        return side_by_side(_train, recipe.devices, previous, what, given)
    team = Group.of(recipe.devices)
    started, earlier, device = time.perf_counter(), 0.0, home_of(previous.model)
    model = channels_last(copy.deepcopy(previous.model), examples.images.shape[1:])
    if recipe.shrink < 1 and fresh is not None:
        _shrink(model, fresh(0), recipe.shrink)
    meta = examples.of_kind("meta")
    if len(meta):
        examples = examples.of_kind(*Examples.TRAINED)
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "companion"))
        companion = _companion(recipe.objective.begin(model, examples), previous.companion)
    if team.size > 1 and companion is not None:
        raise InputError(
            f"{type(recipe.objective).__name__} keeps something of its own beside the model, which several devices "
            "would each learn differently: use recipe.devices=1"
        )
    averaged = copy.deepcopy(model).eval() if recipe.average else None
    beside = [] if companion is None else [weight for weight in companion.parameters() if weight.requires_grad]
    backbone, groups = _apart(recipe, model)
    optimiser = recipe.optimiser.build(groups) if groups else recipe.optimiser.build([*model.parameters(), *beside])
    if recipe.keep_optimiser and previous.optimiser:
        load_optimiser(optimiser, previous.optimiser)  # of the model alone: a companion may be another one's
    parts = [module for module in (model, companion, averaged) if module is not None]
    objective = with_threat(recipe.objective, Linf()) if recipe.ramp else recipe.objective
    if recipe.unlabelled_passes == 0:
        unlabelled = None
    per_epoch = steps_in_epoch(len(examples), recipe.batch_size)
    mixed = recipe.pool is not None and examples.count("pseudo") > 0
    images = recipe.batch_size if mixed else len(examples) / per_epoch
    an_epoch = len(meta) * recipe.meta_passes
    total = recipe.steps(per_epoch, images, unlabelled is not None, spent, an_epoch)
    if recipe.snapshots > total:
        raise InputError(f"{recipe.snapshots} snapshots are asked for, of a training of {total} steps; ask for fewer")
    best: dict[str, Tensor] = {}
    snapshots: list[dict[str, Tensor]] = []
    unit = per_epoch if recipe.budget is None else 1  # snapshots are taken at the end of epochs, or of any step
    wanted = range(1, recipe.snapshots + 1)
    kept_after = {unit * -(-(total // unit) * number // recipe.snapshots) for number in wanted}
    done, best_score, best_epoch = 0, float("-inf"), 0
    if checkpoint is not None and checkpoint.exists():
        numbers, best, snapshots = restore(checkpoint, parts, optimiser)
        done, best_score, best_epoch, spent, earlier = (numbers.get(name, 0) for name in _NUMBERS)
    at = taken = min(done * per_epoch, total)
    probing = total if recipe.backbone == 0 else round(recipe.probe * total)
    if recipe.precision == "bfloat16" and not gains_from_bfloat16(device):
        say(f"{what}: this processor has no instructions for bfloat16; precision=float32 would be faster")

    with torch.random.fork_rng():
        for step in track(range(at, total), what, total, at):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                if recipe.patience is not None and epoch - best_epoch >= recipe.patience:
                    break
                shown = batches(recipe, examples, unlabelled, generator(seed, "order", epoch), device)
            if place == 0 or step == probing:
                model.train()
                for weight in backbone:
                    weight.requires_grad_(step >= probing)
                if step < probing:
                    model.eval()
                    head_of(model)[1].train()
            noise = generator(seed, "batch", epoch, place, *team.named())
            # dropout layers draw from torch's own stream
            torch.manual_seed(stream(seed, "dropout", epoch, place, *team.named()))
            for group in optimiser.param_groups:
                factor = group.get("factor", 1.0) * recipe.schedule.factor(step, total, previous.steps)
                group["lr"] = recipe.optimiser.lr * factor
                momentum = recipe.schedule.momentum(step, total, previous.steps)
                if momentum is not None:
                    group["momentum"] = momentum
            whole = next(shown)
            batch, weight_of_share = team.share(whole)
            batch = replace(batch, inputs=recipe.augmentation(batch.inputs, noise))
            if batch.unlabelled is not None:
                batch = replace(batch, unlabelled=recipe.augmentation(batch.unlabelled, noise))
            grown = min(1.0, (step + 1) / (recipe.ramp * total)) if recipe.ramp else 1.0
            at_hand = scaled(objective, grown) if grown < 1 else objective
            if hasattr(at_hand, "learn"):
                lesson = Lesson(meta.images, meta.labels, place, lookahead(optimiser, model))
                at_hand.learn(model, companion, batch, lesson, generator(seed, "learn", epoch, place))
                torch.manual_seed(stream(seed, "dropout", epoch, place))
            with in_bfloat16(model, recipe.precision == "bfloat16"):
                losses = at_hand(model, companion, batch, noise)
            if losses.shape != batch.weights.shape:
                raise ContractError(
                    f"{type(recipe.objective).__name__} must return one loss for each of {len(batch.weights)} "
                    f"examples; it returned {list(losses.shape)}"
                )
            loss = (losses * batch.weights).mean() * weight_of_share
            if not torch.isfinite(loss):
                raise ContractError(f"the loss is {loss.item()} in epoch {epoch + 1}: lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            team.sum_gradients(model.parameters())
            optimiser.step()
            taken, spent = step + 1, spent + _cost(recipe, whole) + (an_epoch if place == 0 else 0)
            if averaged is not None:
                _average(averaged, model, recipe.average, step)
            is_end = place + 1 == per_epoch or taken == total
            if is_end or taken in kept_after:
                team.average_buffers(model, averaged)
            if taken in kept_after:
                snapshots.append(copied(averaged or model))
            if not is_end:
                continue
            model.eval()
            if recipe.keep == "best" and monitor is not None:
                score = team.agreed(partial(monitor, averaged or model, epoch), device)
                if score != score:
                    raise ContractError(f"the monitor answered NaN in epoch {epoch + 1}, so no epoch can be kept")
                if score >= best_score:
                    best, best_score, best_epoch = tensors_of(parts, optimiser), score, epoch + 1
            if checkpoint is not None and team.leads:
                seconds = earlier + time.perf_counter() - started
                numbers = dict(zip(_NUMBERS, (epoch + 1, float(best_score), best_epoch, spent, seconds), strict=True))
                tensors = named("now", tensors_of(parts, optimiser)) | named("best", best) | numbered(snapshots)
                save_tensors(checkpoint, tensors, numbers)
    for weight in backbone:
        weight.requires_grad_(True)
    if recipe.keep == "best":
        put_back(best, parts, optimiser)
    if len(snapshots) < recipe.snapshots:  # patience ended it: the last snapshot is of the end
        snapshots.append(copied(averaged or model))
    state = optimiser_tensors(optimiser) if recipe.keep_optimiser else {}
    own = len(list(model.parameters()))
    state = {name: tensor for name, tensor in state.items() if int(name.partition(".")[0]) < own}
    epoch = best_epoch if recipe.keep == "best" else -(-taken // per_epoch)
    return Trained(
        (averaged or model).eval(),
        companion,
        tuple(snapshots),
        state,
        previous.steps + taken,
        epoch,
        evaluations=spent,
        earlier=earlier,
        score=best_score if recipe.keep == "best" else math.nan,
    )


def _apart(recipe: Recipe, model: nn.Module) -> tuple[list[nn.Parameter], list[dict[str, Any]]]:
    """Weights of the backbone, and the optimiser's groups of backbone and head; nothing where these are one."""
    if not recipe.head_apart:
        return [], []
    of_head = list(head_of(model)[1].parameters())
    own = {id(weight) for weight in of_head}
    backbone = [weight for weight in model.parameters() if id(weight) not in own and weight.requires_grad]
    return backbone, [{"params": backbone, "factor": recipe.backbone}, {"params": of_head}]


@dataclass(frozen=True)
class Same:
    """Networks before any training, of which there is one; unlike a closure it can be sent to another process."""

    model: nn.Module

    def __call__(self, number: int) -> nn.Module:
        return self.model


def _companion(fresh: nn.Module | None, earlier: nn.Module | None) -> nn.Module | None:
    """The fresh one, with what an earlier one of its kind learned."""
    if fresh is not None and type(fresh) is type(earlier) and earlier is not None:
        learned, wanted = earlier.state_dict(), fresh.state_dict()
        if {name: tensor.shape for name, tensor in learned.items()} == {n: t.shape for n, t in wanted.items()}:
            fresh.load_state_dict(learned)
    return fresh


def _cost(recipe: Recipe, batch: Batch) -> int:
    beside = 0 if batch.unlabelled is None else len(batch.unlabelled) * recipe.unlabelled_passes
    return len(batch.labels) * recipe.objective.passes + beside


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model; faster at first, so that it forgets where training began."""
    share = 1 - min(decay, (step + 1) / (step + 10))
    for mean, parameter in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter, share)
    for held, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
        held.copy_(buffer)


@torch.no_grad()
def _shrink(model: nn.Module, fresh: nn.Module, share: float) -> None:
    for parameter, other in zip(model.parameters(), fresh.parameters(), strict=True):
        parameter.mul_(share).add_(other, alpha=1 - share)
