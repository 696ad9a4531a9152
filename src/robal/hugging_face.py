"""Data sets of Hugging Face, as rows of a pool: read one image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robal.datasets import BROKEN, channels_of
from robal.errors import DataError, DataMissing, InputError, RobalError
from robal.parquet import Row, Split, fitted
from robal.progress import track

_TESTS = ("test", "validation")  # splits whose images are the test, the first that there is


@dataclass(frozen=True)
class Pictures:
    """The splits of a data set with an image and perhaps a label in each row.

    Args:
        name: of the data set.
        splits: which part of a pool each becomes, and its rows.
        image, label: the names of the two columns; label is "" where there is none.
        classes: the names of the labels.
    """

    name: str
    splits: tuple[tuple[Split, Any], ...]
    image: str
    label: str
    classes: tuple[str, ...]

    def common_shape(self, resize: int | None) -> tuple[int, int, int]:
        """(C, H, W) of the first readable image, or with both sides `resize`; the others are brought to it."""
        first = next(self._readable(), None)
        if first is None:
            raise DataError(f"{self.name} has no readable image")
        channels = channels_of(first.mode)
        return (channels, first.height, first.width) if resize is None else (channels, resize, resize)

    def rows(self, shape: tuple[int, int, int]) -> Iterator[Row | tuple[str, str]]:
        """Each image in `shape`; (which, why) for one that cannot be read."""
        for split, rows in self.splits:
            for number in track(range(len(rows)), f"reading {self.name}"):
                try:
                    row = rows[number]
                    picture = self._picture(row)
                    if picture is None:
                        raise ValueError("there is no image")
                    pixels = fitted(picture, shape).numpy()
                except BROKEN as error:
                    yield f"{split} {number}", str(error)
                    continue
                label = row[self.label] if self.label else None
                yield Row(pixels, -1 if label is None else int(label), split, f"{split}/{number}")

    def _readable(self) -> Iterator[Image.Image]:
        for _, rows in self.splits:
            for number in range(len(rows)):
                try:
                    found = self._picture(rows[number])
                    if found is not None:
                        found.load()
                        channels_of(found.mode)
                        yield found
                except BROKEN:
                    continue

    def _picture(self, row: Any) -> Image.Image | None:
        found = row[self.image]
        return found if found is None or isinstance(found, Image.Image) else Image.fromarray(np.asarray(found))


def from_hugging_face(name: str) -> Pictures:
    """A data set by its name on the hub, or by a folder that `save_to_disk` made.

    A column of the feature `Image` is the image, one of `ClassLabel` the label; with a split called test (or
    validation) beside others, that is the test, and all others are the pool.

    Raises:
        RobalError: where the package `datasets` is not installed.
        DataMissing: where there is no such data set.
        InputError: where none of its columns is an image.
    """
    try:
        datasets: Any = import_module("datasets")  # without types that mypy can follow
    except ImportError as error:
        raise RobalError("data sets of Hugging Face need a package: pip install 'robal[huggingface]'") from error
    try:
        path = Path(name).expanduser()
        found = datasets.load_from_disk(str(path)) if path.exists() else datasets.load_dataset(name)
    except Exception as error:  # of whatever kind: a name that is not there, no network, a folder of something else
        raise DataMissing(f"no data set of Hugging Face could be had by the name {name!r}: {error}") from error
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    if not any(len(rows) for rows in splits.values()):
        raise InputError(f"{name} has no row")
    features = next(iter(splits.values())).features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images:
        raise InputError(f"{name} has no column of images; its columns are {', '.join(features)}")
    test = next((split for split in _TESTS if split in splits and len(splits) > 1), None)
    parts: list[tuple[Split, Any]] = [("pool", rows) for split, rows in splits.items() if split != test]
    parts += [] if test is None else [("test", splits[test])]
    classes = tuple(features[labels[0]].names) if labels else ()
    return Pictures(path.name, tuple(parts), images[0], labels[0] if labels else "", classes)
