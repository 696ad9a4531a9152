"""The order in which examples are shown: shuffled each epoch, bought and pseudo-labelled ones in fixed shares."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from robal.images import unit
from robal.objectives import Batch
from robal.pool import Examples
from robal.training.recipe import Recipe


def steps_in_epoch(count: int, batch_size: int) -> int:
    """How many batches show so many examples once."""
    return len(_cuts(count, batch_size)) - 1


def batches(
    recipe: Recipe, examples: Examples, unlabelled: Tensor | None, order: torch.Generator, device: torch.device
) -> Iterator[Batch]:
    """One epoch. With pool training each batch holds `recipe.pool.share` of bought examples, both kinds going round."""
    crafted = examples.kind == Examples.KINDS.index("crafted")
    has_crafted = bool(crafted.any())
    for chosen in _chosen(recipe, examples, order):
        beside = None
        if unlabelled is not None:
            size = recipe.unlabelled_batch
            drawn = torch.randint(len(unlabelled), (size,), generator=order)
            beside = unit(unlabelled[drawn].to(device))
        yield Batch(
            unit(examples.images[chosen].to(device)),
            examples.labels[chosen].to(device),
            examples.weight[chosen].to(device),
            beside,
            None if examples.targets is None else examples.targets[chosen].to(device),
            crafted[chosen].to(device) if has_crafted else None,
        )


def _chosen(recipe: Recipe, examples: Examples, order: torch.Generator) -> Iterator[Tensor]:
    pseudo = examples.kind == Examples.KINDS.index("pseudo")
    if recipe.pool is None or not bool(pseudo.any()) or bool(pseudo.all()):
        permutation = torch.randperm(len(examples), generator=order)
        yield from (permutation[start:stop] for start, stop in pairwise(_cuts(len(examples), recipe.batch_size)))
        return
    bought = min(max(round(recipe.pool.share * recipe.batch_size), 1), recipe.batch_size - 1)
    steps = steps_in_epoch(len(examples), recipe.batch_size)
    mine = _round_and_round((~pseudo).nonzero().flatten(), steps * bought, order).split(bought)
    others = recipe.batch_size - bought
    theirs = _round_and_round(pseudo.nonzero().flatten(), steps * others, order).split(others)
    yield from (torch.cat(pair) for pair in zip(mine, theirs, strict=True))


def _round_and_round(positions: Tensor, count: int, order: torch.Generator) -> Tensor:
    """`count` positions: one permutation after another."""
    rounds = -(-count // len(positions))
    return torch.cat([positions[torch.randperm(len(positions), generator=order)] for _ in range(rounds)])[:count]


def _cuts(count: int, batch_size: int) -> list[int]:
    """Where batches begin and end; a last batch of one joins its neighbour, since BatchNorm cannot use it."""
    cuts = [*range(0, count, batch_size), count]
    return [*cuts[:-2], count] if cuts[-1] - cuts[-2] == 1 and len(cuts) > 2 else cuts
