"""Shoe-Bag: pix2pix's shoes and handbags, from their original HDF5 files, split as DFAL splits them; a stand-in."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robal.datasets.catalogue import Known, find_known
from robal.datasets.dataset import Dataset, labels_of
from robal.datasets.idx import load_idx
from robal.datasets.places import locate
from robal.errors import DataCorrupt, DataError

_SHOES = ("sneaker", "ankle boot")
_TEST = 2_000  # the last so many of each file


def load_shoe_bag(known: Known, root: Path) -> Dataset:
    """Shoes (label 0), then bags (label 1); the last 2,000 of each are for testing, as DFAL has it.

    Raises:
        DataMissing, DataCorrupt: naming the file and what to do.
        DataError: if h5py is not installed.
    """
    found = locate(known, root)
    parts = [read_images(found[file.name]) for file in known.files]
    train, test = [part[:-_TEST] for part in parts], [part[-_TEST:] for part in parts]
    return Dataset(known.name, torch.cat(train), labels_of(train), known.classes, torch.cat(test), labels_of(test))


def load_fashion_shoe_bag(known: Known, root: Path) -> Dataset:
    """Of Fashion-MNIST the sneakers and ankle boots (label 0) and the bags (label 1), in its own split and order.

    Raises:
        DataMissing, DataCorrupt: naming the file and what to do.
    """
    whole = load_idx(find_known("fashion-mnist"), root)
    bag, shoes = whole.classes.index("bag"), torch.tensor([whole.classes.index(name) for name in _SHOES])
    assert whole.test_images is not None
    assert whole.test_labels is not None

    def of_both(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (labels == bag) | torch.isin(labels, shoes)
        return images[wanted], (labels[wanted] == bag).long()

    train, test = of_both(whole.images, whole.labels), of_both(whole.test_images, whole.test_labels)
    return Dataset(known.name, *train, known.classes, *test, whole.sources)


def read_images(path: Path) -> Tensor:
    """Images [N, 3, 64, 64] uint8 of one file, whose data set `imgs` is uint8 [N, 64, 64, 3].

    Raises:
        DataCorrupt: if it is no such file, or holds no more images than the test split takes.
        DataError: if h5py is not installed.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            if "imgs" not in file:
                raise DataCorrupt(f"{path} should hold `imgs`; it holds {', '.join(file) or 'nothing'}")
            images = file["imgs"]
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (64, 64, 3) or len(images) <= _TEST:
                raise DataCorrupt(
                    f"{path}: imgs should be uint8 [N, 64, 64, 3] with N above {_TEST:,}, "
                    f"but is {images.dtype} {list(images.shape)}"
                )
            return torch.from_numpy(np.ascontiguousarray(images[:].transpose(0, 3, 1, 2)))
    except OSError as error:
        raise DataCorrupt(f"{path} is truncated or no HDF5 file ({error}). Delete it and get it again") from error


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise DataError("Shoe-Bag comes in HDF5 files, which need h5py: `pip install 'robal[hdf5]'`") from error
