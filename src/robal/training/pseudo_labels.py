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
        accepted: [U] bool: to be trained on, for the teacher is sure enough and the witness, if any, agrees.
        disputed: of how many the teacher is sure enough and the witness names another class.
        outside: how many it takes for none of the classes.
    """

    probs: Tensor
    accepted: Tensor
    disputed: int = 0
    outside: int = 0

    @property
    def labels(self) -> Tensor:
        """[U] int64: the most likely class, -1 where it is not accepted."""
        return torch.where(self.accepted, self.probs.argmax(1), -1)

    @property
    def refused(self) -> dict[str, int]:
        """How many each filter kept out: "unsure", the teacher's confidence; "disputed", the witness; "outside"."""
        unsure = int((~self.accepted).sum()) - self.disputed - self.outside
        return {"unsure": unsure, "disputed": self.disputed} | ({"outside": self.outside} if self.outside else {})

    def examples(self, images: Tensor, soft: bool) -> Examples:
        """The accepted of `images`, [U, C, H, W], as examples of the kind "pseudo"."""
        made = Examples.of(picked(images, self.accepted), self.labels[self.accepted], kind="pseudo")
        return replace(made, targets=self.probs[self.accepted]) if soft else made

    def has_collapsed(self, bought: Tensor) -> bool:
        """Whether the labels fall on far fewer classes than the bought ones: 3 (E - 1) < E of the bought - 1.

        E is `effective_classes`: one class among two that were bought is a collapse, and three among ten.
        """
        guesses = self.labels[self.accepted]
        return len(guesses) > 0 and 3 * (effective_classes(guesses) - 1) < effective_classes(bought) - 1


def pseudo_labels(
    pool: PoolTraining,
    teacher: nn.Module,
    images: Tensor,
    witness: nn.Module | None = None,
    batch_size: int = 256,
    outside: int = 0,
) -> PseudoLabels:
    """What the teacher says of `images`, [U, C, H, W], uint8 or float32 in [0, 1], unless the witness differs.

    `outside`: where positive, the teacher's class of this number, its last, is that of images of none of the classes.
    """
    probs = probabilities(teacher, images, batch_size).float()
    beyond = torch.zeros(len(images), dtype=torch.bool)
    if outside:
        beyond = probs.argmax(1) == outside
        probs = probs[:, :outside] / probs[:, :outside].sum(1, keepdim=True).clamp_min(1e-12)
    sure = (probs.amax(1) >= pool.confidence) & ~beyond
    if witness is None:
        return PseudoLabels(probs, sure, outside=int(beyond.sum()))
    agreed = probabilities(witness, images, batch_size).argmax(1) == probs.argmax(1)
    return PseudoLabels(probs, sure & agreed, int((sure & ~agreed).sum()), int(beyond.sum()))


def picked(images: Tensor, wanted: Tensor) -> Tensor:
    """`images[wanted]`, by a mask, [U] bool; no copy where it is all of them, for a pool may be large."""
    return images if bool(wanted.all()) else images[wanted]


def effective_classes(labels: Tensor) -> float:
    """exp of the entropy of the labels' distribution: how many classes they fall on, rare ones counting for less.

    >>> round(effective_classes(torch.tensor([0, 0, 1, 1])), 3)
    2.0
    """
    shares = torch.bincount(labels).double() / len(labels)
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())
