from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robal.errors import InputError
from robal.images import Images, InMemory, Joined, MapStyle, check_pixels, files_at, picture, unit

GREY = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(4, 1, 1, 1)


def test_grey_levels_become_floats_from_zero_to_one() -> None:
    images = InMemory(GREY)
    batch = images.batch(torch.tensor([3, 1, 1]))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.flatten(), torch.tensor([1.0, 0.2, 0.2]))
    assert torch.equal(images.at_rest(torch.tensor([3, 1])), GREY[[3, 1]])


def test_floats_pass_as_they_are() -> None:
    pixels = torch.rand(3, 2, 4, 5)
    images = InMemory(pixels)
    assert torch.equal(images.batch(torch.tensor([2, 0])), pixels[[2, 0]])
    assert images.shape == (2, 4, 5)
    assert len(images) == 3
    assert isinstance(images, Images)


def test_a_batch_may_be_written_to_without_harm_to_the_images() -> None:
    for pixels in (GREY.clone(), torch.rand(4, 1, 1, 1)):
        kept = pixels.clone()
        InMemory(pixels).batch(torch.arange(4)).fill_(0.5)
        unit(pixels)
        assert torch.equal(pixels, kept)


def test_zero_and_one_are_legal_and_so_is_no_image() -> None:
    check_pixels(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    check_pixels(torch.zeros(0, 1, 2, 2))
    assert InMemory(torch.zeros(0, 1, 2, 2)).batch(torch.tensor([], dtype=torch.int64)).shape == (0, 1, 2, 2)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, 4, 4), r"must have shape \[N, C, H, W\]; these have shape \[2, 4, 4\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), "must be uint8, or float32.*float64"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((2, 1, 4, 4), 1.5), r"must lie in \[0, 1\]; these reach from 1.5 to 1.5.*Undo any normalisation"),
        (torch.full((2, 1, 4, 4), -0.01), "reach from -0.01"),
        (torch.full((2, 1, 4, 4), float("inf")), "NaN or infinity, first in image 0"),
    ],
)
def test_pixels_that_cannot_be_right_are_refused_and_never_clamped(pixels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InMemory(pixels)


def test_the_image_with_the_nan_is_named_however_far_down_it_lies() -> None:
    pixels = torch.zeros(9000, 1, 1, 1)
    pixels[8765] = float("nan")
    with pytest.raises(InputError, match="first in image 8765"):
        check_pixels(pixels)


def test_a_value_out_of_range_far_down_is_found() -> None:
    pixels = torch.zeros(9000, 1, 1, 1)
    pixels[8999] = 1.25
    with pytest.raises(InputError, match=r"these reach from 0 to 1\.25"):
        check_pixels(pixels, "test images")


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB")])
def test_a_picture_for_people_of_bytes_and_of_floats(channels: int, mode: str) -> None:
    pixels = torch.randint(0, 256, (2, channels, 3, 5), dtype=torch.uint8)
    for images in (InMemory(pixels), InMemory(unit(pixels))):
        shown = picture(images, 1)
        assert (shown.mode, shown.size) == (mode, (5, 3))
        first = 1 if mode == "L" else 3
        assert shown.tobytes() == pixels[1, :first].permute(1, 2, 0).numpy().tobytes()


def test_joined_images_are_those_of_their_parts_in_order() -> None:
    eight = torch.randint(256, (5, 1, 2, 2), dtype=torch.uint8)
    parts = (InMemory(eight[:3]), InMemory(eight[3:]), InMemory(torch.rand(4, 1, 2, 2)))
    same, mixed = Joined(parts[:2]), Joined(parts)
    assert (len(same), len(mixed), mixed.shape) == (5, 9, (1, 2, 2))
    assert torch.equal(same.at_rest(torch.arange(5)), eight)
    assert torch.equal(same.at_rest(torch.tensor([4, 0, 3, 0])), eight[[4, 0, 3, 0]])
    wanted = torch.cat([eight / 255, parts[2].pixels])
    order = torch.tensor([8, 1, 4, 5, 0])
    assert torch.equal(mixed.batch(order), wanted[order])
    assert torch.equal(mixed.at_rest(torch.tensor([6, 5])), wanted[[6, 5]])
    assert same.at_rest(torch.tensor([1])).dtype == torch.uint8
    assert mixed.at_rest(order[:0]).shape == (0, 1, 2, 2)
    assert isinstance(mixed, Images)


def test_images_of_different_shapes_are_not_joined() -> None:
    with pytest.raises(InputError, match="of one shape"):
        Joined((InMemory(GREY), InMemory(torch.zeros(1, 1, 2, 2))))
    with pytest.raises(InputError, match="none"):
        Joined(())


def test_images_that_were_files_know_their_names() -> None:
    pixels = torch.zeros(3, 1, 2, 2)
    assert files_at(InMemory(pixels, ("a.png", "b/c.png", "d.png")), torch.tensor([2, 0])) == ("d.png", "a.png")
    assert files_at(InMemory(pixels), torch.tensor([2, 0])) == ()
    with pytest.raises(InputError, match="3 images have 1 file names"):
        InMemory(pixels, ("a.png",))
    assert files_at(MapStyle([pixels[0]]), torch.tensor([0])) == ()
