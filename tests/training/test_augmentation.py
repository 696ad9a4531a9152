from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robal.augmentations import warp
from robal.errors import InputError
from robal.plans import encode, known, read_component
from robal.seeds import generator
from robal.training import Affine, Augmentation, Brightness, Chain, CropFlip, Cutout, NoAugmentation

EXPORTED = known(Augmentation)


def images(count: int = 6, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, 4, 5, generator=generator(0, "images"))


def a_blob(side: int = 16) -> Tensor:
    """A grey disc a little right of the middle on black, [1, 1, side, side]."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = ((rows - side / 2 + 0.5) ** 2 + (columns - side / 2 - 2.5) ** 2).sqrt()
    return 0.8 * (2.5 - distance).clamp(0, 1)[None, None]


def centres(images: Tensor) -> Tensor:
    """[B, 2]: the centre of mass, down and right of the middle, in pixels."""
    side = images.shape[-1]
    places = torch.arange(side) - side / 2 + 0.5
    mass = images.sum((1, 2, 3))
    down = (images.sum((1, 3)) * places).sum(1) / mass
    return torch.stack([down, (images.sum((1, 2)) * places).sum(1) / mass], 1)


def test_all_are_found_by_their_export() -> None:
    assert set(EXPORTED) == {"Affine", "Brightness", "Chain", "CropFlip", "Cutout", "NoAugmentation"}


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
    assert torch.equal(changed, kind()(inputs, generator(2))) == (kind in (NoAugmentation, Chain))


@pytest.mark.parametrize("kind", EXPORTED.values(), ids=EXPORTED.keys())
def test_images_may_live_on_another_device_than_the_generator(kind: Any) -> None:
    """A device without memory stands in for a GPU: torch refuses to mix it with tensors of the CPU."""
    changed = kind()(torch.empty(6, 2, 8, 9, device="meta"), generator(0))
    assert changed.shape == (6, 2, 8, 9)
    assert changed.device.type == "meta"


@pytest.mark.parametrize(
    "none",
    [
        NoAugmentation(),
        CropFlip(pad=0, flip=False),
        Cutout(share=0.0),
        Cutout(probability=0.0),
        Brightness(contrast=0.0, brightness=0.0),
        Chain(),
        Chain((CropFlip(0, flip=False), NoAugmentation())),
    ],
)
def test_no_augmentation_is_none(none: Any) -> None:
    assert torch.equal(none(images(), generator(0)), images())


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 5, 9)])
def test_an_affine_map_of_no_strength_is_none(shape: tuple[int, ...]) -> None:
    inputs = torch.rand(shape, generator=generator(0))
    none = Affine(rotation=0.0, scale=0.0, shear=0.0, shift=0.0)
    torch.testing.assert_close(none(inputs, generator(0)), inputs, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_shift_by_whole_pixels_by_hand(channels_last: bool) -> None:
    """A quarter of 4 rows down is one row, two fifths of 5 columns to the left are two."""
    inputs = images(3)
    given = inputs.contiguous(memory_format=torch.channels_last) if channels_last else inputs
    none = torch.zeros(3)
    moved = warp(given, none, none + 1, none, torch.tensor([[0.25], [-0.4]]).expand(2, 3))
    wanted = torch.zeros_like(inputs)
    wanted[:, :, 1:, :-2] = inputs[:, :, :-1, 2:]
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-5)


def test_a_quarter_turn_anticlockwise_by_hand() -> None:
    """Also where the image is no square: its middle, as wide as high, is turned."""
    inputs = torch.zeros(1, 1, 4, 6)
    inputs[:, :, :, 1:5] = torch.rand(1, 1, 4, 4, generator=generator(0))
    none = torch.zeros(1)
    turned = warp(inputs, none + math.pi / 2, none + 1, none, torch.zeros(2, 1))
    wanted = torch.zeros(1, 1, 4, 6)
    wanted[:, :, :, 1:5] = inputs[:, :, :, 1:5].rot90(1, (2, 3))
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-5)


def test_enlarging_and_slanting_move_what_lies_off_the_middle() -> None:
    """Size 3/2 takes the centre from 3 columns right of the middle to 4½; a slant of ½ moves it by half its row."""
    none = torch.zeros(1)
    enlarged = warp(a_blob(), none, none + 1.5, none, torch.zeros(2, 1))
    torch.testing.assert_close(centres(enlarged), torch.tensor([[0.0, 4.5]]), rtol=0, atol=0.05)
    assert float(enlarged.sum() / a_blob().sum()) == pytest.approx(2.25, rel=0.03)
    below = a_blob().transpose(2, 3)
    slanted = warp(below, none, none + 1, none + 0.5, torch.zeros(2, 1))
    torch.testing.assert_close(centres(slanted), torch.tensor([[3.0, 1.5]]), rtol=0, atol=0.05)


def test_shifts_fill_their_range_both_ways_and_each_image_draws_its_own() -> None:
    shift = Affine(rotation=0.0, scale=0.0, shear=0.0, shift=0.125)
    moved = centres(shift(a_blob().repeat(500, 1, 1, 1), generator(0))) - torch.tensor([0.0, 3.0])
    assert moved.abs().max() <= 2.01
    assert (moved.amax(0) > 1.95).all()
    assert (moved.amin(0) < -1.95).all()
    assert moved.mean(0).abs().max() < 0.21  # four standard deviations


@pytest.mark.parametrize(("share", "side"), [(0.25, 4), (0.5, 8), (1.0, 16)])
def test_a_cutout_is_one_rectangle_of_the_fill_and_nothing_else_changes(share: float, side: int) -> None:
    inputs = torch.rand(300, 2, 16, 16, generator=generator(0)) * 0.9
    cut = Cutout(share=share, fill=1.0)(inputs, generator(1))
    covered = cut[:, 0] == 1
    assert torch.equal(covered, cut[:, 1] == 1)
    assert torch.equal(torch.where(covered[:, None], 1.0, inputs), cut)
    rows, columns = covered.any(2), covered.any(1)
    assert torch.equal(covered, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() == columns.sum(1).max() == side
    assert rows.sum(1).min() >= side // 2  # half of it may lie outside
    assert rows.any(0).all()
    assert columns.any(0).all()


def test_a_share_of_the_images_is_cut() -> None:
    inputs = torch.ones(1000, 1, 8, 8)
    cut = Cutout(probability=0.3)(inputs, generator(0)).amin((1, 2, 3)) == 0
    assert abs(int(cut.sum()) - 300) < 58  # four standard deviations


def test_brightness_is_its_formula_on_each_image() -> None:
    """From x = ¼ and ½ follow c and b of each image; what leaves [0, 1] is clamped."""
    inputs = torch.tensor([0.25, 0.5, 0.0, 1.0]).view(1, 1, 1, 4).repeat(400, 1, 1, 1)
    changed = Brightness(contrast=0.4, brightness=0.1)(inputs, generator(0)).view(400, 4)
    contrast, offset = (changed[:, 1] - changed[:, 0]) * 4, changed[:, 1] - 0.5
    for drawn, middle, reach in ((contrast, 1.0, 0.4), (offset, 0.0, 0.1)):
        assert middle - reach - 1e-5 <= drawn.min() < middle - 0.95 * reach
        assert middle + 0.95 * reach < drawn.max() <= middle + reach + 1e-5
    torch.testing.assert_close(changed[:, 2], (0.5 - 0.5 * contrast + offset).clamp(0, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(changed[:, 3], (0.5 + 0.5 * contrast + offset).clamp(0, 1), rtol=0, atol=1e-5)


def test_negatives_are_made_on_request_and_seldom_otherwise() -> None:
    inputs = images(1000)
    negative = Brightness(contrast=0.0, brightness=0.0, invert=1.0)
    torch.testing.assert_close(negative(inputs, generator(0)), 1 - inputs)
    some = Brightness(contrast=0.0, brightness=0.0, invert=0.3)(inputs, generator(0))
    changed = ((some - inputs).abs().amax((1, 2, 3)) > 1e-3).sum()
    assert abs(int(changed) - 300) < 58  # four standard deviations


@pytest.mark.parametrize("kind", [Affine, Cutout, Brightness, Chain])
def test_none_mirrors_an_image_by_default(kind: Any) -> None:
    """A disc on the right stays on the right, a bright disc stays the brightest place."""
    changed = kind()(a_blob().repeat(200, 1, 1, 1), generator(0))
    left, right = changed[:, :, :, :8].amax((1, 2, 3)), changed[:, :, :, 8:].amax((1, 2, 3))
    seen = right > 0  # a cutout may hide it all
    assert (right >= left)[seen].all()
    assert seen.float().mean() > 0.9


def test_a_chain_does_one_part_after_the_other() -> None:
    inputs, noise = images(), generator(3)
    wanted = Brightness()(CropFlip(1)(inputs, noise), noise)
    assert torch.equal(Chain((CropFlip(1), Brightness()))(inputs, generator(3)), wanted)
    assert not torch.equal(Chain((Brightness(), CropFlip(1)))(inputs, generator(3)), wanted)


def test_a_chain_can_be_written_in_a_plan() -> None:
    text = "{name: Chain, parts: [{name: CropFlip, pad: 2, flip: false}, Affine, {name: Chain, parts: Cutout}]}"
    chain = read_component(Augmentation, text, "augmentation")
    assert chain == Chain((CropFlip(2, flip=False), Affine(), Chain((Cutout(),))))
    assert read_component(Augmentation, str(encode(chain)), "augmentation") == chain


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Affine(rotation=181.0), r"rotation in \[0, 180\] degrees, .*; 181.0, 0.1 and 0.1 came"),
        (lambda: Affine(scale=1.0), r"scale in \[0, 1\) and shear >= 0; 15.0, 1.0 and 0.1 came"),
        (lambda: Affine(shear=math.nan), "15.0, 0.1 and nan came"),
        (lambda: Affine(shift=1.5), r"shift lies in \[0, 1\]; 1.5 came"),
        (lambda: Cutout(share=-0.1), r"share lies in \[0, 1\]; -0.1 came"),
        (lambda: Cutout(probability=2.0), r"probability lies in \[0, 1\]; 2.0 came"),
        (lambda: Cutout(fill=math.nan), r"fill lies in \[0, 1\]; nan came"),
        (lambda: Brightness(contrast=1.5), r"contrast lies in \[0, 1\]; 1.5 came"),
        (lambda: Brightness(invert=-1.0), r"invert lies in \[0, 1\]; -1.0 came"),
        (lambda: Chain(CropFlip(2)), r"Chain takes a tuple of augmentations, .*; CropFlip\(pad=2, flip=True\) came"),
    ],
)
def test_strengths_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
