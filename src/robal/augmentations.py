"""Augmentation of training batches; scoring and evaluation always look at images as they are.

Each image draws for itself, from the given generator, which may live on another device than the images.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Affine:
    """Turned, enlarged, slanted and moved, about the middle of the image; black where nothing was.

    Each image draws its four numbers evenly from [-strength, strength], the size from [1 - scale, 1 + scale].

    Args:
        rotation: degrees, in [0, 180].
        scale: share of the size, in [0, 1).
        shear: columns that a row slides for each row of height, ≥ 0.
        shift: share of the side, downwards and sideways each, in [0, 1].
    """

    rotation: float = 15.0
    scale: float = 0.1
    shear: float = 0.1
    shift: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.rotation <= 180 and 0 <= self.scale < 1 and 0 <= self.shear < math.inf):
            raise InputError(
                "Affine needs rotation in [0, 180] degrees, scale in [0, 1) and shear >= 0; "
                f"{self.rotation}, {self.scale} and {self.shear} came"
            )
        _check_shares(shift=self.shift)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = 2 * _draw(5, inputs, generator) - 1
        return warp(
            inputs,
            drawn[0] * math.radians(self.rotation),
            1 + drawn[1] * self.scale,
            drawn[2] * self.shear,
            drawn[3:] * self.shift,
        )


def warp(inputs: Tensor, angle: Tensor, size: Tensor, shear: Tensor, shift: Tensor) -> Tensor:
    """Images turned, enlarged, slanted and moved by given amounts, read between pixels by bilinear interpolation.

    Args:
        inputs: [B, C, H, W] float32 in [0, 1].
        angle: [B] radians, anticlockwise.
        size: [B] factors, > 0.
        shear: [B] columns to the right for each row downwards.
        shift: [2, B] shares of the side: down, right.

    Returns:
        [B, C, H, W] float32 in [0, 1]; 0 where the original does not reach.

    >>> none, right = torch.zeros(1), torch.tensor([[0.0], [0.5]])
    >>> warp(torch.tensor([[[[0.1, 0.2, 0.3, 0.4]]]]), none, none + 1, none, right)
    tensor([[[[0.0000, 0.0000, 0.1000, 0.2000]]]])
    """
    ratio = inputs.shape[2] / inputs.shape[3]
    cosine, sine = angle.cos() / size, angle.sin() / size
    # Where a pixel of the result comes from, in coordinates that are [-1, 1] on both sides: sizes undone, turned back.
    rows = torch.stack([cosine, -sine * ratio, sine / ratio, cosine], 1).view(-1, 2, 2)
    slanted = torch.stack([rows[:, :, 0], rows[:, :, 1] - rows[:, :, 0] * shear[:, None] * ratio], 2)
    moved = -2 * (slanted @ shift.flip(0).T[:, :, None])
    grid = F.affine_grid(torch.cat([slanted, moved], 2), list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="zeros", align_corners=False).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class Cutout:
    """A rectangle of one colour over a random place, which may reach over the edge.

    Args:
        share: of the height and of the width, in [0, 1].
        probability: that an image gets one.
        fill: its pixels, in [0, 1]; 0 is black.

    Source: DeVries and Taylor 2017, arXiv 1708.04552.
    """

    share: float = 0.25
    probability: float = 1.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(share=self.share, probability=self.probability, fill=self.fill)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = _draw(3, inputs, generator)
        down = _covered(drawn[0], inputs.shape[2], self.share)
        across = _covered(drawn[1], inputs.shape[3], self.share)
        covered = down[:, :, None] & across[:, None, :] & (drawn[2] < self.probability)[:, None, None]
        return inputs.masked_fill(covered[:, None], self.fill)


def _covered(place: Tensor, side: int, share: float) -> Tensor:
    """[B, side]: which pixels of a side lie within a stretch about the pixel where `place`, in [0, 1), falls."""
    length = round(share * side)
    first = (place * side).long()[:, None] - length // 2
    here = torch.arange(side, device=place.device)
    return (here >= first) & (here < first + length)


@dataclass(frozen=True)
class Brightness:
    """Another contrast about mid-grey and another brightness: c · (x - ½) + ½ + b, kept in [0, 1]; maybe a negative.

    Each image draws c evenly from [1 - contrast, 1 + contrast] and b from [-brightness, brightness].

    Args:
        contrast: in [0, 1].
        brightness: in [0, 1].
        invert: probability that an image is first made its negative, 1 - x; by default never.
    """

    contrast: float = 0.5
    brightness: float = 0.2
    invert: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(contrast=self.contrast, brightness=self.brightness, invert=self.invert)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = _draw(3, inputs, generator)
        contrast, brightness = 1 + (2 * drawn[0] - 1) * self.contrast, (2 * drawn[1] - 1) * self.brightness
        # The middle of a negative is the same: c · (1 - x - ½) = -c · (x - ½).
        contrast = torch.where(drawn[2] < self.invert, -contrast, contrast)
        offset = 0.5 * (1 - contrast) + brightness
        return (inputs * contrast.view(-1, 1, 1, 1)).add_(offset.view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class Chain:
    """Several augmentations, one after the other.

    Args:
        parts: in order; none: the images as they are.
    """

    parts: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple):
            raise InputError(
                f"Chain takes a tuple of augmentations, such as (CropFlip(2), Affine()); {self.parts} came"
            )

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            inputs = part(inputs, generator)
        return inputs


def _draw(count: int, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """[count, B] float32 in [0, 1), beside the images."""
    drawn = torch.rand(count, len(inputs), generator=generator, device=generator.device)
    return drawn.to(inputs.device)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"{name} lies in [0, 1]; {share} came")
