"""How early an order of images finds the faults of a model."""

from __future__ import annotations

from torch import Tensor

from robal.errors import InputError


def apfd(faults: Tensor) -> float | None:
    """Average percentage of faults detected: 1 - Σᵢ Tᵢ / (n m) + 1 / (2 n).

    Tᵢ is the place of the i-th of m faults, from 1. Each image that the model gets wrong is a fault of its own.

    Args:
        faults: [n] bool, in the order in which images are looked at, whether the model is wrong.

    Returns:
        In (0, 1), higher = earlier; about ½ for a random order, 1 - m / (2 n) where all faults come first; None
        without any fault.

    >>> import torch
    >>> apfd(torch.tensor([True, False, False, True, False]))  # 1 - (1 + 4) / 10 + 1 / 10
    0.6

    Raises:
        InputError: for what is not a row of truth values.

    Source: Rothermel et al., IEEE TSE 27(10), 2001; for networks, Feng et al., ISSTA 2020, arXiv 1903.00661.
    """
    if faults.ndim != 1 or str(faults.dtype) != "torch.bool":
        raise InputError(f"faults are [n] bool; these are {str(faults.dtype).split('.')[-1]} {list(faults.shape)}")
    places = faults.nonzero().flatten() + 1
    if not len(places):
        return None
    n, m = len(faults), len(places)
    return 1 - int(places.sum()) / (n * m) + 1 / (2 * n)


def fault_curve(faults: Tensor) -> Tensor:
    """[n] float64: the share of all faults among the first 1, 2, …, n images; zeros without any fault.

    >>> import torch
    >>> fault_curve(torch.tensor([True, False, True, False]))
    tensor([0.5000, 0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    found = faults.double().cumsum(0)
    return found / found[-1:].clamp_min(1)
