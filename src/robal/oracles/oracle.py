"""Whoever knows the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from robal.pool import Pool


@runtime_checkable
class Oracle(Protocol):
    """Answers questions about images; raises AwaitingLabels when a person must answer first."""

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        """[n] int64: the class of each image, or SKIPPED, or NONE_OF_THESE."""
        ...


@runtime_checkable
class InFolder(Oracle, Protocol):
    """One that keeps something in the run's folder."""

    def inside(self, folder: Path, number: int) -> Oracle:
        """The oracle of the run in this folder, in round `number`."""
        ...
