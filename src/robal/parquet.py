"""Images in a Parquet file: a pool larger than memory, with stable ids, read a row group at a time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from robal.datasets import BROKEN, Dataset, Found, common_shape, load, walk_folder
from robal.errors import DataCorrupt, DataMissing, InputError, RobalError
from robal.files import whole
from robal.images import unit
from robal.progress import track

Split = Literal["pool", "test"]
_KEY = b"robal"
_GROUP = 1_024  # rows of a row group, at most
_GROUP_BYTES = 2**20  # after which a row group ends
_CACHED = 64 * 2**20  # bytes of decoded row groups that a reader keeps


@dataclass(frozen=True, eq=False)
class Row:
    """One image on its way into a file.

    Args:
        pixels: [C, H, W] uint8.
        label: a position in the classes; -1 where no label is known.
        split: which part it belongs to.
        file: where it came from, "" where it was no file.
        encoded: the bytes of its file, which are kept instead of the pixels where the file keeps them; b"": none.
    """

    pixels: np.ndarray[Any, Any]
    label: int = -1
    split: Split = "pool"
    file: str = ""
    encoded: bytes = b""


@dataclass(frozen=True)
class Manifest:
    """What a file says of itself.

    Args:
        name: of the pool.
        shape: (C, H, W) of every image.
        encoding: "raw": pixels as they are; "encoded": JPEG, PNG, … as they came, decoded when they are read.
        classes: the K names; empty where nobody named any.
        images: by split, how many.
        labelled: how many of the pool carry a label.
        broken: (file, why) of images that were left out.
        fingerprint: 16 hexadecimal digits of the SHA-256 of all ids, labels and splits, in order.
    """

    name: str
    shape: tuple[int, int, int]
    encoding: Literal["raw", "encoded"]
    classes: tuple[str, ...]
    images: dict[str, int]
    labelled: int
    broken: tuple[tuple[str, str], ...]
    fingerprint: str


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RobalError("Parquet pools need pyarrow: pip install 'robal[parquet]'") from error
    return pyarrow


def write_parquet(
    path: Path,
    name: str,
    rows: Iterable[Row | tuple[str, str]],
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    encoding: Literal["raw", "encoded"] = "raw",
) -> Manifest:
    """Write images to a file, whole or not at all, in bounded memory.

    Args:
        path: where to.
        name: of the pool.
        rows: images, or (file, why) of one that is broken: it is left out, and the manifest says so.
        shape: of every image.
        classes: the names that labels are positions in.
        encoding: see `Manifest`.

    An image's id is made of the SHA-256 of its shape and pixels (or of its bytes, where these are kept), so it stays
    what it is in any other file; equal images are told apart by a number after it.

    Raises:
        InputError: for no image at all, or one of another shape.
    """
    arrow = _arrow()
    binary = arrow.binary(int(np.prod(shape))) if encoding == "raw" else arrow.large_binary()
    schema = arrow.schema(
        [
            ("id", arrow.string()),
            ("file", arrow.string()),
            ("label", arrow.int32()),
            ("split", arrow.string()),
            ("image", binary),
        ]
    )
    counts, seen, digest = {"pool": 0, "test": 0}, dict[str, int](), hashlib.sha256()
    labelled, broken = 0, list[tuple[str, str]]()
    group: dict[str, list[Any]] = {field: [] for field in schema.names}
    with (
        whole(path) as temporary,
        arrow.parquet.ParquetWriter(temporary, schema, compression="none", use_dictionary=["split"]) as writer,
    ):

        def flush() -> None:
            writer.write_table(arrow.table(group, schema=schema), row_group_size=_GROUP)
            for column in group.values():
                column.clear()

        for row in rows:
            if isinstance(row, tuple):
                broken.append(row)
                continue
            if row.pixels.shape != shape or row.pixels.dtype != np.uint8:
                what = row.file or f"image {sum(counts.values())}"
                raise InputError(f"{what} is {row.pixels.dtype} {list(row.pixels.shape)}, not uint8 {list(shape)}")
            kept = row.encoded if encoding == "encoded" else np.ascontiguousarray(row.pixels).tobytes()
            identity = hashlib.sha256(repr(shape).encode() * (encoding == "raw") + kept).hexdigest()[:20]
            seen[identity] = seen.get(identity, 0) + 1
            identity += f"-{seen[identity]}" if seen[identity] > 1 else ""
            values = (identity, row.file, row.label, row.split, kept)
            for column, value in zip(group.values(), values, strict=True):
                column.append(value)
            digest.update(repr((identity, row.label, row.split)).encode())
            counts[row.split] += 1
            labelled += row.split == "pool" and row.label >= 0
            if len(group["id"]) == _GROUP or sum(map(len, group["image"])) >= _GROUP_BYTES:
                flush()
        if group["id"]:
            flush()
        if not counts["pool"]:
            raise InputError(f"{name} has no readable image for a pool; {len(broken)} are broken")
        print_of = digest.hexdigest()[:16]
        manifest = Manifest(name, shape, encoding, classes, counts, labelled, tuple(broken), print_of)
        writer.add_key_value_metadata({_KEY.decode(): json.dumps(manifest.__dict__)})
    return manifest


def read_manifest(path: Path | str) -> Manifest:
    """What a file says of itself. Raises DataMissing, DataCorrupt: there is none, or it is none of robal's."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataMissing(f"there is no file {path} (looked from {Path.cwd()})")
    arrow = _arrow()
    try:
        said = json.loads(arrow.parquet.read_metadata(path).metadata[_KEY])
        said["shape"], said["classes"] = tuple(said["shape"]), tuple(said["classes"])
        said["broken"] = tuple((file, why) for file, why in said["broken"])
        return Manifest(**said)
    except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataCorrupt(
            f"{path} is truncated or was not made by `robal pool build` ({error or type(error).__name__})"
        ) from error


class ParquetImages:
    """The images at some rows of a file; memory is bounded by a few row groups, whatever the file's size.

    Args:
        path: the file, as `write_parquet` made it.
        rows: [N] int64, which rows; None: those of the pool.
    """

    def __init__(self, path: Path | str, rows: Tensor | None = None) -> None:
        self.path, self.manifest = Path(path).expanduser().resolve(), read_manifest(path)
        self._open()
        self.rows = self.rows_in("pool") if rows is None else rows

    def _open(self) -> None:
        self._file = _arrow().parquet.ParquetFile(self.path, memory_map=True)
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._ends = torch.tensor(sizes).cumsum(0)
        self._groups: OrderedDict[int, Tensor | list[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    reads_ahead = True

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.manifest.shape

    @property
    def fingerprint(self) -> str:
        """Of the file and the rows, without reading any image."""
        return f"{self.manifest.fingerprint}-{hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()[:16]}"

    def at(self, rows: Tensor) -> ParquetImages:
        """The same file at other rows."""
        return ParquetImages(self.path, rows)

    def column(self, name: Literal["label", "split", "id", "file"]) -> np.ndarray[Any, Any]:
        """[rows of the file]: labels as int32, all else as strings."""
        found: np.ndarray[Any, Any] = self._file.read(columns=[name]).column(name).to_numpy()
        return found

    def files_at(self, rows: Tensor) -> tuple[str, ...]:
        """The names of the files that images came from; () where they were none."""
        files = tuple(self.column("file")[rows.numpy()].tolist())
        return files if any(files) else ()

    def rows_in(self, split: Split) -> Tensor:
        """[n] int64: the rows of a split, ascending."""
        return torch.from_numpy(np.flatnonzero(self.column("split") == split))

    @property
    def labels(self) -> Tensor:
        """[N] int64, -1 where no label is known."""
        return torch.from_numpy(self.column("label").astype(np.int64))[self.rows]

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return unit(self.at_rest(indices).to(device))

    def at_rest(self, indices: Tensor) -> Tensor:
        rows = self.rows[indices]
        found = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        which = torch.searchsorted(self._ends, rows, right=True)
        for number in which.unique().tolist():
            mine = (which == number).nonzero().flatten()
            inside = rows[mine] - (int(self._ends[number - 1]) if number else 0)
            group = self._group(number)
            if isinstance(group, Tensor):
                found[mine] = group[inside]
            else:
                pixels = _decoders().map(lambda at, of=group: decoded(of[at], self.shape, self.path), inside.tolist())
                for place, image in zip(mine.tolist(), pixels, strict=True):
                    found[place] = image
        return found

    def _group(self, number: int) -> Tensor | list[bytes]:
        """A row group's images: [n, C, H, W] uint8, or, where they are encoded, the bytes of each."""
        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
                return self._groups[number]
            column = self._file.read_row_group(number, columns=["image"]).column("image").combine_chunks()
            group: Tensor | list[bytes] = column.to_pylist() if self.manifest.encoding == "encoded" else torch.empty(0)
            if isinstance(group, Tensor):
                flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * int(np.prod(self.shape)))
                group = torch.from_numpy(flat.reshape(len(column), *self.shape).copy())
            self._groups[number] = group
            while len(self._groups) > 1 and sum(map(_bytes_of, self._groups.values())) > _CACHED:
                self._groups.popitem(last=False)
            return group


def _bytes_of(group: Tensor | list[bytes]) -> int:
    return group.numel() if isinstance(group, Tensor) else sum(map(len, group))


@cache
def _decoders() -> ThreadPoolExecutor:
    """Threads that decode: pillow works without Python's lock."""
    return ThreadPoolExecutor(os.cpu_count(), "robal-decodes")


def in_memory(path: Path | str) -> Dataset:
    """All of a file as a data set in memory, its test split apart. Raises DataError as `ParquetImages`."""
    pool = ParquetImages(path)
    tests, test_images, test_labels = pool.at(pool.rows_in("test")), None, None
    if len(tests):
        test_images, test_labels = tests.at_rest(torch.arange(len(tests))), tests.labels
    return Dataset(
        pool.manifest.name,
        pool.at_rest(torch.arange(len(pool))),
        pool.labels,
        pool.manifest.classes,
        test_images,
        test_labels,
        files=pool.files_at(pool.rows),
    )


def decoded(content: bytes, shape: tuple[int, int, int], where: Path) -> Tensor:
    """[C, H, W] uint8 of an encoded image, resized to the shape where it has another. Raises DataCorrupt."""
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
            if upright.size != (width, height):
                upright = upright.resize((width, height), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(upright)).view(height, width, -1).permute(2, 0, 1)
    except BROKEN as error:
        raise DataCorrupt(f"{where} is, or holds, an image that cannot be decoded: {error}") from error


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
    for one in found:
        try:
            content = one.path.read_bytes()
            pixels = decoded(content, shape, one.path).numpy()
        except (OSError, DataCorrupt) as error:
            yield one.name, str(error)
            continue
        yield Row(pixels, one.label, "test" if one.is_test else "pool", one.name, content if keep else b"")


def build_pool(
    source: str,
    out: Path,
    *,
    folder: Path | None = None,
    resize: int | None = None,
    keep_files: bool = False,
    classes: Sequence[str] | None = None,
) -> Manifest:
    """`robal pool build` as a function: a folder of images, or any data set, as one Parquet file.

    Args:
        source: a folder (class/name.png, train/ and test/, or images alone), an .npz file, or a known data set.
        out: the file, with .parquet at its end.
        folder: that holds the known data sets.
        resize: height and width in pixels.
        keep_files: the bytes of a folder's files instead of their pixels: smaller, and decoded at each reading.
        classes: of a folder, in the order of the labels.

    Images of a folder are read one by one. Broken ones are left out, and the manifest lists them.

    Raises:
        InputError, DataError: naming what cannot be right; nothing is written.
    """
    if out.suffix.lower() != ".parquet" or out.is_dir():
        raise InputError(f"a pool is a file with .parquet at its end; {out} came")
    _arrow()  # before anything is read
    out.parent.mkdir(parents=True, exist_ok=True)
    if source and Path(source).expanduser().is_dir():
        found, names = walk_folder(source, classes)
        shape = common_shape(found, resize)
        rows: Iterable[Row | tuple[str, str]] = rows_of_folder(track(found, "reading the images"), shape, keep_files)
        name = Path(source).expanduser().resolve().name
        return write_parquet(out, name, rows, shape, names, "encoded" if keep_files else "raw")
    if keep_files:
        raise InputError(f"only a folder has files whose bytes could be kept, and {source} is none")
    dataset = load(source, folder, resize=resize, classes=classes)
    channels, height, width = dataset.images.shape[1:]
    return write_parquet(out, dataset.name, rows_of(dataset), (channels, height, width), dataset.classes)
