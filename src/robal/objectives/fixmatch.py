"""FixMatch: images without labels teach too, where the model is sure of them. Standard, not robust, training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.augmentations import Affine, Augmentation, Chain, Cutout
from robal.errors import InputError
from robal.objectives.objective import Batch, cross_entropy
from robal.pool import Examples


@dataclass(frozen=True)
class FixMatch:
    """CE(f(x), y) + weight · mean_u 1[max p(u) ≥ threshold] CE(f(strong(u)), argmax p(u)).

    p(u) are the model's own probabilities, through which no gradient flows. x and u come weakly augmented, as the
    recipe says. Without images u this is natural training. Where examples have weights, those of u have the mean one.
    The guess is made in training mode, dropout and BatchNorm of that batch included.

    Args:
        strong: the augmentation under which the prediction must hold.
        threshold: the least probability at which the model's own prediction teaches it, in [0, 1].
        weight: of the term without labels, ≥ 0.

    Differs from the paper: the strong view is drawn from the weakly augmented image, and is a fixed chain instead of
    RandAugment.

    Source: Sohn et al., NeurIPS 2020, arXiv 2001.07685, equations 3 and 4.
    """

    strong: Augmentation = Chain((Affine(), Cutout()))
    threshold: float = 0.95
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or not self.weight >= 0:
            raise InputError(
                f"FixMatch needs a threshold in [0, 1] and a weight of 0 or more; {self.threshold}, {self.weight} came"
            )

    @property
    def passes(self) -> int:
        return 1

    @property
    def unlabelled_passes(self) -> int:
        """Gradient evaluations an image without label costs; the forward pass of the prediction counts as one."""
        return 2

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        if batch.unlabelled is None:
            return cross_entropy(model(batch.inputs), batch)
        with torch.no_grad():
            sure, guess = model(batch.unlabelled).softmax(1).max(1)
        with torch.autocast(batch.inputs.device.type, enabled=False):  # pixels are moved in full precision
            strong = self.strong(batch.unlabelled, generator)
        # In one pass, so that BatchNorm sees both kinds together.
        logits, other = model(torch.cat([batch.inputs, strong])).split([len(batch.inputs), len(strong)])
        taught = F.cross_entropy(other, guess, reduction="none") * (sure >= self.threshold)
        return cross_entropy(logits, batch) + self.weight * taught.mean()
