from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from robal.datasets import load
from robal.datasets.svhn import read_mat
from robal.errors import DataCorrupt


def write_mat(path: Path, count: int = 12, **changes: Any) -> np.ndarray:
    pixels = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    content = {"X": pixels, "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]} | changes
    path.parent.mkdir(exist_ok=True)
    scipy.io.savemat(path, {name: value for name, value in content.items() if value is not None}, do_compression=True)
    return pixels


def test_both_files_are_read_and_ten_means_the_digit_zero(tmp_path: Path) -> None:
    pixels = write_mat(tmp_path / "svhn" / "train_32x32.mat")
    write_mat(tmp_path / "svhn" / "test_32x32.mat", 11)
    dataset = load("SVHN", tmp_path)
    assert dataset.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert dataset.images.shape == (12, 3, 32, 32)
    assert dataset.images[7, 2, 5, 9] == pixels[5, 9, 2, 7]
    assert dataset.images.is_contiguous()
    assert dataset.test_images is not None
    assert len(dataset.test_images) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "should hold X"),
        ({"X": np.zeros((32, 32, 3, 12))}, r"X should be uint8 \[32, 32, 3, N\], but is float64"),
        ({"X": np.zeros((12, 32, 32, 3), np.uint8)}, r"but is uint8 \[12, 32, 32, 3\]"),
        ({"y": np.ones((5, 1), np.uint8)}, "y should hold 12 whole numbers"),
        ({"y": np.zeros((12, 1), np.uint8)}, r"y should lie in 1\.\.10, but reaches from 0 to 0"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_mat(tmp_path / "train_32x32.mat", **changes)
    with pytest.raises(DataCorrupt, match=f"train_32x32.mat.*{message}"):
        read_mat(tmp_path / "train_32x32.mat")


@pytest.mark.parametrize("keep", [0, 60, 200, 2000])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "train_32x32.mat"
    write_mat(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataCorrupt, match=r"train_32x32\.mat"):
        read_mat(path)
