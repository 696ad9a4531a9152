from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from robal.datasets import load
from robal.datasets.shoebag import read_images
from robal.errors import DataCorrupt, DataError, DataMissing

FILES = ("shoes_64.hdf5", "handbag_64.hdf5")


def write(path: Path, images: np.ndarray, key: str = "imgs") -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=images, compression="lzf")


def test_the_last_2000_of_each_are_for_testing(tmp_path: Path) -> None:
    for number, name in enumerate(FILES):
        images = np.full((2003, 64, 64, 3), number, dtype=np.uint8)
        images[1, 2, 3] = [4, 5, 6]
        images[2003 - 2000] = 200 + number
        write(tmp_path / name, images)
    dataset = load("shoe_bag", tmp_path)
    assert dataset.classes == ("shoe", "bag")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.images[1, :, 2, 3].tolist() == [4, 5, 6]
    assert dataset.test_images is not None
    assert dataset.test_labels is not None
    assert dataset.test_images.shape == (4000, 3, 64, 64)
    assert dataset.test_images[[0, 2000], 0, 0, 0].tolist() == [200, 201]
    assert dataset.test_labels.bincount().tolist() == [2000, 2000]


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / FILES[0]
    write(path, np.zeros((3, 64, 64, 3), np.uint8))
    with pytest.raises(DataCorrupt, match=r"N above 2,000, but is uint8 \[3, 64, 64, 3\]"):
        read_images(path)
    write(path, np.zeros((3, 64, 64, 3), np.uint8), key="pictures")
    with pytest.raises(DataCorrupt, match="should hold `imgs`; it holds pictures"):
        read_images(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataCorrupt, match=r"shoes_64\.hdf5 is truncated"):
        read_images(path)


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FILES:
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"robal\[hdf5\]"):
        load("shoe-bag", tmp_path)


def test_what_to_do_by_hand_is_said_where_nothing_can_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"lacks shoes_64.hdf5, handbag_64.hdf5; .*download shoes_64.zip"):
        load("shoe-bag", tmp_path)
