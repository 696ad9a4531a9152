"""Adversarial training: the cross-entropy on adversarial examples, which replace the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks import PGD, Attack, perturb
from robal.objectives.awp import at_hardest_weights
from robal.objectives.objective import Batch, check_strengths, cross_entropy
from robal.pool import Examples


@dataclass(frozen=True)
class Adversarial:
    """CE(f(x + δ), y) with δ from an attack; the label is kept whether or not the attack succeeds.

    The attack meets the model in eval mode (BatchNorm uses its running statistics), the loss in training mode.

    Args:
        attack: crafts x + δ.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
        weight_radius: adversarial weight perturbation, see `robal.objectives.awp`; 0: none.

    Images without labels are not used. What was crafted once and for all (`Batch.crafted`) is not attacked again.

    Source: Madry et al., ICLR 2018, arXiv 1706.06083; inside active learning: Guo et al., arXiv 2112.02542, eq. 3.
    """

    attack: Attack = PGD()
    label_smoothing: float = 0.0
    weight_radius: float = 0.0

    def __post_init__(self) -> None:
        check_strengths(self.label_smoothing, self.weight_radius)

    @property
    def passes(self) -> int:
        return self.attack.passes + (2 if self.weight_radius else 1)

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        moved = perturb(self.attack, model, batch.inputs, batch.labels, generator, check=False)
        if batch.crafted is not None:
            moved = torch.where(batch.crafted.view(-1, 1, 1, 1), batch.inputs, moved)
        return at_hardest_weights(
            model,
            lambda forward: cross_entropy(forward(moved), batch, self.label_smoothing),
            batch.weights,
            self.weight_radius,
        )
