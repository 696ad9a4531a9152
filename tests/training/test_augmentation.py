from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robal.errors import InputError
from robal.plans import known
from robal.seeds import generator
from robal.training import Augmentation, CropFlip, NoAugmentation

EXPORTED = known(Augmentation)


def images(count: int = 6, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, 4, 5, generator=generator(0, "images"))


def test_both_are_found_by_their_export() -> None:
    assert set(EXPORTED) == {"CropFlip", "NoAugmentation"}


@pytest.mark.parametrize("kind", EXPORTED.values(), ids=EXPORTED.keys())
def test_images_keep_their_shape_and_range_and_the_generator_decides(kind: Any) -> None:
    inputs = images(50)
    kept = inputs.clone()
    changed = kind()(inputs, generator(1))
    assert changed.shape == inputs.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(inputs, kept)
    assert torch.equal(changed, kind()(inputs, generator(1)))
    assert torch.equal(changed, kind()(inputs, generator(2))) == (kind is NoAugmentation)


def test_no_augmentation_is_none() -> None:
    assert torch.equal(NoAugmentation()(images(), generator(0)), images())
    assert torch.equal(CropFlip(pad=0, flip=False)(images(), generator(0)), images())


@pytest.mark.parametrize("pad", [1, 3])
def test_every_crop_is_a_window_of_the_padded_image_and_every_window_occurs(pad: int) -> None:
    """All channels of an image move together, each image by itself."""
    inputs = images(4).repeat(300, 1, 1, 1)
    cropped = CropFlip(pad=pad, flip=False)(inputs, generator(0))
    padded = F.pad(inputs[:4], (pad,) * 4)
    seen = set()
    for number, crop in enumerate(cropped):
        whole = padded[number % 4]
        places = [
            (top, left)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            if torch.equal(crop, whole[:, top : top + 4, left : left + 5])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == (2 * pad + 1) ** 2


def test_half_of_the_images_are_mirrored_left_to_right() -> None:
    inputs = images(1).repeat(1000, 1, 1, 1)
    flipped = CropFlip(pad=0)(inputs, generator(0))
    mirrored = [torch.equal(one, inputs[0].flip(2)) for one in flipped]
    assert all(torch.equal(one, inputs[0]) != mirror for one, mirror in zip(flipped, mirrored, strict=True))
    assert abs(sum(mirrored) - 500) < 64  # four standard deviations


def test_a_padding_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match="pad counts pixels, 0 or more; -1 came"):
        CropFlip(pad=-1)
