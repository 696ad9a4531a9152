"""Where a model lives, and the memory layout in which convolutions run fastest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robal.networks.modes import frozen


def home_of(model: nn.Module) -> torch.device:
    """The device of a model's first tensor; the CPU for a model without any."""
    return next((part.device for part in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def channels_last(model: nn.Module, shape: Sequence[int] = ()) -> nn.Module:
    """The model itself, its convolution weights laid out [K, H, W, C] in memory: twice as fast on a CPU.

    Logits are the same up to float rounding. A model that cannot work on this layout, such as one that says
    `x.view(len(x), -1)` after a convolution, keeps its own, where `shape`, (C, H, W) of its images, is given to try it.
    """
    laid_out: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if shape:
        with frozen(model), torch.no_grad():
            try:
                laid_out(torch.zeros(2, *shape, device=home_of(model)))
            except RuntimeError:
                laid_out = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return laid_out
