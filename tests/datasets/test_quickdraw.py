from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robal.datasets import load, present
from robal.datasets.quickdraw import read_bitmaps
from robal.errors import DataCorrupt, DataMissing, InputError


def write_sketches(folder: Path, **counts: int) -> None:
    folder.mkdir(exist_ok=True)
    for number, (name, count) in enumerate(counts.items()):
        np.save(
            folder / f"{name}.npy",
            np.full((count, 784), 10 * number, dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None],
        )


def test_the_first_80_percent_of_every_class_are_for_training(tmp_path: Path) -> None:
    write_sketches(tmp_path / "quickdraw", fish=10, cat=5)
    dataset = load("quick-draw", tmp_path)
    assert dataset.classes == ("cat", "fish")
    assert dataset.labels.tolist() == [0] * 4 + [1] * 8
    assert dataset.images[:, 0, 0, 0].tolist() == [10, 11, 12, 13, *range(8)]
    assert dataset.test_images is not None
    assert dataset.test_labels is not None
    assert dataset.test_labels.tolist() == [0, 1, 1]
    assert dataset.test_images[:, 0, 0, 0].tolist() == [14, 8, 9]


def test_chosen_classes_keep_their_order(tmp_path: Path) -> None:
    write_sketches(tmp_path / "quickdraw", cat=5, eye=5, fish=5)
    dataset = load("quickdraw:fish,cat", tmp_path)
    assert dataset.classes == ("fish", "cat")
    assert present("quickdraw:fish,cat", tmp_path) == "here"


def test_a_chosen_class_that_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    write_sketches(tmp_path / "quickdraw", cat=5, eye=5)
    with pytest.raises(DataMissing, match=r"quickdraw lacks dog.npy; .*robal data fetch quickdraw:cat,dog"):
        load("quickdraw:cat,dog", tmp_path)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    write_sketches(tmp_path / "quickdraw", cat=5, eye=5)
    with pytest.raises(InputError, match="at least two classes"):
        load("quickdraw:cat", tmp_path)


def test_the_flat_and_the_one_channel_form_are_the_same(tmp_path: Path) -> None:
    sketches = np.random.default_rng(0).integers(0, 256, (6, 784), dtype=np.uint8)
    np.save(tmp_path / "flat.npy", sketches)
    np.save(tmp_path / "deep.npy", sketches[:, None])
    assert read_bitmaps(tmp_path / "flat.npy").equal(read_bitmaps(tmp_path / "deep.npy"))
    assert read_bitmaps(tmp_path / "flat.npy")[2, 0, 3, 4] == sketches[2, 3 * 28 + 4]


@pytest.mark.parametrize("array", [np.zeros((5, 783), np.uint8), np.zeros((5, 784)), np.zeros((1, 784), np.uint8)])
def test_a_file_of_another_form_is_named(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "cat.npy", array)
    with pytest.raises(DataCorrupt, match=r"cat.npy should be uint8 \[N, 784\]"):
        read_bitmaps(tmp_path / "cat.npy")


def test_truncated_and_pickled_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    np.save(tmp_path / "whole.npy", np.zeros((5, 784), np.uint8))
    (tmp_path / "half.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:2000])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("objects", "half", "empty"):
        with pytest.raises(DataCorrupt, match=f"{name}.npy"):
            read_bitmaps(tmp_path / f"{name}.npy")
