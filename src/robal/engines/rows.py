"""Rows on their way together: in memory, or on disk where they are many."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from torch import Tensor

LIMIT = 512 * 2**20  # bytes of one array in memory; a larger one lies in an unnamed temporary file


class Rows:
    """{name: [count, ...]}, filled piece by piece. The first piece says what names there are, and their shapes.

    Args:
        count: rows of each.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.found: dict[str, Tensor] = {}

    def fits(self, rows: dict[str, Tensor]) -> bool:
        """Whether these are rows of the kind that is there, of which the first piece decides."""
        there = {name: (values.dtype, values.shape[1:]) for name, values in self.found.items()}
        return not there or there == {name: (values.dtype, values.shape[1:]) for name, values in rows.items()}

    def put(self, start: int, rows: dict[str, Tensor], count: int) -> None:
        """The first `count` of some rows, from `start` on."""
        for name, values in rows.items():
            if name not in self.found:
                self.found[name] = empty((self._count, *values.shape[1:]), values.dtype)
            self.found[name][start : start + count] = values[:count].cpu()


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As torch.empty; beyond `LIMIT` in a file without a name, which goes with the tensor, where TMPDIR says."""
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    if int(np.prod(shape, dtype=np.int64)) * kind.itemsize <= LIMIT:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="robal-") as file:
        return torch.from_numpy(np.memmap(file, kind, "w+", shape=shape))
