"""What is known about the labels: the pool, and the examples that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from robal.errors import InputError
from robal.images import Images, unit

UNLABELLED: Final = -1
SKIPPED: Final = -2
NONE_OF_THESE: Final = -3
AUDITED: Final = -4


@dataclass(frozen=True, eq=False)
class Pool:
    """N images and the labels revealed so far. A value: `reveal` returns a new pool.

    Args:
        images: the pixels.
        labels: [N] int64: a class in [0, C), UNLABELLED (-1), SKIPPED (-2), NONE_OF_THESE (-3), or AUDITED (-4): kept
            apart for the audit, whose labels are not here, so that nothing can be trained or chosen by them.
        classes: the C names.
    """

    images: Images
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise InputError(
                f"a pool of {len(self.images)} images needs int64 labels of shape [{len(self.images)}]; "
                f"these are {str(self.labels.dtype).split('.')[-1]} {list(self.labels.shape)}"
            )
        check_labels(self.labels, len(self.classes), lowest=AUDITED)

    @classmethod
    def unlabelled(cls, images: Images, classes: Sequence[str]) -> Pool:
        """A pool of which no label is known."""
        return cls(images, torch.full((len(images),), UNLABELLED, dtype=torch.int64), tuple(classes))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> Tensor:
        """Positions that carry a class, ascending, int64."""
        return (self.labels >= 0).nonzero().flatten()

    @property
    def candidates(self) -> Tensor:
        """Positions that were never asked about, ascending, int64."""
        return (self.labels == UNLABELLED).nonzero().flatten()

    def reveal(self, indices: Tensor, labels: Tensor) -> Pool:
        """A new pool that knows `labels` at `indices`; refuses to relabel.

        Raises:
            InputError: if an index is out of range, doubled or already answered, or a label is not legal.
        """
        self._check_indices(indices, labels)
        if (labels == UNLABELLED).any():
            raise InputError("UNLABELLED is no answer: give a class, SKIPPED or NONE_OF_THESE")
        if (self.labels[indices] != UNLABELLED).any():
            known = int(indices[self.labels[indices] != UNLABELLED][0])
            raise InputError(f"image {known} is already labelled; `relabel` is the recorded way to change a label")
        return self.relabel(indices, labels)

    def relabel(self, indices: Tensor, labels: Tensor) -> Pool:
        """A new pool with `labels` at `indices`, whatever stood there: the recorded exception to `reveal`."""
        self._check_indices(indices, labels)
        check_labels(labels, len(self.classes), lowest=NONE_OF_THESE)
        updated = self.labels.clone()
        updated[indices] = labels
        return replace(self, labels=updated)

    def set_apart(self, indices: Tensor) -> Pool:
        """A new pool in which the images at `indices` are the audit's. Raises InputError where one has its label."""
        self._check_indices(indices, indices)
        if (self.labels[indices] != UNLABELLED).any():
            raise InputError("an audit is drawn from images without a label, and one of these has its label")
        apart = self.labels.clone()
        apart[indices] = AUDITED
        return replace(self, labels=apart)

    def limited(self, classes: int) -> Pool:
        """As it looks to who knows the first `classes` classes alone: images of the others are NONE_OF_THESE."""
        labels = torch.where(self.labels < classes, self.labels, NONE_OF_THESE)
        return replace(self, labels=labels, classes=self.classes[:classes])

    def _check_indices(self, indices: Tensor, labels: Tensor) -> None:
        if indices.shape != labels.shape or indices.ndim != 1:
            raise InputError(f"{list(indices.shape)} indices came with {list(labels.shape)} labels")
        if labels.dtype != torch.int64:
            raise InputError(f"labels are int64; these are {str(labels.dtype).split('.')[-1]}")
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < len(self)):
            raise InputError(f"an index lies outside the pool of {len(self)} images")
        if len(indices.unique()) != len(indices):
            raise InputError("an index is there twice")


@dataclass(frozen=True, eq=False)
class Examples:
    """What is trained on.

    Args:
        images: [E, C, H, W] uint8, or float32 in [0, 1] where uint8 would destroy them (adversarial twins).
        labels: [E] int64.
        origin: [E] int64, the position in the pool; -1 for images from elsewhere.
        kind: [E] uint8, a position in `KINDS`. "meta" and "none" are not trained on: the meta set, and images that are
            none of the classes, whose label says nothing.
        weight: [E] float32, the weight in the loss.
        targets: [E, K] float32, class probabilities that take the place of the labels in the loss, or None.
    """

    images: Tensor
    labels: Tensor
    origin: Tensor
    kind: Tensor
    weight: Tensor
    targets: Tensor | None = None

    KINDS: ClassVar[tuple[str, ...]] = ("bought", "pseudo", "twin", "crafted", "meta", "none")
    TRAINED: ClassVar[tuple[str, ...]] = KINDS[:4]

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.images, self.labels, self.origin, self.kind, self.weight)}
        if len(lengths) != 1:
            raise InputError(f"the parts of examples differ in length: {sorted(lengths)}")

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, origin: Tensor | None = None, kind: str = "bought") -> Examples:
        """Examples of one kind, each of weight 1; `origin` is -1 where it is not given."""
        if kind not in cls.KINDS:
            raise InputError(f"examples are one of {', '.join(cls.KINDS)}; not {kind!r}")
        count = len(labels)
        return cls(
            images,
            labels,
            torch.full((count,), -1, dtype=torch.int64) if origin is None else origin,
            torch.full((count,), cls.KINDS.index(kind), dtype=torch.uint8),
            torch.ones(count),
        )

    @classmethod
    def none(cls) -> Examples:
        """No examples at all, to join others to."""
        return cls.of(torch.empty((0, 1, 1, 1), dtype=torch.uint8), torch.empty(0, dtype=torch.int64))

    def of_kind(self, *kinds: str) -> Examples:
        """The examples of these kinds, in order.

        >>> Examples.none().of_kind("twin", "crafted").count("twin")
        0
        """
        return self.only(
            torch.isin(self.kind, torch.tensor([self.KINDS.index(kind) for kind in kinds], dtype=torch.uint8))
        )

    def only(self, chosen: Tensor) -> Examples:
        """The examples at `chosen`, positions or [E] bool."""
        return Examples(
            self.images[chosen],
            self.labels[chosen],
            self.origin[chosen],
            self.kind[chosen],
            self.weight[chosen],
            None if self.targets is None else self.targets[chosen],
        )

    def count(self, kind: str) -> int:
        """How many are of a kind."""
        return int((self.kind == self.KINDS.index(kind)).sum())

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """All parts one after the other; float32 as soon as one of them is. Empty parts are left out.

        Where one part has targets, all get them.
        """
        parts = [part for part in parts if len(part)] or list(parts[:1])
        images = [part.images for part in parts]
        if len({piece.dtype for piece in images}) > 1:
            images = [unit(piece) for piece in images]
        return cls(
            torch.cat(images),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.origin for part in parts]),
            torch.cat([part.kind for part in parts]),
            torch.cat([part.weight for part in parts]),
            _join_targets(parts),
        )

    def __len__(self) -> int:
        return len(self.labels)


def _join_targets(parts: Sequence[Examples]) -> Tensor | None:
    """The targets of all parts, one-hot for a part that has labels alone; None where no part has any."""
    classes = next((part.targets.shape[1] for part in parts if part.targets is not None), 0)
    if not classes:
        return None
    return torch.cat(
        [F.one_hot(part.labels, classes).float() if part.targets is None else part.targets for part in parts]
    )


def check_labels(labels: Tensor, classes: int, lowest: int = 0, what: str = "labels") -> None:
    """Refuse labels outside [lowest, classes).

    Raises:
        InputError: naming the first one and its position.
    """
    wrong = ((labels < lowest) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise InputError(
            f"{what} must lie in [{lowest}, {classes}); {len(wrong)} do not, the first is {int(labels[first])} "
            f"at position {first}"
        )
