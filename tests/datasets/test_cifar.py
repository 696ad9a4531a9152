from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robal.datasets import File, Known, find_known
from robal.datasets.cifar import load_cifar, read_batch, read_pickle
from robal.errors import DataCorrupt

BATCH = Path("data_batch_1")


def a_batch(rows: int = 20, offset: int = 0) -> tuple[bytes, np.ndarray, list[int]]:
    pixels = np.random.default_rng(offset).integers(0, 256, (rows, 3072), dtype=np.uint8)
    labels = [(n + offset) % 10 for n in range(rows)]
    return pickle.dumps({b"data": pixels, b"labels": labels, b"batch_label": b"a batch"}, protocol=3), pixels, labels


def python_2_batch(pixels: bytes, labels: list[int]) -> bytes:
    """The opcodes that Python 2 wrote in 2009: byte strings, numpy.core.multiarray, dtype u1."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    rows = len(labels)
    state = (
        b"(K\x01(K" + bytes([rows]) + b"M\x00\x0ct" + dtype_of_python_2() + b"\x89T" + len(pixels).to_bytes(4, "little")
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR" + state + pixels + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def dtype_of_python_2() -> bytes:
    return b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def write_small_cifar(folder: Path) -> Known:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, file in enumerate(find_known("cifar10").files):
        data = pickle.dumps({}, protocol=2) if file.name == "batches.meta" else a_batch(offset=number)[0]
        (folder / file.name).write_bytes(data)
        files.append(File(file.name, hashlib.md5(data).hexdigest()))
    return replace(find_known("cifar10"), files=tuple(files))


def test_a_batch_as_python_2_wrote_it_is_read() -> None:
    pixels = bytes(range(256)) * 24
    images, labels = read_batch(python_2_batch(pixels, [7, 3]), BATCH)
    assert images.shape == (2, 3, 32, 32)
    assert images.flatten().tolist() == list(pixels)
    assert labels.tolist() == [7, 3]
    by_numpy: Any = pickle.loads(
        python_2_batch(pixels, [7, 3]).replace(b"numpy.core", b"numpy._core"), encoding="bytes"
    )
    assert np.array_equal(images.numpy().reshape(2, -1), by_numpy[b"data"])


def test_rows_are_red_then_green_then_blue() -> None:
    data, pixels, labels = a_batch()
    images, found = read_batch(data, BATCH)
    assert found.tolist() == labels
    assert images[4, 1, 2, 3] == pixels[4, 1024 + 2 * 32 + 3]


def test_all_batches_are_joined_in_order(tmp_path: Path) -> None:
    known = write_small_cifar(tmp_path / "cifar10" / "cifar-10-batches-py")
    dataset = load_cifar(known, tmp_path)
    assert dataset.images.shape == (100, 3, 32, 32)
    assert dataset.labels[:100:20].tolist() == [0, 1, 2, 3, 4]
    assert dataset.test_labels is not None
    assert dataset.test_labels[0] == 5
    assert dataset.classes[0] == "airplane"
    assert len(dataset.sources) == 7


def test_the_archive_is_read_without_being_unpacked(tmp_path: Path) -> None:
    known = write_small_cifar(tmp_path / "elsewhere" / "cifar-10-batches-py")
    unpacked = load_cifar(known, tmp_path / "elsewhere")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "elsewhere" / "cifar-10-batches-py", "cifar-10-batches-py")
    packed = load_cifar(known, tmp_path)
    assert torch.equal(packed.images, unpacked.images)
    assert torch.equal(packed.labels, unpacked.labels)
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataCorrupt, match=r"cifar-10-python.tar.gz is truncated"):
        load_cifar(known, tmp_path)


def test_an_archive_without_a_batch_is_refused(tmp_path: Path) -> None:
    known = write_small_cifar(tmp_path / "elsewhere")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "elsewhere" / "data_batch_1", "cifar-10-batches-py/data_batch_1")
    with pytest.raises(DataCorrupt, match=r"lacks batches\.meta, data_batch_2"):
        load_cifar(known, tmp_path)


def test_a_batch_with_another_checksum_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    known = write_small_cifar(tmp_path / "cifar10")
    (tmp_path / "cifar10" / "data_batch_3").write_bytes(b"no pickle at all")
    with pytest.raises(DataCorrupt, match="data_batch_3 is not the data_batch_3 of cifar10: its md5 should be"):
        load_cifar(known, tmp_path)


class _Evil:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.mkdir, eval, np.load, np.memmap])
def test_a_malicious_pickle_is_refused_and_nothing_is_run(tmp_path: Path, function: Any, protocol: int) -> None:
    target = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(target)!r})" if function is eval else str(target)
    arguments = (argument, "uint8", "w+", 0, 4) if function is np.memmap else (argument,)
    pickled = pickle.dumps({b"data": _Evil(function, *arguments)}, protocol=protocol)
    with pytest.raises(DataCorrupt, match="nothing was run"):
        read_batch(pickled, BATCH)
    assert not target.exists()
    if function is os.mkdir:
        pickle.loads(pickled)
        assert target.exists(), "the pickle is harmless, so this test shows nothing"


@pytest.mark.parametrize(
    "line",
    [
        "cos\nsystem",
        "cbuiltins\ngetattr",
        "cnumpy\nload",
        "cnumpy.core.multiarray\nset_string_function",
        "cnumpy\ndtype.type",
    ],
)
def test_no_global_but_the_three_of_an_array_is_found(line: str) -> None:
    with pytest.raises(DataCorrupt, match="which no batch of CIFAR-10 needs"):
        read_pickle(line.encode() + b"\n.", BATCH)


def test_an_array_of_python_objects_is_refused() -> None:
    objects = np.array([_Evil(os.getcwd)], dtype=object)
    with pytest.raises(DataCorrupt, match=r"nothing was run|only unsigned bytes"):
        read_pickle(pickle.dumps({b"data": objects}, protocol=3), BATCH)


def test_an_array_of_other_numbers_is_refused() -> None:
    with pytest.raises(DataCorrupt, match="only unsigned bytes are admitted"):
        read_pickle(pickle.dumps({b"data": np.zeros((2, 3072))}, protocol=3), BATCH)


def test_the_stand_ins_cannot_be_changed_by_a_pickle() -> None:
    with pytest.raises(DataCorrupt):
        read_pickle(b"\x80\x02cnumpy\nndarray\nN}(X\x09\x00\x00\x00to_numpyK\x01u\x86b.", BATCH)
    assert read_batch(a_batch()[0], BATCH)[0].shape == (20, 3, 32, 32)


def test_an_array_that_claims_more_than_it_holds_is_refused() -> None:
    pickled = python_2_batch(bytes(6144), [1, 2]).replace(b"(K\x01(K\x02M", b"(K\x01(K\x03M")
    with pytest.raises(DataCorrupt, match="as many bytes as its shape says"):
        read_batch(pickled, BATCH)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "should hold a dictionary, but holds a list"),
        ({b"labels": [1]}, "should hold `data`"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}, "a list of whole numbers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, r"its array is \[2, 3072\]"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, r"labels from 10 to 10; .* \[0, 10\)"),
    ],
)
def test_a_batch_that_holds_something_else_is_refused(content: Any, message: str) -> None:
    with pytest.raises(DataCorrupt, match=message):
        read_batch(pickle.dumps(content, protocol=3), BATCH)


@pytest.mark.parametrize("keep", [0, 1, 30, 5000])
def test_a_truncated_batch_is_named(keep: int) -> None:
    with pytest.raises(DataCorrupt, match="data_batch_1 is truncated"):
        read_batch(io.BytesIO(a_batch()[0]).read(keep), BATCH)
