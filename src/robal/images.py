"""Where the pixels live. Everything else asks for a batch and gets float32 in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from robal.errors import InputError


@runtime_checkable
class Images(Protocol):
    """N images of one shape, wherever they live."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float32 [B, C, H, W] in [0, 1] of the images at `indices`, [B] int64."""
        ...

    def at_rest(self, indices: Tensor) -> Tensor:
        """[B, C, H, W] as they are kept: uint8, or float32 in [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images in one tensor: uint8 [N, C, H, W] at rest, or float32 in [0, 1] where uint8 would destroy them.

    >>> InMemory(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).batch(torch.tensor([0]))
    tensor([[[[0., 1.]]]])
    """

    pixels: Tensor
    files: tuple[str, ...] = field(default=(), repr=False)  # N names, where the images are files

    def __post_init__(self) -> None:
        check_pixels(self.pixels)
        if self.files and len(self.files) != len(self.pixels):
            raise InputError(f"{len(self.pixels)} images have {len(self.files)} file names; each has one, or none has")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return unit(self.at_rest(indices).to(device))

    def at_rest(self, indices: Tensor) -> Tensor:
        return self.pixels[indices.to(self.pixels.device)]

    def files_at(self, indices: Tensor) -> tuple[str, ...]:
        return tuple(self.files[index] for index in indices.tolist()) if self.files else ()


class MapStyle:
    """Images of a map-style data set, one that has `len()` and whose items are an image or (image, label, …).

    Args:
        items: images are tensors or arrays [C, H, W], uint8 or floats in [0, 1]; all of one shape.

    Raises:
        InputError: for items that are no images, as they are looked at.
    """

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.at_rest(torch.tensor([0])).shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return unit(self.at_rest(indices).to(device))

    def at_rest(self, indices: Tensor) -> Tensor:
        rows = [self._image(index) for index in indices.tolist()]
        if not rows:
            return torch.empty((0, *self.shape)) if len(self) else torch.empty((0, 1, 1, 1))
        found = sorted({tuple(row.shape) for row in rows})
        if len(found) > 1:
            raise InputError(f"the images of a data set are of one shape; these are {found}")
        pixels = torch.stack(rows)
        check_pixels(pixels)
        return pixels

    def _image(self, index: int) -> Tensor:
        item = self.items[index]
        image = item[0] if isinstance(item, tuple | list) else item
        try:
            pixels = torch.as_tensor(image)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"item {index} of the data set holds a {type(image).__name__}, and a tensor or array is needed "
                "(a transform such as ToTensor makes one)"
            ) from error
        return pixels.float() if pixels.dtype == torch.float64 else pixels


@dataclass(frozen=True, eq=False)
class Joined:
    """Images one after the other, wherever each part lives; uint8 beside float32 becomes float32 as it is read.

    Args:
        parts: of one shape.

    Raises:
        InputError: for none, or for parts of different shapes.
    """

    parts: tuple[Images, ...]

    def __post_init__(self) -> None:
        shapes = [part.shape for part in self.parts]
        if not shapes or len(set(shapes)) > 1:
            raise InputError(f"images that are joined are of one shape; these are {shapes or 'none'}")

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.parts[0].shape

    @property
    def reads_ahead(self) -> bool:
        """Whether reading takes time that a thread of its own may hide."""
        return any(getattr(part, "reads_ahead", False) for part in self.parts)

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return unit(self.at_rest(indices).to(device))

    def at_rest(self, indices: Tensor) -> Tensor:
        indices = indices.cpu()
        found, rows, start = list[Tensor](), list[Tensor](), 0
        for part in self.parts:
            here = ((indices >= start) & (indices < start + len(part))).nonzero().flatten()
            if len(here) == len(indices):
                return part.at_rest(indices - start)
            if len(here):
                rows.append(here)
                found.append(part.at_rest(indices[here] - start))
            start += len(part)
        if len({one.dtype for one in found}) > 1:
            found = [unit(one) for one in found]
        joined = torch.empty((len(indices), *self.shape), dtype=found[0].dtype)
        for here, pixels in zip(rows, found, strict=True):
            joined[here] = pixels.cpu()
        return joined


def files_at(images: Images, indices: Tensor) -> tuple[str, ...]:
    """Names of the files that the images at `indices` came from, "" for what is none; () where no image is a file."""
    found = getattr(images, "files_at", None)
    return () if found is None else found(indices)


def unit(pixels: Tensor) -> Tensor:
    """float32 in [0, 1] of pixels at rest (uint8 or float32).

    >>> unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return pixels.to(torch.float32).div_(255.0) if pixels.dtype == torch.uint8 else pixels


def picture(images: Images, index: int) -> Image.Image:
    """An image for people to look at, grey or RGB: of two channels the first, of more than three the first three.

    >>> picture(InMemory(torch.tensor([[[[0.0, 1.0]]]])), 0).tobytes()
    b'\\x00\\xff'
    """
    pixels = images.batch(torch.tensor([index]))[0].mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray((pixels[:, :, :3] if pixels.shape[2] > 2 else pixels[:, :, 0]).numpy())


def check_pixels(pixels: Tensor, what: str = "images") -> None:
    """Refuse pixels that are not uint8, or float32 in [0, 1], of shape [N, C, H, W]; never clamp in silence.

    Raises:
        InputError: naming the first thing that is wrong.
    """
    if pixels.ndim != 4:
        raise InputError(f"{what} must have shape [N, C, H, W]; these have shape {list(pixels.shape)}")
    if pixels.dtype == torch.uint8:
        return
    if pixels.dtype != torch.float32:
        raise InputError(f"{what} must be uint8, or float32 in [0, 1]; these are {str(pixels.dtype).split('.')[-1]}")
    for start in range(0, len(pixels), 4096):
        part = pixels[start : start + 4096]
        if part.numel() == 0:
            continue
        low, high = part.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            first = start + int((~torch.isfinite(part.flatten(1))).any(1).nonzero()[0])
            raise InputError(f"{what} contain NaN or infinity, first in image {first}; remove or repair that image")
        if low < 0 or high > 1:
            raise InputError(
                f"float {what} must lie in [0, 1]; these reach from {low.item():.4g} to {high.item():.4g}. "
                "Undo any normalisation (it belongs into the model, as its first layer), or divide by 255"
            )
