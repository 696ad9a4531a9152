from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, write_small_mnist

from robal.datasets import File, load
from robal.datasets.idx import load_idx, read_idx
from robal.errors import DataCorrupt, DataMissing


def test_an_idx_file_worked_out_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "two-by-three"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255]))
    assert read_idx(path).tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "."])
def test_the_four_files_are_read_from_every_place_packed_or_not(tmp_path: Path, packed: bool, place: str) -> None:
    known, images = write_small_mnist(tmp_path / place, packed=packed)
    dataset = load_idx(known, tmp_path)
    assert torch.equal(dataset.images, torch.from_numpy(images)[:, None])
    assert dataset.labels.tolist() == [n % 10 for n in range(30)]
    assert dataset.test_images is not None
    assert dataset.test_images.shape == (20, 1, 28, 28)
    assert len(dataset.sources) == 4


def test_the_dotted_names_of_some_distributions_are_read(tmp_path: Path) -> None:
    known, _ = write_small_mnist(tmp_path, packed=False)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(load_idx(known, tmp_path)) == 30


@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_idx_file_is_named(tmp_path: Path, packed: bool) -> None:
    raw = idx_bytes(np.random.default_rng(0).integers(0, 256, (5, 28, 28)))
    path = tmp_path / ("images-idx3-ubyte.gz" if packed else "images-idx3-ubyte")
    whole = gzip.compress(raw) if packed else raw
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataCorrupt, match=r"images-idx3-ubyte.* is truncated"):
        read_idx(path)


def test_an_idx_file_that_is_too_long_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(idx_bytes(np.arange(5)) + b"?")
    with pytest.raises(DataCorrupt, match=r"labels is too long: .* \[5\], that is 13 bytes; 14 came"):
        read_idx(tmp_path / "labels")


def test_a_header_that_announces_more_than_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(bytes([0, 0, 8, 4]) + b"\xff" * 16)
    with pytest.raises(DataCorrupt, match="truncated"):
        read_idx(tmp_path / "huge")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"<html>not found</html>", bytes([0, 0, 13, 1, 0, 0, 0, 0]), b"\0\0\x08\x03\0"]
)
def test_what_is_no_idx_file_of_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataCorrupt, match="file is"):
        read_idx(tmp_path / "file")


def test_a_wrong_checksum_says_what_was_expected_what_came_and_what_to_do(tmp_path: Path) -> None:
    known, _ = write_small_mnist(tmp_path)
    with (tmp_path / known.files[3].name).open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(DataCorrupt) as caught:
        load_idx(known, tmp_path)
    message = str(caught.value)
    assert known.files[3].md5 is not None
    assert known.files[3].md5 in message
    assert "t10k-labels-idx1-ubyte.gz of mnist" in message
    assert "robal data fetch mnist" in message


def test_files_under_the_name_of_mnist_are_checked_against_its_official_md5s(tmp_path: Path) -> None:
    write_small_mnist(tmp_path / "mnist")
    with pytest.raises(DataCorrupt, match="f68b3c2dcbeaaa9fbdd348bbdeb94873"):
        load("mnist", tmp_path)


def test_missing_files_are_named_with_the_places_and_the_command(tmp_path: Path) -> None:
    known, _ = write_small_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / known.files[1].name).unlink()
    with pytest.raises(DataMissing) as caught:
        load_idx(known, tmp_path)
    message = str(caught.value)
    assert "lacks train-labels-idx1-ubyte.gz;" in message
    assert str(tmp_path / "mnist") in message
    assert f"`robal data fetch mnist --data {tmp_path}`" in message


def test_images_and_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    known, _ = write_small_mnist(tmp_path, packed=False)
    known = replace(known, files=tuple(File(file.name) for file in known.files))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(9))))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((8, 28, 28)))))
    for file in known.files[2:]:
        (tmp_path / file.name).write_bytes(gzip.compress((tmp_path / file.name.removesuffix(".gz")).read_bytes()))
    with pytest.raises(DataCorrupt, match=r"\[8, 28, 28\] and \[9\]"):
        load_idx(known, tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(8) + 3)))
    with pytest.raises(DataCorrupt, match=r"the label 10; labels should lie in \[0, 10\)"):
        load_idx(known, tmp_path)
