"""Standard training: the cross-entropy on the images as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.errors import InputError
from robal.objectives.objective import Batch
from robal.pool import Examples


@dataclass(frozen=True)
class Natural:
    """CE(f(x), y).

    Args:
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing lies in [0, 1); {self.label_smoothing} came")

    @property
    def passes(self) -> int:
        return 1

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        logits = model(batch.inputs)
        return F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=self.label_smoothing)
