"""Images in a Parquet file: a pool larger than memory, with stable ids, read a row group at a time."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from robal.datasets import BROKEN, Dataset, channels_of
from robal.errors import DataCorrupt, DataMissing, InputError, RobalError
from robal.files import whole
from robal.images import unit
from robal.machine import processors
from robal.near_duplicates import alike, drift, groups_of, perceived

Split = Literal["pool", "test"]
_KEY, _GROUPS = b"robal", b"robal.groups"
_GROUP = 1_024  # rows of a row group, at most
_GROUP_BYTES = 2**20  # after which a row group ends
_LOOKS = 2**24  # bytes of pixels that are looked at together for near-duplicates
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
        version: of the pool in which it came.
    """

    pixels: np.ndarray[Any, Any]
    label: int = -1
    split: Split = "pool"
    file: str = ""
    encoded: bytes = b""
    version: int = 1


@dataclass(frozen=True)
class Version:
    """Images that came together.

    Args:
        source: where they came from.
        images: by split, how many.
        again: how many were left out, since the very same image was there already.
        unheard: of these, how many came with another label than the image has there, which was not taken over.
        broken: (file, why) of images that were left out.
        drift: how well a linear classifier tells them from those of the first version, see `near_duplicates.drift`.
        fingerprint: 16 hexadecimal digits of the SHA-256 of all ids, labels and splits up to here, in order.
        classes: the names of all classes up to here.
    """

    source: str
    images: dict[str, int]
    again: int
    unheard: int
    broken: tuple[tuple[str, str], ...]
    drift: float | None
    fingerprint: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What a file says of itself.

    Args:
        name: of the pool.
        shape: (C, H, W) of every image.
        encoding: "raw": pixels as they are; "encoded": JPEG, PNG, … as they came, decoded when they are read.
        labelled: how many of the pool carry a label.
        versions: what came when, oldest first.
        groups: of near-duplicates, how many; None where nobody looked.
    """

    name: str
    shape: tuple[int, int, int]
    encoding: Literal["raw", "encoded"]
    labelled: int
    versions: tuple[Version, ...]
    groups: int | None = None

    @property
    def images(self) -> dict[str, int]:
        """By split, how many."""
        return {split: sum(one.images[split] for one in self.versions) for split in ("pool", "test")}

    @property
    def classes(self) -> tuple[str, ...]:
        """The K names; empty where nobody named any."""
        return self.versions[-1].classes


def check_arrow() -> Any:
    """pyarrow. Raises RobalError where it is not installed."""
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
    *,
    source: str = "",
    earlier: Sequence[Version] = (),
    group: bool = False,
) -> Manifest:
    """Write images to a file, whole or not at all, in bounded memory.

    Args:
        path: where to.
        name: of the pool.
        rows: images, or (file, why) of one that is broken: it is left out, and the manifest says so. Those of earlier
            versions come first, in order; an image of the newest that is among them is left out.
        shape: of every image.
        classes: the names that labels are positions in.
        encoding: see `Manifest`.
        source: where the newest version comes from.
        earlier: the versions before it.
        group: look for near-duplicates.

    An image's id is made of the SHA-256 of its shape and pixels (or of its bytes, where these are kept), so it stays
    what it is in any other file; equal images are told apart by a number after it.

    Raises:
        InputError: for no image at all, or one of another shape.
    """
    arrow = check_arrow()
    binary = arrow.binary(int(np.prod(shape))) if encoding == "raw" else arrow.large_binary()
    strings = {field: arrow.string() for field in ("id", "file", "split")}
    kinds = strings | {"label": arrow.int32(), "version": arrow.int32(), "image": binary}
    schema = arrow.schema(list(kinds.items()))
    newest, seen, before, digest = len(earlier) + 1, dict[str, int](), dict[str, int](), hashlib.sha256()
    counts, again, unheard, labelled = {"pool": 0, "test": 0}, {"pool": 0, "test": 0}, 0, 0
    broken, looks = list[tuple[str, str]](), list[tuple[Tensor, Tensor]]()
    columns: dict[str, list[Any]] = {field: [] for field in schema.names}
    pixels, held = list[np.ndarray[Any, Any]](), 0
    with (
        whole(path) as temporary,
        arrow.parquet.ParquetWriter(
            temporary, schema, compression="none", use_dictionary=["split"], write_page_checksum=True
        ) as writer,
    ):

        def flush() -> None:
            if columns["id"]:
                writer.write_table(arrow.table(columns, schema=schema), row_group_size=_GROUP)
            for column in columns.values():
                column.clear()

        def look() -> None:
            if pixels:
                looks.append(perceived(torch.from_numpy(np.stack(pixels))))
                pixels.clear()

        for row in rows:
            if isinstance(row, tuple):
                broken.append(row)
                continue
            if row.pixels.shape != shape or row.pixels.dtype != np.uint8:
                what = row.file or f"image {sum(counts.values())}"
                raise InputError(f"{what} is {row.pixels.dtype} {list(row.pixels.shape)}, not uint8 {list(shape)}")
            kept = row.encoded if encoding == "encoded" else np.ascontiguousarray(row.pixels).tobytes()
            identity = hashlib.sha256(repr(shape).encode() * (encoding == "raw") + kept).hexdigest()[:20]
            if row.version < newest:
                before[identity] = row.label
            elif identity in before:
                again[row.split] += 1
                unheard += row.label >= 0 and row.label != before[identity]
                continue
            else:
                counts[row.split] += 1
            seen[identity] = seen.get(identity, 0) + 1
            identity += f"-{seen[identity]}" if seen[identity] > 1 else ""
            values = (identity, row.file, row.split, row.label, row.version, kept)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            digest.update(repr((identity, row.label, row.split)).encode())
            labelled += row.split == "pool" and row.label >= 0
            held += len(kept)
            if len(columns["id"]) == _GROUP or held >= _GROUP_BYTES:
                flush()
                held = 0
            if group or earlier:
                pixels.append(row.pixels)
                if len(pixels) * row.pixels.size >= _LOOKS:
                    look()
        flush()
        look()
        if again["test"]:
            raise InputError(
                f"{again['test']} test images of {source or name} are there already, so they would test nothing: leave "
                "them out, or add them as images of the pool"
            )
        groups, moved = None, None
        if looks:
            hashes, thumbs = (torch.cat([look[part] for look in looks]) for part in (0, 1))
            if earlier:
                moved = drift(thumbs[: sum(earlier[0].images.values())], thumbs[len(thumbs) - sum(counts.values()) :])
            if group:
                pairs = alike(hashes, thumbs)
                groups = int(groups_of(pairs, len(hashes)).max()) + 1
                content = base64.b64encode(pairs.numpy().astype("<i8").tobytes()).decode()
                writer.add_key_value_metadata({_GROUPS.decode(): content})
        print_of = digest.hexdigest()[:16]
        made = Version(source or name, counts, again["pool"], unheard, tuple(broken), moved, print_of, classes)
        manifest = Manifest(name, shape, encoding, labelled, (*earlier, made), groups)
        if not manifest.images["pool"]:
            raise InputError(f"{name} has no readable image for a pool; {len(broken)} are broken")
        writer.add_key_value_metadata({_KEY.decode(): json.dumps(asdict(manifest))})
    return manifest


def read_manifest(path: Path | str) -> Manifest:
    """What a file says of itself. Raises DataMissing, DataCorrupt: there is none, or it is none of robal's."""
    path = version_of(path)[0]
    if not path.is_file():
        raise DataMissing(f"there is no file {path} (looked from {Path.cwd()})")
    arrow = check_arrow()
    try:
        said = json.loads(arrow.parquet.read_metadata(path).metadata[_KEY])
        for one in said["versions"]:
            one["broken"], one["classes"] = tuple((file, why) for file, why in one["broken"]), tuple(one["classes"])
        said["shape"], said["versions"] = tuple(said["shape"]), tuple(Version(**one) for one in said["versions"])
        return Manifest(**said)
    except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataCorrupt(
            f"{path} is truncated or was not made by `robal pool build` ({error or type(error).__name__})"
        ) from error


def is_parquet(name: str) -> bool:
    """Whether a name is that of a Parquet file, or of a version of one: "pool.parquet", "pool.parquet@2"."""
    return version_of(name)[0].suffix.lower() == ".parquet"


def version_of(name: Path | str) -> tuple[Path, int | None]:
    """The file that a name names, and the version of it; None: the newest.

    >>> version_of("pool.parquet@2")
    (PosixPath('pool.parquet'), 2)
    """
    file, at, number = str(name).rpartition("@")
    if at and number.isdecimal() and file.lower().endswith(".parquet"):
        return Path(file).expanduser(), int(number)
    return Path(name).expanduser(), None


class ParquetImages:
    """The images at some rows of a file; memory is bounded by a few row groups, whatever the file's size.

    Args:
        path: the file, as `write_parquet` made it; "pool.parquet@2" for what it was at its second version.
        rows: [N] int64, which rows; None: those of the pool.
    """

    def __init__(self, path: Path | str, rows: Tensor | None = None) -> None:
        file, version = version_of(path)
        self.path, self.manifest = file.resolve(), read_manifest(file)
        self.version = version or len(self.manifest.versions)
        if not 1 <= self.version <= len(self.manifest.versions):
            raise InputError(f"{file} has versions 1 to {len(self.manifest.versions)}; {version} was asked for")
        self._open()
        self.rows = self.rows_in("pool") if rows is None else rows

    def _open(self) -> None:
        self._file = check_arrow().parquet.ParquetFile(self.path, memory_map=True, page_checksum_verification=True)
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._ends = torch.tensor(sizes).cumsum(0)
        self._groups: OrderedDict[int, Tensor | list[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def reads_ahead(self) -> bool:
        """Whether a thread of its own should read what is needed next: it pays where images have to be decoded."""
        return self.manifest.encoding == "encoded"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest, "version": self.version, "rows": self.rows}

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
        of_file = self.manifest.versions[self.version - 1].fingerprint
        kept = repr((self.shape, self.manifest.encoding)).encode()  # ids of encoded images are of their bytes alone
        return f"{of_file}-{hashlib.sha256(kept + self.rows.numpy().tobytes()).hexdigest()[:16]}"

    def at(self, rows: Tensor) -> ParquetImages:
        """The same file at other rows."""
        return ParquetImages(f"{self.path}@{self.version}", rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """The K names, at the version; empty where nobody named any."""
        return self.manifest.versions[self.version - 1].classes

    @property
    def every(self) -> ParquetImages:
        """The images of all splits, up to the version."""
        return self.at(torch.arange(self._count))

    @property
    def _count(self) -> int:
        """Rows of all splits, up to the version."""
        return sum(sum(one.images.values()) for one in self.manifest.versions[: self.version])

    def column(self, name: Literal["label", "split", "id", "file", "version"]) -> np.ndarray[Any, Any]:
        """[rows up to the version]: labels and versions as int32, all else as strings."""
        found: np.ndarray[Any, Any] = self._file.read(columns=[name]).column(name).to_numpy()
        return found[: self._count]

    @cached_property
    def equals(self) -> Tensor:
        """[rows up to the version] int64: groups of images that are equal to the bit; -1 for an image like none."""
        _, which = np.unique([one[:20] for one in self.column("id")], return_inverse=True)
        members = np.bincount(which)
        return torch.from_numpy(np.where(members[which] > 1, which, -1).astype(np.int64))

    @cached_property
    def groups(self) -> Tensor:
        """[rows up to the version] int64: groups of near-duplicates; -1 for an image like no other."""
        count = self._count
        said = (self._file.metadata.metadata or {}).get(_GROUPS)
        if said is None:
            return torch.full((count,), -1)
        pairs = np.frombuffer(base64.b64decode(said), "<i8").astype(np.int64).reshape(-1, 2)
        return groups_of(torch.from_numpy(pairs), count)

    def files_at(self, indices: Tensor) -> tuple[str, ...]:
        """The names of the files that images came from; () where no image of the pool is a file."""
        return tuple(self.column("file")[self.rows[indices].numpy()].tolist()) if self._are_files else ()

    @cached_property
    def _are_files(self) -> bool:
        return any(self.column("file")[self.rows.numpy()])

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
                pixels = decoders().map(
                    lambda at, of=group, row=rows[mine[0]] - inside[0]: self._decoded(of[at], int(row) + at),
                    inside.tolist(),
                )
                for place, image in zip(mine.tolist(), pixels, strict=True):
                    found[place] = image
        return found

    def _decoded(self, content: bytes, row: int) -> Tensor:
        try:
            return decoded(content, self.shape, self.path)
        except DataCorrupt as error:
            file, identity = (self.column(name)[row] for name in ("file", "id"))
            raise DataCorrupt(f"{error} (row {row}, file {file!r}, id {identity}): build the pool again") from error

    def encoded(self, indices: Tensor) -> list[bytes]:
        """The bytes of the files of images, where these are kept; else none."""
        if self.manifest.encoding == "raw":
            return []
        found = []
        for row in self.rows[indices].tolist():
            number = int(torch.searchsorted(self._ends, row, right=True))
            group = self._group(number)
            found.append(bytes(group[row - (int(self._ends[number - 1]) if number else 0)]))
        return found

    def _group(self, number: int) -> Tensor | list[bytes]:
        """A row group's images: [n, C, H, W] uint8, or, where they are encoded, the bytes of each."""
        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
                return self._groups[number]
            try:
                column = self._file.read_row_group(number, columns=["image"]).column("image").combine_chunks()
            except OSError as error:  # of a checksum, too
                where = f"{int(self._ends[number - 1]) if number else 0:,} to {int(self._ends[number]):,}"
                raise DataCorrupt(f"{self.path} is damaged at images {where}: {error}. Build it again") from error
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
def decoders() -> ThreadPoolExecutor:
    """Threads that decode: pillow works without Python's lock."""
    return ThreadPoolExecutor(processors(), "robal-decodes")


def in_memory(path: Path | str) -> Dataset:
    """All of a file as a data set in memory, its test split apart. Raises DataError as `ParquetImages`."""
    pool = ParquetImages(path)
    tests, test_images, test_labels = pool.at(pool.rows_in("test")), None, None
    every, every_test = torch.arange(len(pool)), torch.arange(len(tests))
    if len(tests):
        test_images, test_labels = tests.at_rest(every_test), tests.labels
    return Dataset(
        pool.manifest.name,
        pool.at_rest(every),
        pool.labels,
        pool.classes,
        test_images,
        test_labels,
        files=pool.files_at(every),
        test_files=tests.files_at(every_test),
    )


def decoded(content: bytes, shape: tuple[int, int, int], where: Path) -> Tensor:
    """[C, H, W] uint8 of an encoded image, resized to the shape where it has another. Raises DataCorrupt."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return fitted(image, shape)
    except BROKEN as error:
        said = re.sub(r" ?<_io.BytesIO object at \w+>", "", str(error))  # an address of this process
        raise DataCorrupt(f"{where} is, or holds, an image that cannot be decoded: {said}") from error


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """[C, H, W] uint8 of a picture, upright, grey or in colours, resized where it has another size.

    Raises ValueError for one of more than 8 bits a channel.
    """
    channels, height, width = shape
    channels_of(image.mode)
    upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    if upright.size != (width, height):
        upright = upright.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(upright)).view(height, width, -1).permute(2, 0, 1)
