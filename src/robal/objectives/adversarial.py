"""Adversarial training: the cross-entropy on adversarial examples, which replace the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, Attack, perturb
from robal.errors import InputError
from robal.objectives.objective import Batch
from robal.pool import Examples


@dataclass(frozen=True)
class Adversarial:
    """CE(f(x + δ), y) with δ from an attack; the label is kept whether or not the attack succeeds.

    The attack meets the model in eval mode (BatchNorm uses its running statistics), the loss in training mode.

    Args:
        attack: crafts x + δ.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).

    Source: Madry et al., ICLR 2018, arXiv 1706.06083; inside active learning: Guo et al., arXiv 2112.02542, eq. 3.
    """

    attack: Attack = PGD()
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing lies in [0, 1); {self.label_smoothing} came")

    @property
    def passes(self) -> int:
        return self.attack.passes + 1

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        moved = perturb(self.attack, model, batch.inputs, batch.labels, generator, check=False)
        return F.cross_entropy(model(moved), batch.labels, reduction="none", label_smoothing=self.label_smoothing)
