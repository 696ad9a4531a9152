"""Standard training: the cross-entropy on the images as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.objectives.objective import Batch, check_strengths, cross_entropy
from robal.pool import Examples


@dataclass(frozen=True)
class Natural:
    """CE(f(x), y).

    Args:
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_strengths(self.label_smoothing, 0.0)

    @property
    def passes(self) -> int:
        return 1

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        return cross_entropy(model(batch.inputs), batch, self.label_smoothing)
