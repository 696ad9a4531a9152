"""Augmentation of training batches; scoring and evaluation always look at images as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from robal.errors import InputError


@runtime_checkable
class Augmentation(Protocol):
    """Changes a batch at random without changing what it shows."""

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class NoAugmentation:
    """The images as they are."""

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs


@dataclass(frozen=True)
class CropFlip:
    """A random window of the image padded with black, and a mirror image half of the time.

    Args:
        pad: pixels of padding on every side.
        flip: mirror left and right; wrong for digits and letters.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise InputError(f"pad counts pixels, 0 or more; {self.pad} came")

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = inputs.shape
        if self.pad:
            shifts = torch.randint(2 * self.pad + 1, (2, count, 1), generator=generator, device=generator.device)
            shifts = shifts.to(inputs.device)
            rows = (shifts[0] + torch.arange(height, device=inputs.device))[:, :, None]
            columns = (shifts[1] + torch.arange(width, device=inputs.device))[:, None, :]
            padded = F.pad(inputs, (self.pad,) * 4).permute(0, 2, 3, 1)
            which = torch.arange(count, device=inputs.device)[:, None, None]
            inputs = padded[which, rows, columns].permute(0, 3, 1, 2)
        if self.flip:
            mirrored = torch.rand(count, generator=generator, device=generator.device).to(inputs.device) < 0.5
            inputs = torch.where(mirrored.view(-1, 1, 1, 1), inputs.flip(3), inputs)
        return inputs
