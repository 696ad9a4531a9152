"""A teacher's labels for the images that have none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robal.evaluation import probabilities
from robal.pool import Examples
from robal.training.recipe import PoolTraining


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What a teacher says of images without labels.

    Args:
        probs: [U, K] float32.
        accepted: [U] bool: sure enough to be trained on.
    """

    probs: Tensor
    accepted: Tensor

    @property
    def labels(self) -> Tensor:
        """[U] int64: the most likely class, -1 where it is not accepted."""
        return torch.where(self.accepted, self.probs.argmax(1), -1)

    def examples(self, images: Tensor, soft: bool) -> Examples:
        """The accepted of `images`, [U, C, H, W], as examples of the kind "pseudo"."""
        where = self.accepted.nonzero().flatten()
        made = Examples.of(images[where], self.labels[where], kind="pseudo")
        return replace(made, targets=self.probs[where]) if soft else made

    def has_collapsed(self, bought: Tensor) -> bool:
        """Whether the labels fall on far fewer classes than the bought ones: 3 (E - 1) < E of the bought - 1.

        E is `effective_classes`: one class among two that were bought is a collapse, and three among ten.
        """
        guesses = self.labels[self.accepted]
        return len(guesses) > 0 and 3 * (effective_classes(guesses) - 1) < effective_classes(bought) - 1


def pseudo_labels(pool: PoolTraining, teacher: nn.Module, images: Tensor, batch_size: int = 256) -> PseudoLabels:
    """What the teacher says of `images`, [U, C, H, W], uint8 or float32 in [0, 1]."""
    probs = probabilities(teacher, images, batch_size).float()
    return PseudoLabels(probs, probs.amax(1) >= pool.confidence)


def effective_classes(labels: Tensor) -> float:
    """exp of the entropy of the labels' distribution: how many classes they fall on, rare ones counting for less.

    >>> round(effective_classes(torch.tensor([0, 0, 1, 1])), 3)
    2.0
    """
    shares = torch.bincount(labels).double() / len(labels)
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())
