"""Training: examples in, a trained model out. The one place that builds optimisers and takes their steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from robal.errors import ContractError, InputError
from robal.images import unit
from robal.networks import channels_last, home_of
from robal.objectives import Batch
from robal.pool import Examples
from robal.progress import track
from robal.seeds import generator, stream
from robal.training.recipe import Recipe
from robal.training.trained import (
    Trained,
    load_optimiser,
    load_tensors,
    named,
    numbered,
    optimiser_tensors,
    part,
    save_tensors,
    snapshots_in,
)

Monitor = Callable[[nn.Module, int], float]


def fit(
    recipe: Recipe,
    examples: Examples,
    unlabelled: Tensor | None,
    previous: Trained,
    monitor: Monitor | None,
    seed: int,
    *,
    checkpoint: Path | None = None,
    what: str = "training",
) -> Trained:
    """Train a copy of the previous model on the examples.

    Args:
        recipe: how.
        examples: what on; at least two.
        unlabelled: images without labels that an objective may use; None: none. Hidden labels never come here.
        previous: what training starts from; left unchanged.
        monitor: (model, epoch) -> robust accuracy on validation data, higher is better; needed for keep="best".
        seed: names the random streams: the order of the examples, their augmentation, the crafting.
        checkpoint: a file that holds the state after each epoch, so that a killed training repeats one epoch at most.
        what: a title for the progress bar.

    Returns:
        The trained model, in eval mode.

    Raises:
        InputError: for fewer than two examples, or keep="best" without a monitor.
        ContractError: when the loss becomes NaN or infinite, or is not one number an example.
    """
    if len(examples) < 2:
        raise InputError(f"training needs at least two examples; {len(examples)} came")
    if recipe.keep == "best" and monitor is None:
        raise InputError('keep="best" chooses by validation images and there are none; use keep="last"')
    device = home_of(previous.model)
    model = channels_last(copy.deepcopy(previous.model), examples.images.shape[1:])
    companion = copy.deepcopy(previous.companion)
    if companion is None:
        companion = recipe.objective.begin(model, examples)
    optimiser = recipe.optimiser.build(model.parameters())
    if recipe.keep_optimiser and previous.optimiser:
        load_optimiser(optimiser, previous.optimiser)
    parts = [model] if companion is None else [model, companion]
    per_epoch = len(_cuts(len(examples), recipe.batch_size)) - 1
    total = per_epoch * recipe.epochs
    best: dict[str, Tensor] = {}
    snapshots: list[dict[str, Tensor]] = []
    kept_after = {-(-recipe.epochs * (number + 1) // recipe.snapshots) for number in range(recipe.snapshots)}
    done, best_score, best_epoch = 0, float("-inf"), 0
    if checkpoint is not None and checkpoint.exists():
        done, best, best_score, best_epoch, snapshots = _restore(checkpoint, parts, optimiser)

    with torch.random.fork_rng():
        for step in track(range(done * per_epoch, total), what, total, done * per_epoch):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                model.train()
                batches = _batches(recipe, examples, unlabelled, generator(seed, "order", epoch), device)
            noise = generator(seed, "batch", epoch, place)
            torch.manual_seed(stream(seed, "dropout", epoch, place))  # dropout layers draw from torch's own stream
            for group in optimiser.param_groups:
                group["lr"] = recipe.optimiser.lr * recipe.schedule.factor(step, total, previous.steps)
                momentum = recipe.schedule.momentum(step, total, previous.steps)
                if momentum is not None:
                    group["momentum"] = momentum
            batch = next(batches)
            batch = replace(batch, inputs=recipe.augmentation(batch.inputs, noise))
            losses = recipe.objective(model, companion, batch, noise)
            if losses.shape != batch.weights.shape:
                raise ContractError(
                    f"{type(recipe.objective).__name__} must return one loss for each of {len(batch.weights)} "
                    f"examples; it returned {list(losses.shape)}"
                )
            loss = (losses * batch.weights).mean()
            if not torch.isfinite(loss):
                raise ContractError(f"the loss is {loss.item()} in epoch {epoch + 1}: lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if place + 1 < per_epoch:
                continue
            model.eval()
            if recipe.keep == "best" and monitor is not None:
                score = monitor(model, epoch)
                if score >= best_score:
                    best, best_score, best_epoch = _tensors(parts, optimiser), score, epoch + 1
            if epoch + 1 in kept_after:
                snapshots.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
            if checkpoint is not None:
                numbers = {"epoch": epoch + 1, "best_score": float(best_score), "best_epoch": best_epoch}
                tensors = named("now", _tensors(parts, optimiser)) | named("best", best) | numbered(snapshots)
                save_tensors(checkpoint, tensors, numbers)
    if recipe.keep == "best":
        _put_back(best, parts, optimiser)
    state = optimiser_tensors(optimiser) if recipe.keep_optimiser else {}
    epoch = best_epoch if recipe.keep == "best" else recipe.epochs
    return Trained(model.eval(), companion, tuple(snapshots), state, previous.steps + total, epoch)


def _cuts(count: int, batch_size: int) -> list[int]:
    """Where batches begin and end; a last batch of one joins its neighbour, since BatchNorm cannot use it."""
    cuts = [*range(0, count, batch_size), count]
    return [*cuts[:-2], count] if cuts[-1] - cuts[-2] == 1 and len(cuts) > 2 else cuts


def _batches(
    recipe: Recipe, examples: Examples, unlabelled: Tensor | None, order: torch.Generator, device: torch.device
) -> Iterator[Batch]:
    permutation = torch.randperm(len(examples), generator=order)
    cuts = _cuts(len(examples), recipe.batch_size)
    for start, stop in pairwise(cuts):
        chosen = permutation[start:stop]
        beside = None
        if unlabelled is not None:
            drawn = torch.randint(len(unlabelled), (len(chosen),), generator=order)
            beside = unit(unlabelled[drawn].to(device))
        yield Batch(
            unit(examples.images[chosen].to(device)),
            examples.labels[chosen].to(device),
            examples.weight[chosen].to(device),
            beside,
        )


def _tensors(parts: list[nn.Module], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of everything that training changes."""
    tensors = named("optimiser", optimiser_tensors(optimiser))
    for number, module in enumerate(parts):
        tensors |= {name: tensor.detach().clone() for name, tensor in named(str(number), module.state_dict()).items()}
    return tensors


def _put_back(tensors: dict[str, Tensor], parts: list[nn.Module], optimiser: torch.optim.Optimizer) -> None:
    for number, module in enumerate(parts):
        module.load_state_dict(part(tensors, str(number)))
    load_optimiser(optimiser, part(tensors, "optimiser"))


def _restore(
    checkpoint: Path, parts: list[nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[int, dict[str, Tensor], float, int, list[dict[str, Tensor]]]:
    tensors, numbers = load_tensors(checkpoint)
    _put_back(part(tensors, "now"), parts, optimiser)
    best = part(tensors, "best")
    return numbers["epoch"], best, numbers["best_score"], numbers["best_epoch"], snapshots_in(tensors)
