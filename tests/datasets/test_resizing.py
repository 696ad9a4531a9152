from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from robal.datasets import load, resized
from robal.errors import InputError


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 14, 20])
def test_uint8_images_are_resized_as_pil_does(channels: int, size: int) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 28, 28, channels), dtype=np.uint8)
    expected = [Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BILINEAR) for image in images]
    wanted = torch.from_numpy(np.stack([np.asarray(image).reshape(size, size, channels) for image in expected]))
    came = resized(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), size)
    gap = (came.permute(0, 2, 3, 1).int() - wanted.int()).abs()
    assert came.dtype == torch.uint8
    assert gap.max() <= 1  # PIL sums in fixed point, so that the last bit may differ
    assert (gap > 0).float().mean() < 0.05


def test_chunks_change_nothing() -> None:
    images = torch.randint(0, 256, (11, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resized(images, 13, chunk=3), resized(images, 13))


def test_floats_stay_floats_in_the_unit_interval() -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    new = resized(images, 11)
    assert new.dtype == torch.float32
    assert new.min() >= 0
    assert new.max() <= 1


def test_images_of_the_right_size_are_left_alone() -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert resized(images, 8) is images


def test_a_size_below_one_pixel_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1 pixel, not 0"):
        resized(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), 0)
    with pytest.raises(InputError, match="at least 1 pixel, not 0"):
        load("digits", resize=0)


def test_digits_keep_their_17_grey_values_at_8_pixels() -> None:
    digits = load("digits", resize=8)
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.unique().tolist() == [int(np.rint(value * 255 / 16)) for value in range(17)]
    assert digits.labels[:10].tolist() == list(range(10))
    assert digits.test_images is None
