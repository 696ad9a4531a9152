"""A contact sheet holds the images asked for, in order, and is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from robal.errors import RunFolderError
from robal.images import InMemory
from robal.pictures import contact_sheet


@pytest.mark.parametrize(
    ("shape", "count", "size"),
    [
        ((1, 8, 8), 3, (3 * 62, 74)),  # tiles of 56 and gaps of 6; below each 12 for its title
        ((3, 28, 28), 20, (20 * 62, 74)),
        ((3, 112, 56), 21, (20 * (28 + 6), 2 * 74)),  # tall ones keep their shape
        ((1, 28, 28), 100, (20 * 62, 5 * 74)),
    ],
)
def test_a_contact_sheet_holds_all_images_twenty_to_a_row(
    tmp_path: Path, shape: tuple[int, int, int], count: int, size: tuple[int, int]
) -> None:
    pixels = torch.full((count, *shape), 200, dtype=torch.uint8)
    path = tmp_path / "query.png"
    contact_sheet(path, InMemory(pixels), torch.arange(count), [str(index) for index in range(count)])
    with Image.open(path) as sheet:
        assert sheet.size == size
        assert sheet.getpixel((10, 10)) == (200, 200, 200)
    assert [file.name for file in tmp_path.iterdir()] == ["query.png"]


def test_a_contact_sheet_can_be_kept_small(tmp_path: Path) -> None:
    pixels = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    contact_sheet(tmp_path / "sheet.png", InMemory(pixels), torch.arange(100), [""] * 100, most=60)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (20 * 62, 3 * 74)


def test_a_contact_sheet_shows_the_images_in_the_order_asked(tmp_path: Path) -> None:
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 4, 4) * 50
    contact_sheet(tmp_path / "sheet.png", InMemory(pixels.contiguous()), torch.tensor([4, 0, 2]), ["a", "b", "c"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert [sheet.getpixel((20 + 62 * place, 20))[0] for place in range(3)] == [200, 0, 100]  # type: ignore[index]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_contact_sheet_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path, images = tmp_path / "sheet.png", InMemory(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    contact_sheet(path, images, torch.tensor([0]), ["a"])
    before = path.read_bytes()
    (tmp_path / "sheet.png.part").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"sheet\.png could not be written: .*No space left"):
        contact_sheet(path, images, torch.tensor([1]), ["b"])
    assert path.read_bytes() == before
