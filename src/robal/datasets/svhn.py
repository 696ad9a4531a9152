"""SVHN (cropped digits) from its original MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor

from robal.datasets.catalogue import Known
from robal.datasets.dataset import Dataset
from robal.datasets.places import locate
from robal.errors import DataCorrupt


def load_svhn(known: Known, root: Path) -> Dataset:
    """SVHN from train_32x32.mat and test_32x32.mat, in the order of the files.

    Raises:
        DataMissing, DataCorrupt: naming the file and what to do.
    """
    found = locate(known, root)
    train, test = (read_mat(found[file.name]) for file in known.files)
    return Dataset(known.name, *train, known.classes, *test)


def read_mat(path: Path) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] uint8 and labels [N] int64 in [0, 10) of one file, which writes 10 for the digit 0.

    Raises:
        DataCorrupt: if it is no MATLAB 5 file, or does not hold X [32, 32, 3, N] uint8 and y [N, 1] in 1..10.
    """
    try:
        content = scipy.io.loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # scipy raises nearly anything for a broken file
        raise DataCorrupt(f"{path} is truncated or no MATLAB 5 file ({error}). Delete it and get it again") from error
    pixels, digits = content.get("X"), content.get("y")
    if pixels is None or digits is None:
        raise DataCorrupt(f"{path} should hold X, the images, and y, the labels; it holds {_names(content)}")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
        raise DataCorrupt(f"{path}: X should be uint8 [32, 32, 3, N], but is {pixels.dtype} {list(pixels.shape)}")
    if digits.size != pixels.shape[3] or digits.dtype.kind not in "iu":
        raise DataCorrupt(
            f"{path}: y should hold {pixels.shape[3]} whole numbers, but is {digits.dtype} {list(digits.shape)}"
        )
    labels = digits.reshape(-1).astype(np.int64)
    if labels.size and not 1 <= labels.min() <= labels.max() <= 10:
        raise DataCorrupt(f"{path}: y should lie in 1..10, but reaches from {labels.min()} to {labels.max()}")
    images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    return torch.from_numpy(images), torch.from_numpy(labels % 10)


def _names(content: dict[str, object]) -> str:
    return ", ".join(name for name in content if not name.startswith("__")) or "neither"
