"""Adversarial training: the cross-entropy on adversarial examples, which replace the images or join them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks import PGD, Attack, perturb
from robal.errors import InputError
from robal.objectives.awp import Forward, at_hardest_weights
from robal.objectives.objective import Batch, check_strengths, cross_entropy
from robal.pool import Examples


@dataclass(frozen=True)
class Adversarial:
    """(1 − c) CE(f(x + δ), y) + c CE(f(x), y), δ from an attack; the label is kept whether or not the attack succeeds.

    The attack meets the model in eval mode (BatchNorm uses its running statistics), the loss in training mode.

    Args:
        attack: crafts x + δ.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
        weight_radius: adversarial weight perturbation, see `robal.objectives.awp`; 0: none.
        clean: c, the share of images as they are, in [0, 1); 0: adversarial examples alone, and no pass for the others.

    Images without labels are not used. What was crafted once and for all (`Batch.crafted`) is not attacked again.

    Source: Madry et al., ICLR 2018, arXiv 1706.06083; inside active learning: Guo et al., arXiv 2112.02542, eq. 3; of
    `clean`, Goodfellow, Shlens and Szegedy, ICLR 2015, arXiv 1412.6572, section 6.
    """

    attack: Attack = PGD()
    label_smoothing: float = 0.0
    weight_radius: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        check_strengths(self.label_smoothing, self.weight_radius)
        if not 0 <= self.clean < 1:
            raise InputError(f"clean is a share in [0, 1); {self.clean} came; with none but clean images: Natural")

    @property
    def passes(self) -> int:
        return self.attack.passes + (2 if self.weight_radius else 1) * (2 if self.clean else 1)

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        moved = perturb(self.attack, model, batch.inputs, batch.labels, generator, check=False)
        if batch.crafted is not None:
            moved = torch.where(batch.crafted.view(-1, 1, 1, 1), batch.inputs, moved)

        def losses(forward: Forward) -> Tensor:
            robust = cross_entropy(forward(moved), batch, self.label_smoothing)
            if not self.clean:
                return robust
            natural = cross_entropy(forward(batch.inputs), batch, self.label_smoothing)
            return (1 - self.clean) * robust + self.clean * natural

        return at_hardest_weights(model, losses, batch.weights, self.weight_radius)
