"""A data set as it came: images and labels in memory, before anything is split off or hidden."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robal.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with what is known about their labels, and the official test split where there is one.

    Args:
        name: how reports call it.
        images: [N, C, H, W] uint8, or float32 in [0, 1].
        labels: [N] int64, a position in `classes`; -1 where no label is known.
        classes: the K >= 2 names; empty only where no label at all is known.
        test_images: [T, C, H, W] of the same C, H, W and dtype, or None.
        test_labels: [T] int64 in [0, K), every one known, or None.
        sources: file name -> md5, where one was checked.
        files: N names of the images, where each is a file, relative to their folder.
        test_files: T names of the test images, likewise.

    Raises:
        InputError: naming the first thing that cannot be right.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    test_images: Tensor | None = None
    test_labels: Tensor | None = None
    sources: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images, f"the images of {self.name}")
        _check_labels(self.labels, len(self.images), len(self.classes), -1, f"the labels of {self.name}")
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"a class of {self.name} is named twice: {', '.join(self.classes)}")
        self._check_classes()
        for files, images, what in (
            (self.files, self.images, "images"),
            (self.test_files, self.test_images, "test images"),
        ):
            count = 0 if images is None else len(images)
            if files and len(files) != count:
                raise InputError(f"{self.name} has {count} {what} and {len(files)} names of their files")
        if (self.test_images is None) != (self.test_labels is None):
            raise InputError(f"{self.name}: test images and test labels come together; one of them is missing")
        if self.test_images is not None and self.test_labels is not None:
            _check_images(self.test_images, f"the test images of {self.name}")
            what = f"the test labels of {self.name}"
            _check_labels(self.test_labels, len(self.test_images), len(self.classes), 0, what)
            if self.test_images.shape[1:] != self.images.shape[1:] or self.test_images.dtype != self.images.dtype:
                raise InputError(
                    f"{self.name}: test images are {_form(self.test_images)}, the others {_form(self.images)}; "
                    "both must have the same channels, size and dtype"
                )

    def _check_classes(self) -> None:
        if len(self.classes) == 1:
            raise InputError(f"{self.name} has only one class, {self.classes[0]!r}; at least two classes are needed")

    def check_enough_classes(self) -> None:
        """Refuse labels that are all known and all of one class. Raises InputError."""
        occurring = self.labels.unique()
        if len(occurring) == 1 and int(occurring[0]) >= 0:
            only = self.classes[int(occurring[0])]
            raise InputError(f"{self.name} has only one class, {only!r}; at least two classes are needed")

    def __len__(self) -> int:
        return len(self.images)

    def resized(self, size: int) -> Dataset:
        """This data set with every image `size` x `size`."""
        tests = None if self.test_images is None else resized(self.test_images, size)
        return replace(self, images=resized(self.images, size), test_images=tests)


def resized(images: Tensor, size: int, chunk: int = 4096) -> Tensor:
    """Bilinear resizing with antialias, the way PIL does it: uint8 stays uint8, rounded to the nearest.

    Args:
        images: [N, C, H, W] uint8, or float32 in [0, 1].
        size: the new height and width, in pixels.
        chunk: images worked on at a time; bounds the memory, changes nothing else.

    Returns:
        [N, C, size, size] of the same dtype; `images` itself where nothing is to do.

    >>> resized(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), 1)
    tensor([[[[128]]]], dtype=torch.uint8)
    """
    if size < 1:
        raise InputError(f"resize must be at least 1 pixel, not {size}")
    if images.shape[-2:] == (size, size):
        return images
    new = torch.empty((*images.shape[:2], size, size), dtype=images.dtype)
    for start in range(0, len(images), chunk):
        part = F.interpolate(images[start : start + chunk], size=(size, size), mode="bilinear", antialias=True)
        new[start : start + chunk] = part if part.dtype == torch.uint8 else part.clamp_(0, 1)  # rounding only
    return new


def _form(images: Tensor) -> str:
    channels, height, width = images.shape[1:]
    return f"{channels} x {height} x {width} {str(images.dtype).split('.')[-1]}"


def labels_of(parts: list[Tensor]) -> Tensor:
    """[N] int64: the label of each image where the images of class 0 come first, then those of class 1, and so on."""
    return torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])


def _check_images(images: Tensor, what: str) -> None:
    if images.ndim != 4:
        raise InputError(f"{what} must have shape [N, C, H, W]; they have {list(images.shape)}")
    if images.numel() == 0:
        raise InputError(f"{what} are empty: their shape is {list(images.shape)}")
    if images.dtype == torch.uint8:
        return
    if images.dtype != torch.float32:
        raise InputError(f"{what} must be uint8, or float32 in [0, 1]; they are {str(images.dtype).split('.')[-1]}")
    for start in range(0, len(images), 4096):
        part = images[start : start + 4096]
        if not bool(torch.isfinite(part).all()):
            first = start + int((~torch.isfinite(part.flatten(1))).any(1).nonzero()[0])
            raise InputError(f"{what} contain NaN or infinity, first in image {first}; remove or repair that image")
        low, high = part.aminmax()
        if low < 0 or high > 1:
            raise InputError(
                f"{what} are floats and must lie in [0, 1]; they reach from {low.item():.4g} to {high.item():.4g}. "
                "Divide by 255, or undo the normalisation (it belongs into the model, as its first layer)"
            )


def _check_labels(labels: Tensor, images: int, classes: int, lowest: int, what: str) -> None:
    if labels.shape != (images,) or labels.dtype != torch.int64:
        raise InputError(
            f"{what} must be int64 of shape [{images}], one for each image; "
            f"they are {str(labels.dtype).split('.')[-1]} {list(labels.shape)}"
        )
    wrong = ((labels < lowest) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        unknown = " (-1: not known)" if lowest < 0 else ""
        raise InputError(
            f"{what} must lie in [{lowest}, {classes}){unknown}; {len(wrong)} do not, "
            f"the first is {int(labels[first])} at position {first}"
        )
