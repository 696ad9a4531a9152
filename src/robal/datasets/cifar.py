"""CIFAR-10 from its original Python 2 pickles, without running anything that a pickle says."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robal.datasets.catalogue import Known
from robal.datasets.dataset import Dataset
from robal.datasets.places import check_md5, locate
from robal.errors import DataCorrupt

_SHAPE = (3, 32, 32)


def load_cifar(known: Known, root: Path) -> Dataset:
    """CIFAR-10 from its batches, or straight from the archive that they come in.

    Raises:
        DataMissing, DataCorrupt: naming the file and what to do.
    """
    found = locate(known, root)
    files = {file.name: file for file in known.files}
    sources: dict[str, str] = {}
    batches: dict[str, tuple[Tensor, Tensor]] = {}
    for name, path, data in _contents(found, tuple(files)):
        sources[name] = check_md5(known, files[name], path, hashlib.md5(data).hexdigest())
        if name != "batches.meta":  # its class names are those of the catalogue, once its md5 is right
            batches[name] = read_batch(data, path, len(known.classes))
    train = [batches[name] for name in files if name.startswith("data_batch")]
    images = torch.cat([images for images, _ in train])
    labels = torch.cat([labels for _, labels in train])
    return Dataset(known.name, images, labels, known.classes, *batches["test_batch"], sources)


def _contents(found: dict[str, Path], names: tuple[str, ...]) -> Iterator[tuple[str, Path, bytes]]:
    if set(names) <= set(found):
        yield from ((name, found[name], found[name].read_bytes()) for name in names)
        return
    (archive,) = found.values()
    missing = set(names)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                stream = tar.extractfile(member) if name in missing else None
                if stream is not None:
                    missing.remove(name)
                    yield name, archive / name, stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataCorrupt(f"{archive} is truncated or no archive ({error}). Delete it and get it again") from error
    if missing:
        raise DataCorrupt(f"{archive} lacks {', '.join(sorted(missing))}. Delete it and get it again")


def read_batch(data: bytes, path: Path, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] uint8 and labels [N] int64 of one batch.

    Args:
        data: the bytes of the pickle.
        path: how messages call it.
        classes: labels lie in [0, classes).

    Raises:
        DataCorrupt: if the pickle asks for anything but an array of bytes, or does not hold what it should.
    """
    batch = read_pickle(data, path)
    if not isinstance(batch, dict):
        raise DataCorrupt(f"{path} should hold a dictionary, but holds a {type(batch).__name__}")
    fields = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    array, labels = fields.get("data"), fields.get("labels")
    if not isinstance(array, _Array) or not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataCorrupt(f"{path} should hold `data`, an array of bytes, and `labels`, a list of whole numbers")
    if array.shape != (len(labels), math.prod(_SHAPE)):
        raise DataCorrupt(
            f"{path} should hold {math.prod(_SHAPE)} bytes for each of its {len(labels)} labels; "
            f"its array is {list(array.shape)}"
        )
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise DataCorrupt(f"{path} holds labels from {min(labels)} to {max(labels)}; they should lie in [0, {classes})")
    return torch.from_numpy(array.to_numpy()).reshape(-1, *_SHAPE), torch.tensor(labels, dtype=torch.int64)


def read_pickle(data: bytes, path: Path) -> Any:
    """The object in a pickle that consists of plain values and arrays of bytes; arrays come as `_Array`.

    Raises:
        DataCorrupt: if it names any other class or function, none of which is imported or called; or is broken.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except DataCorrupt as error:
        raise DataCorrupt(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle can raise nearly anything
        raise DataCorrupt(f"{path} is truncated or no pickle ({error}). Delete it and get it again") from error


class _Array:
    """Stands in for numpy's array and for the function that rebuilds one, so that a file cannot reach numpy itself."""

    __slots__ = ("content", "shape")

    def __init__(self, *arguments: object) -> None:
        self.shape: tuple[int, ...] = ()
        self.content = b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, column_major, content = state
        plain = type(content) is bytes and type(dtype) is _Dtype and not column_major
        if (
            not plain
            or any(type(extent) is not int or extent < 0 for extent in shape)
            or math.prod(shape) != len(content)
        ):
            raise DataCorrupt("an array of it does not hold as many bytes as its shape says, or no bytes at all")
        self.shape, self.content = shape, content

    def to_numpy(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.frombuffer(bytearray(self.content), dtype=np.uint8).reshape(self.shape)


class _Dtype:
    """Stands in for numpy's dtype; knows unsigned bytes alone."""

    __slots__ = ()

    def __init__(self, code: bytes | str, *arguments: object) -> None:
        if code not in (b"u1", "u1"):
            raise DataCorrupt(f"it holds an array of type {code!r}; only unsigned bytes are admitted")

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Dtype
        raise DataCorrupt(
            f"the pickle asks for {module}.{name}, which no batch of CIFAR-10 needs; nothing was run. "
            "Delete the file and get it again from its publisher"
        )
