"""Quick, Draw! bitmaps: one .npy file a class, split as DFAL splits them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robal.datasets.catalogue import Known
from robal.datasets.dataset import Dataset, labels_of
from robal.datasets.places import locate
from robal.errors import DataCorrupt

_SIDE = 28


def load_quickdraw(known: Known, root: Path) -> Dataset:
    """Sketches, class after class; of each the first 80 % are for training and the rest for testing, as DFAL has it.

    The classes are the files there, sorted by name, or those of `known` where it asks for some.

    Raises:
        DataMissing, DataCorrupt: naming the file and what to do.
    """
    files = list(locate(known, root).values())
    sketches = [read_bitmaps(path) for path in files]
    cuts = [int(0.8 * len(part)) for part in sketches]
    train = [part[:cut] for part, cut in zip(sketches, cuts, strict=True)]
    test = [part[cut:] for part, cut in zip(sketches, cuts, strict=True)]
    classes = tuple(path.stem.removeprefix("full_numpy_bitmap_") for path in files)
    return Dataset(known.name, torch.cat(train), labels_of(train), classes, torch.cat(test), labels_of(test))


def read_bitmaps(path: Path) -> Tensor:
    """Sketches [N, 1, 28, 28] uint8 of one file, which holds uint8 [N, 784] or [N, 1, 784].

    Raises:
        DataCorrupt: if it holds something else; pickled objects are refused, not read.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataCorrupt(f"{path} is truncated or no .npy file of numbers ({error}). Get it again") from error
    flat = array.ndim in (2, 3) and array.shape[1:] in ((_SIDE * _SIDE,), (1, _SIDE * _SIDE))
    if not flat or array.dtype != np.uint8 or len(array) < 2:
        raise DataCorrupt(
            f"{path} should be uint8 [N, 784] or [N, 1, 784] with N of 2 or more, "
            f"but is {array.dtype} {list(array.shape)}"
        )
    return torch.from_numpy(np.array(array)).reshape(-1, 1, _SIDE, _SIDE)
