"""Many images in one picture, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from robal.files import whole
from robal.images import Images, picture


def contact_sheet(path: Path, images: Images, indices: Tensor, titles: Sequence[str], most: int | None = None) -> None:
    """A PNG of the first images, in order, each with its title; small ones enlarged without smoothing.

    Args:
        path: where to; written whole or not at all.
        images: the pool.
        indices: [n] int64.
        titles: n words.
        most: how many at most; None: all.
    """
    shown, columns, gap, words = indices[:most], 20, 6, 12
    _, height, width = images.shape
    scale = 56 / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (min(len(shown), columns) * (size[0] + gap), rows * (size[1] + gap + words)), "white")
    pen = ImageDraw.Draw(sheet)
    smoothing = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    for position, index in enumerate(shown.tolist()):
        left, top = position % columns * (size[0] + gap), position // columns * (size[1] + gap + words)
        sheet.paste(picture(images, index).resize(size, smoothing), (left, top))
        pen.text((left, top + size[1]), titles[position][:10], fill="black")
    with whole(path) as temporary:
        sheet.save(temporary, "PNG")
