"""Chance: the baseline that most acquisition functions fail to beat under adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.candidates import Candidates


@dataclass(frozen=True)
class Random:
    """n images uniformly, without replacement. Looks at no model."""

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return candidates.indices[torch.randperm(len(candidates), generator=generator)[:n]]
