"""Common corruptions that need no download: noise, blur, contrast, brightness, JPEG and shift, at five severities.

The levels are those of CIFAR-10-C, for small images; ImageNet-C's, for 224 × 224, are harsher. Blur and shift are
measured in parts of the picture, so that they mean the same at every size.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from robal.errors import InputError, did_you_mean
from robal.evaluation.accuracy import clean, predict
from robal.images import check_pixels, unit
from robal.progress import track
from robal.seeds import generator

SEVERITIES = (1, 2, 3, 4, 5)
_TILE = 250  # images that share a random stream


def corrupt(inputs: Tensor, kind: str, severity: int, generator: torch.Generator) -> Tensor:
    """Images as a worse camera, channel or hand would have left them.

    gaussian_noise adds normal noise; shot_noise counts photons (Poisson); impulse_noise sets single values to 0 or 1;
    gaussian_blur, contrast and jpeg_compression are what they say; brightness raises the largest channel and keeps hue
    and saturation; shift moves the picture in one of eight directions and repeats its edge.

    Args:
        inputs: [B, C, H, W] float32 in [0, 1]; for jpeg_compression C is 1 or 3.
        kind: one of `CORRUPTIONS`.
        severity: 1 to 5; 0 leaves the images as they are.
        generator: the randomness of noise and shift. From one state, a higher severity moves the images further, on
            average over pixels (most kinds: each single pixel).

    Returns:
        [B, C, H, W] float32 in [0, 1], a new tensor.

    Raises:
        InputError: for inputs out of range, an unknown kind or severity.

    Differs from the paper: the images are not rounded to bytes (except by JPEG); blur's width grows with the shorter
    side (the paper's at 32); shift is ours, after the translations of its ImageNet-P.

    At severity 5, contrast keeps 0.15 of the distance from the mean, here 0.5.

    >>> corrupt(torch.tensor([[[[0.0, 1.0]]]]), "contrast", 5, torch.Generator())
    tensor([[[[0.4250, 0.5750]]]])

    Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261.
    """
    if inputs.dtype != torch.float32:
        raise InputError(f"corruptions take float32 images in [0, 1]; these are {str(inputs.dtype).split('.')[-1]}")
    check_pixels(inputs)
    if kind not in _KINDS:
        raise InputError(f"unknown corruption {kind!r}; {did_you_mean(kind, _KINDS)}")
    if not isinstance(severity, int) or not 0 <= severity <= len(SEVERITIES):
        raise InputError(f"a severity is a whole number from 0 to 5; {severity!r} came")
    if severity == 0 or inputs.numel() == 0:
        return inputs.clone()
    change, levels = _KINDS[kind]
    # Rounding may leave [0, 1] by a hair where the formula does not.
    return change(inputs, levels[severity - 1], generator).clamp_(0.0, 1.0)


def under_corruptions(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    seed: int,
    *,
    kinds: Sequence[str] | None = None,
    batch_size: int = 256,
) -> dict[str, dict[int, float]]:
    """Accuracy under each corruption at each severity.

    Args:
        model: returns logits [B, K].
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        seed: names the random streams; all severities of a kind see the same noise, only stronger.
        kinds: some of `CORRUPTIONS`; None: all.
        batch_size: images in a forward pass; the result does not depend on it.

    Returns:
        {kind: {severity: accuracy in [0, 1]}}, with the clean accuracy at severity 0 of every kind.
    """
    before = clean(model, inputs, labels, batch_size)
    kinds = CORRUPTIONS if kinds is None else list(dict.fromkeys(kinds))
    tiles = list(enumerate(torch.arange(len(inputs)).split(_TILE)))
    right = {kind: dict.fromkeys(SEVERITIES, 0) for kind in kinds}
    for kind, (number, tile) in track([(kind, tile) for kind in kinds for tile in tiles], "corruptions"):
        pixels, truth = unit(inputs[tile]), labels[tile]
        for severity in SEVERITIES:
            moved = corrupt(pixels, kind, severity, generator(seed, "corruption", kind, number))
            right[kind][severity] += int((predict(model, moved, batch_size) == truth).sum())
    return {
        kind: {0: before.accuracy} | {severity: count / len(inputs) for severity, count in counts.items()}
        for kind, counts in right.items()
    }


def mean_accuracy(table: dict[str, dict[int, float]]) -> float:
    """The mean over kinds and severities 1 to 5 of what `under_corruptions` returned, in [0, 1].

    Differs from the paper: not divided by another network's error, as is usual for small images.

    >>> mean_accuracy({"contrast": {0: 1.0, 1: 0.5, 2: 0.25}})
    0.375
    """
    values = [accuracy for levels in table.values() for severity, accuracy in levels.items() if severity > 0]
    if not values:
        raise InputError("there is no corruption to take the mean over")
    return sum(values) / len(values)


def _gaussian_noise(inputs: Tensor, spread: float, draw: torch.Generator) -> Tensor:
    noise = torch.randn(inputs.shape, generator=draw, device=draw.device).to(inputs.device)
    return inputs + spread * noise


def _shot_noise(inputs: Tensor, photons: float, draw: torch.Generator) -> Tensor:
    """`photons` is the mean number at a pixel of 1: fewer are noisier."""
    return torch.poisson(inputs.to(draw.device) * photons, generator=draw).to(inputs.device) / photons


def _impulse_noise(inputs: Tensor, share: float, draw: torch.Generator) -> Tensor:
    hit, salt = torch.rand((2, *inputs.shape), generator=draw, device=draw.device).to(inputs.device)
    return torch.where(hit < share, (salt < 0.5).float(), inputs)


def _gaussian_blur(inputs: Tensor, spread: float, draw: torch.Generator) -> Tensor:
    count, channels, height, width = inputs.shape
    sigma = spread * min(height, width) / 32
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=inputs.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(inputs.reshape(-1, 1, height, width), (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return blurred.view(count, channels, height, width)


def _contrast(inputs: Tensor, share: float, draw: torch.Generator) -> Tensor:
    mean = inputs.mean((2, 3), keepdim=True)
    return (inputs - mean) * share + mean


def _brightness(inputs: Tensor, more: float, draw: torch.Generator) -> Tensor:
    value = inputs.amax(1, keepdim=True)  # the V of HSV
    # Black has no hue: it becomes grey.
    colour = torch.where(value > 0, inputs / value.clamp_min(torch.finfo(torch.float32).tiny), 1.0)
    return colour * (value + more).clamp_max(1.0)


def _jpeg(inputs: Tensor, quality: float, draw: torch.Generator) -> Tensor:
    channels = inputs.shape[1]
    if channels not in (1, 3):
        raise InputError(f"JPEG knows grey and RGB images; these have {channels} channels. Leave its kind out")
    images = inputs.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, "JPEG", quality=int(quality))
        with Image.open(buffer) as image:
            decoded.append(np.asarray(image).reshape(pixels.shape))
    return unit(torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().to(inputs.device))


def _shift(inputs: Tensor, share: float, draw: torch.Generator) -> Tensor:
    count, _, height, width = inputs.shape
    pixels = max(1, round(share * min(height, width)))
    eight = torch.tensor([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])
    drawn = torch.randint(8, (count,), generator=draw, device=draw.device).cpu()
    steps = (pixels * eight[drawn]).to(inputs.device)  # [B, 2], down and to the right
    rows = (torch.arange(height, device=inputs.device) - steps[:, :1]).clamp(0, height - 1)[:, :, None]
    columns = (torch.arange(width, device=inputs.device) - steps[:, 1:]).clamp(0, width - 1)[:, None, :]
    which = torch.arange(count, device=inputs.device)[:, None, None]
    return inputs.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2).contiguous()


# What changes the images, and its level at severities 1 to 5.
_KINDS: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),  # standard deviation
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),  # photons at full brightness
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),  # share of values
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),  # standard deviation in pixels of 32
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),  # share that is left
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),  # added to the largest channel
    "jpeg_compression": (_jpeg, (80, 65, 58, 50, 40)),  # Pillow's quality
    "shift": (_shift, (1 / 28, 2 / 28, 3 / 28, 4 / 28, 5 / 28)),  # share of the shorter side
}
CORRUPTIONS = tuple(_KINDS)
