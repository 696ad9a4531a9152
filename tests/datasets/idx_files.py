"""Small idx files and catalogue entries for them, written by the tests."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from robal.datasets import File, Known, find_known


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_small_mnist(folder: Path, train: int = 30, test: int = 20, packed: bool = True) -> tuple[Known, np.ndarray]:
    """Four idx files of random images in `folder`; the entry that knows their md5s; the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (train, 28, 28), dtype=np.uint8)
    arrays = (images, np.arange(train) % 10, random.integers(0, 256, (test, 28, 28)), np.arange(test) % 10)
    files = []
    for file, array in zip(find_known("mnist").files, arrays, strict=True):
        raw = idx_bytes(array)
        zipped = gzip.compress(raw, mtime=0)
        (folder / (file.name if packed else file.name.removesuffix(".gz"))).write_bytes(zipped if packed else raw)
        files.append(File(file.name, hashlib.md5(zipped).hexdigest(), hashlib.md5(raw).hexdigest()))
    return replace(find_known("mnist"), files=tuple(files)), images
