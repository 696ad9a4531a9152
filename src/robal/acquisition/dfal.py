"""DFAL: label the images nearest to a decision boundary, and train on the step across it as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks.deepfool import DeepFool, Fooled
from robal.candidates import Candidates
from robal.errors import InputError
from robal.pool import Examples


@dataclass(frozen=True)
class DFAL:
    """DeepFool active learning: of some candidates drawn at random, the n that DeepFool moves least across a boundary.

    Images whose prediction DeepFool cannot change come last. Each labelled image brings its adversarial twin x + r,
    with the label of x and at no cost, into the training set (`examples`), where it stays; an image that did not flip
    brings none.

    Args:
        candidates_per_query: DeepFool looks at so many times n candidates; 0: at all of them.
        twins: whether to add them.
        attack: the DeepFool that measures and makes the twins.

    Differs from the paper: the authors' code takes 30 candidates an image instead of the 10 that it speaks of, and
    neither overshoots nor clips; that is DFAL(30, attack=DeepFool(steps=10, overshoot=0.0, classes=None, clip=False)).
    Twins are clipped to [0, 1] in any case, for an image beyond it is none. The DRE study discards them: twins=False.

    Source: Ducoffe and Precioso, arXiv 1802.09841 (2018), algorithm 1.
    """

    candidates_per_query: int = 10
    twins: bool = True
    attack: DeepFool = DeepFool(steps=10)

    def __post_init__(self) -> None:
        check_candidates_per_query("DFAL", self.candidates_per_query)

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        drawn = candidates.only(draw(len(candidates), self.candidates_per_query * n, generator))
        distance = drawn.map(Distances(self.attack))["distance"]
        return drawn.indices[torch.argsort(distance, stable=True)[:n]]

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        """The twins of `chosen` as the model that chose them sees them: [at most k] of kind "twin", float32 in [0, 1].

        Args:
            candidates: their model, pool and engine are used.
            chosen: [k] int64, positions in the pool.
            labels: [k] int64, the oracle's.
            generator: unused; DeepFool does not gamble.
        """
        if not self.twins or len(chosen) == 0:
            return Examples.of(candidates.pool.images.at_rest(chosen[:0]), labels[:0])
        found = candidates.engine.map(Twins(self.attack), candidates.model, candidates.pool.images, chosen, 0)
        flipped = found["flipped"]
        return Examples.of(found["twin"][flipped], labels[flipped], chosen[flipped], kind="twin")


@dataclass(frozen=True)
class Distances:
    """DeepFool's distance of every image of a tile, [B] float32; infinity where it found nothing."""

    attack: DeepFool

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"distance": fool(self.attack, model, batch).distance}


@dataclass(frozen=True)
class Twins:
    """The adversaries of a tile, [B, C, H, W] float32 in [0, 1], and whether they are any, [B] bool."""

    attack: DeepFool

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        found = fool(self.attack, model, batch)
        return {"twin": found.adversaries.clamp(0.0, 1.0), "flipped": found.flipped}


def fool(attack: DeepFool, model: nn.Module, batch: Tensor) -> Fooled:
    """What DeepFool finds for a tile. The engine pads a tile with copies of its last image: that is fooled but once."""
    copies = (batch == batch[-1:]).flatten(1).all(1).flip(0).long().cumprod(0).sum()
    distinct = len(batch) - int(copies) + 1
    found = attack(model, batch[:distinct])
    rows = torch.arange(len(batch), device=batch.device).clamp_max(distinct - 1)
    return Fooled(found.adversaries[rows], found.distance[rows], found.flipped[rows])


def draw(total: int, count: int, generator: torch.Generator) -> Tensor:
    """[min(count, total)] int64: positions in [0, total) drawn without replacement, ascending; all of them for 0.

    >>> draw(3, 0, torch.Generator()), draw(3, 7, torch.Generator())
    (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """
    if count == 0 or count >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=generator)[:count].sort().values


def check_candidates_per_query(name: str, count: int) -> None:
    """Raises InputError below 0."""
    if count < 0:
        raise InputError(f"{name} looks at candidates_per_query >= 1 candidates an image, or 0 for all; {count} came")
