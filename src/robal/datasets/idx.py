"""MNIST and Fashion-MNIST from their original idx files, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robal.datasets.catalogue import Known
from robal.datasets.dataset import Dataset
from robal.datasets.places import check_md5s, locate
from robal.errors import DataCorrupt

_UINT8 = 8  # the only type code of the idx format that these data sets use


def load_idx(known: Known, root: Path) -> Dataset:
    """The data set from its four files (training images, training labels, test images, test labels).

    Raises:
        DataMissing, DataCorrupt: naming the file and what to do.
    """
    found = locate(known, root)
    sources = check_md5s(known, found)
    images, labels, test_images, test_labels = (found[file.name] for file in known.files)
    return Dataset(
        known.name,
        *_pair(images, labels, len(known.classes)),
        known.classes,
        *_pair(test_images, test_labels, len(known.classes)),
        sources,
    )


def _pair(images: Path, labels: Path, classes: int) -> tuple[Tensor, Tensor]:
    pixels, answers = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or answers.shape != pixels.shape[:1]:
        raise DataCorrupt(
            f"{images.name} should hold [N, H, W] images and {labels.name} their N labels; "
            f"they hold {list(pixels.shape)} and {list(answers.shape)}"
        )
    if len(answers) and int(answers.max()) >= classes:
        raise DataCorrupt(f"{labels} holds the label {int(answers.max())}; labels should lie in [0, {classes})")
    return pixels.unsqueeze(1), answers.to(torch.int64)


def read_idx(path: Path) -> Tensor:
    """The array in one idx file of unsigned bytes: uint8, of the shape that its header states.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian
    32-bit number, then the bytes in row-major order.

    Raises:
        DataCorrupt: if the file is truncated, too long, or no idx file of bytes.
    """
    data = _content(path)
    if len(data) < 4 or data[:3] != bytes([0, 0, _UINT8]):
        raise DataCorrupt(
            f"{path} is no idx file of bytes: it should start with 00 00 08, but starts with {data[:3].hex(' ')}"
        )
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise DataCorrupt(f"{path} is truncated: its header should take {header} bytes, the file has {len(data)}")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    expected = header + math.prod(shape)
    if len(data) != expected:
        what = "truncated" if len(data) < expected else "too long"
        raise DataCorrupt(
            f"{path} is {what}: its header announces {list(shape)}, that is {expected:,} bytes; {len(data):,} came. "
            "Delete it and get it again"
        )
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8, offset=header).reshape(shape))


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataCorrupt(f"{path} is truncated or no gzip file ({error}). Delete it and get it again") from error
