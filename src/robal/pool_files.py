"""`robal pool build` and `robal pool add`: folders and data sets of any origin as one Parquet file that grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robal.datasets import Dataset, Found, common_shape, load, walk_folder
from robal.errors import DataCorrupt, InputError
from robal.hugging_face import from_hugging_face
from robal.parquet import (
    Manifest,
    ParquetImages,
    Row,
    Split,
    check_arrow,
    decoded,
    decoders,
    read_manifest,
    version_of,
    write_parquet,
)
from robal.progress import track

_AHEAD = 32  # files that are read at once, or wait


def rows_of(dataset: Dataset) -> Iterator[Row]:
    """The rows of a data set in memory: floats are rounded to 8 bits; its test split comes last."""
    parts: list[tuple[Tensor, Tensor, Split]] = [(dataset.images, dataset.labels, "pool")]
    if dataset.test_images is not None and dataset.test_labels is not None:
        parts.append((dataset.test_images, dataset.test_labels, "test"))
    for images, labels, split in parts:
        for image, label in zip(images, labels.tolist(), strict=True):
            eight = image if image.dtype == torch.uint8 else image.mul(255).round().to(torch.uint8)
            yield Row(eight.numpy(), label, split)


def rows_of_folder(found: Iterable[Found], shape: tuple[int, int, int], keep: bool) -> Iterator[Row | tuple[str, str]]:
    """The images of a folder, read one by one; (file, why) of a broken one.

    Args:
        found: as `robal.datasets.walk_folder` lists them.
        shape: that they are resized to.
        keep: the bytes of their files too.
    """

    def read(one: Found) -> Row | tuple[str, str]:
        try:
            content = one.path.read_bytes()
            pixels = decoded(content, shape, one.path).numpy()
        except (OSError, DataCorrupt) as error:
            return one.name, str(error)
        return Row(pixels, one.label, "test" if one.is_test else "pool", one.name, content if keep else b"")

    waiting = deque[Future[Row | tuple[str, str]]]()
    for one in found:  # decoded by several threads, a few ahead
        waiting.append(decoders().submit(read, one))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def rows_of_pool(pool: ParquetImages) -> Iterator[Row]:
    """The rows of a file as they are, of all splits and versions."""
    every = pool.every
    columns = [pool.column(name).tolist() for name in ("label", "split", "file", "version")]
    for start in range(0, len(every), 512):
        part = torch.arange(start, min(start + 512, len(every)))
        kept = every.encoded(part)
        for place, pixels in zip(part.tolist(), every.at_rest(part).numpy(), strict=True):
            label, split, file, version = (column[place] for column in columns)
            yield Row(pixels, label, split, file, kept[place - start] if kept else b"", version)


def build_pool(
    source: str,
    out: Path,
    *,
    folder: Path | None = None,
    resize: int | None = None,
    keep_files: bool = False,
    classes: Sequence[str] | None = None,
    group: bool | None = None,
) -> Manifest:
    """`robal pool build` as a function: a folder of images, or any data set, as one Parquet file.

    Args:
        source: a folder (class/name.png, train/ and test/, or images alone), an .npz file, a known data set, or
            "hf:NAME", a data set of Hugging Face: its name on the hub, or a folder that `save_to_disk` made.
        out: the file, with .parquet at its end.
        folder: that holds the known data sets.
        resize: height and width in pixels.
        keep_files: the bytes of a folder's files instead of their pixels: smaller, and decoded at each reading.
        classes: of a folder, in the order of the labels.
        group: look for near-duplicates, so that no group of them is in pool and test; None: of a folder's images alone.

    Images of a folder are read one by one. Broken ones are left out, and the manifest lists them.

    Raises:
        InputError, DataError: naming what cannot be right; nothing is written.
    """
    if out.suffix.lower() != ".parquet" or out.is_dir():
        raise InputError(f"a pool is a file with .parquet at its end; {out} came")
    check_arrow()  # before anything is read
    if resize is not None and resize < 1:
        raise InputError(f"--resize is a number of pixels, 1 or more; {resize} came")
    if out.is_file() and len(versions := read_manifest(out).versions) > 1:
        raise InputError(
            f"{out} has grown to {len(versions)} versions, which runs may go back to: add to it by `robal pool add`, "
            "name another file, or delete it first"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    found = incoming(source, folder, resize, keep_files, classes)
    group = found.is_folder if group is None else group
    encoding: Literal["raw", "encoded"] = "encoded" if keep_files else "raw"
    return write_parquet(out, found.name, found.rows, found.shape, found.classes, encoding, source=source, group=group)


def add_to_pool(
    source: str,
    pool: Path,
    out: Path | None = None,
    *,
    folder: Path | None = None,
    classes: Sequence[str] | None = None,
    group: bool | None = None,
) -> Manifest:
    """`robal pool add` as a function: a new version of a file, in which further images follow those that are there.

    Ids stay. An image that is there already, pixel by pixel, is not added again, and its label stays what it is; test
    images of the source are added to the test images, and refused where they are there. The version before is still to
    be had, as "pool.parquet@1".

    Args:
        source: as for `build_pool`.
        pool: the file.
        out: where the new version goes; None: into the file itself, which is replaced as a whole.
        folder, classes: as for `build_pool`.
        group: look for near-duplicates; None: as before.

    Raises:
        InputError, DataError: naming what cannot be right; the file stays as it was.
    """
    there = ParquetImages(pool)
    manifest = there.manifest
    if version_of(pool)[1] is not None or (out is not None and out.suffix.lower() != ".parquet"):
        raise InputError(f"images are added to a file as it is now, and go to a .parquet file; {pool} came")
    keep = manifest.encoding == "encoded"
    is_folder = Path(source).expanduser().is_dir()  # whose sub-folders name its classes, new ones too
    names = classes if is_folder else classes or manifest.classes or None
    found = incoming(source, folder, None, keep, names, manifest.shape)
    if found.shape != manifest.shape:
        raise InputError(f"the images of {source} are {list(found.shape)}, those of {pool} {list(manifest.shape)}")
    strange = [name for name in found.classes if name not in manifest.classes]
    every = (*manifest.classes, *strange)
    place = [every.index(name) for name in found.classes]
    number = len(manifest.versions) + 1

    def newer() -> Iterator[Row | tuple[str, str]]:
        for row in found.rows:
            if isinstance(row, tuple):
                yield row
            else:
                yield replace(row, label=place[row.label] if row.label >= 0 else -1, version=number)

    return write_parquet(
        out or pool,
        manifest.name,
        chain(rows_of_pool(there), newer()),
        manifest.shape,
        every,
        manifest.encoding,
        source=source,
        earlier=manifest.versions,
        group=manifest.groups is not None if group is None else group,
    )


@dataclass(frozen=True)
class Incoming:
    """Images on their way into a file."""

    name: str
    rows: Iterable[Row | tuple[str, str]]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    is_folder: bool = False


def incoming(
    source: str,
    folder: Path | None,
    resize: int | None,
    keep_files: bool,
    classes: Sequence[str] | None,
    shape: tuple[int, int, int] | None = None,
) -> Incoming:
    """What a source holds; images of a folder come in `shape` where one is given. Raises InputError, DataError."""
    if source and Path(source).expanduser().is_dir():
        found, names = walk_folder(source, classes)
        form = shape or common_shape(found, resize)
        rows = rows_of_folder(track(found, "reading the images"), form, keep_files)
        return Incoming(Path(source).expanduser().resolve().name, rows, form, names, is_folder=True)
    if keep_files:
        raise InputError(f"only a folder has files whose bytes could be kept, and {source} is none")
    if source.startswith("hf:"):
        pictures = from_hugging_face(source.removeprefix("hf:"))
        form = shape or pictures.common_shape(resize)
        return Incoming(pictures.name, pictures.rows(form), form, pictures.classes)
    dataset = load(source, folder, resize=resize, classes=classes)
    channels, height, width = dataset.images.shape[1:]
    return Incoming(dataset.name, rows_of(dataset), (channels, height, width), dataset.classes)
