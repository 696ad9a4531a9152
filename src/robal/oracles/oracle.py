"""Whoever knows the labels."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from robal.pool import Pool


@runtime_checkable
class Oracle(Protocol):
    """Answers questions about images; raises AwaitingLabels when a person must answer first."""

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        """[n] int64: the class of each image, or SKIPPED, or NONE_OF_THESE."""
        ...
