"""Normalisation is the first layer of a network, so attacks and thresholds always live in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robal.errors import InputError


class Normalise(nn.Module):
    """Subtract a mean and divide by a deviation, channel by channel: (x - mean) / std.

    Args:
        mean: one number a channel, in the unit of the pixels ([0, 1]).
        std: one number a channel, > 0.

    Takes and returns float32 [B, C, H, W]. Both numbers are buffers: they are saved with the weights and follow the
    module to its device, and no optimiser touches them.

    >>> float(Normalise((0.5,), (0.25,))(torch.ones(1, 1, 1, 1)))
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        check_moments(mean, std)
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32).view(-1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std


def check_moments(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse a mean without a deviation, unequal lengths, and deviations that cannot be divided by."""
    if mean is None and std is None:
        return
    if mean is None or std is None:
        raise InputError(f"mean and std come together or not at all, got mean={mean}, std={std}")
    if not len(mean) == len(std) > 0:
        raise InputError(f"mean and std need one number a channel, got {len(mean)} and {len(std)} numbers")
    if not all(math.isfinite(m) for m in mean) or not all(math.isfinite(s) and s > 0 for s in std):
        raise InputError(f"mean must be finite and std finite and > 0, got mean={mean}, std={std}")
