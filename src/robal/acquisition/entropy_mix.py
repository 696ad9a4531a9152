"""The entropy of two models, the standard and the robust one, mixed in shares that shift over the rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robal import scores
from robal.candidates import Candidates
from robal.errors import InputError


@dataclass(frozen=True)
class EntropyMix:
    """The n images of highest w·H(standard) + (1 - w)·H(robust), w = max(1 - (t - 1) / rounds, 0) in round t = 1, 2, …

    Early on the robust model has seen too little to know what it does not know, so the standard one decides; later the
    model that will be used does. In a run the standard model is trained beside the robust one, by `start.recipe` on
    what was bought; but where the round before trained a teacher for the pool (`recipe.pool`), that one is asked, so
    that with the pool in `recipe` alone it is another model from round 2 on. Alone, give `select(..., teacher=model)`.

    Args:
        rounds: after so many rounds the robust model decides alone; at least 1.

    Differs from the paper, which mixes a language model before and after fine-tuning, weighted by its own schedule.

    Source: STAR, arXiv 2403.01165 (2024), carried over to adversarial training.
    """

    rounds: int = 10
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"EntropyMix shifts over at least one round; {self.rounds} came")

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        weight = max(1 - (max(len(candidates.history), 1) - 1) / self.rounds, 0.0)
        standard, robust = scores.entropy(candidates.standard.probs), scores.entropy(candidates.probs)
        return weight * standard + (1 - weight) * robust
