"""A person with a spreadsheet, from the first question to the last answer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from robal.data import Data
from robal.errors import AwaitingLabels, InputError, RunFolderError
from robal.images import InMemory
from robal.oracles import ALIASES, CSVFile, Oracle
from robal.oracles.csv_file import read_rows
from robal.plans import known
from robal.pool import NONE_OF_THESE, SKIPPED, Pool

CLASSES = ("cat", "dog", "7")
POOL = Pool.unlabelled(InMemory(torch.zeros(30, 1, 1, 1)), CLASSES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def ask(path: Path, *indices: int) -> list[int]:
    answers: Tensor = CSVFile(str(path))(POOL, torch.tensor(indices), seed=0)
    assert answers.dtype == torch.int64
    return answers.tolist()


def test_the_oracles_are_found_by_their_export() -> None:
    assert set(known(Oracle)) == {"CSVFile", "Hidden", "LabelStudio", "Page"}
    assert set(ALIASES.values()) <= set(known(Oracle))
    assert CSVFile() == CSVFile("")


def test_a_whole_life(path: Path) -> None:
    with pytest.raises(
        AwaitingLabels,
        match=r"3 of 3 images wait for a label: fill in the column `label` of .*labels\.csv "
        r"\(cat, dog, 7; or skip, none\), then `robal resume`",
    ):
        ask(path, 12, 3, 25)
    assert path.read_text() == "index,label\n12,\n3,\n25,\n"

    path.write_text("index,label\n12,dog\n3,\n25,skip\n")
    with pytest.raises(AwaitingLabels, match="1 of 3 images wait"):
        ask(path, 12, 3, 25)
    assert path.read_text() == "index,label\n12,dog\n3,\n25,skip\n"  # nothing new to write, nothing written

    path.write_text("index,label\n25,skip\n12,dog\n3, cat \n")
    assert ask(path, 12, 3, 25) == [1, 0, SKIPPED]

    with pytest.raises(AwaitingLabels, match="2 of 2 images wait"):
        ask(path, 4, 9)
    assert path.read_text() == "index,label\n25,skip\n12,dog\n3,cat\n4,\n9,\n"
    path.write_text(path.read_text().replace("4,", "4,none").replace("9,", "9,0"))
    assert ask(path, 4, 9) == [NONE_OF_THESE, 0]
    assert ask(path, 3, 12) == [0, 1]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cat", 0),
        ("7", 2),  # a class is so called
        ("1", 1),
        ("skip", SKIPPED),
        ("SKIP", SKIPPED),
        ("None", NONE_OF_THESE),
        ('"dog"', 1),
    ],
)
def test_labels_are_names_or_numbers_or_one_of_two_words(path: Path, text: str, label: int) -> None:
    path.write_text(f"index,label\n5,{text}\n")
    assert ask(path, 5) == [label]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dgo", r"labels\.csv, image 5: 'dgo' is no class; did you mean 'dog'\?"),
        ("Cat", r"'Cat' is no class; did you mean 'cat'\?"),
        ("3", r"'3' is no class; known: 7, cat, dog, none, skip"),
        ("-1", "'-1' is no class"),
        ("²", "'²' is no class"),
    ],
)
def test_a_label_that_is_no_class_is_refused_with_its_image_and_a_hint(path: Path, text: str, message: str) -> None:
    path.write_text(f"index,label\n5,{text}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        ask(path, 5)


def test_a_file_from_a_spreadsheet_may_begin_with_a_mark(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfindex,label\r\n5,dog\r\n6,cat\r\n")
    assert ask(path, 6, 5) == [0, 1]


def test_files_are_named_beside_their_label(path: Path) -> None:
    path.write_text("index,label,note\n2,dog,clear\n99,dog,\n")
    pool = Pool.unlabelled(InMemory(torch.zeros(3, 1, 2, 2), ("a.png", "b.png", "c.png")), ("cat", "dog"))
    for _ in range(2):
        with pytest.raises(AwaitingLabels):
            CSVFile(str(path))(pool, torch.tensor([2, 0]), 0)
        assert path.read_text() == "index,file,label,note\n2,c.png,dog,clear\n99,,dog,\n0,a.png,,\n"


def test_a_column_of_files_that_a_person_filled_in_stays(path: Path) -> None:
    path.write_text("index,label,file\n2,dog,scan\n1,dog,\n")
    pool = Pool.unlabelled(InMemory(torch.zeros(3, 1, 2, 2), ("a.png", "b.png", "c.png")), ("cat", "dog"))
    with pytest.raises(AwaitingLabels):
        CSVFile(str(path))(pool, torch.tensor([0]), 0)
    assert path.read_text() == "index,file,label\n2,scan,dog\n1,b.png,dog\n0,a.png,\n"


def test_columns_that_a_person_added_stay(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfnote,label,index\r\nclear,dog,5\r\n,,6\r\n")
    assert ask(path, 5) == [1]
    with pytest.raises(AwaitingLabels):
        ask(path, 5, 6, 8)
    assert path.read_text() == "index,label,note\n5,dog,clear\n6,,\n8,,\n"
    assert ask(path, 5) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"index;label\r\n5;dog\r\n", r"needs the columns index and label; it has \['index;label'\]"),
        (b"", "needs the columns index and label; it has None"),
        (b"index,label\n5,dog\nsix,cat\n", r"labels\.csv, line 3: 'six' is no image index"),
        (b"index,label\n-5,dog\n", "line 2: '-5' is no image index"),
        (b"label,index\ncat\n", "line 2: None is no image index"),
        ("index,label\n5,K\u00e4fer\n".encode("latin-1"), "is not written in UTF-8: save it as CSV UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_left_as_it_is(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        ask(path, 5, 6)
    assert path.read_bytes() == content


def test_answers_about_other_images_are_kept_also_when_they_are_not_asked_for(path: Path) -> None:
    path.write_text("index,label\n1,cat\n2,dog\n")
    with pytest.raises(AwaitingLabels, match="1 of 2 images"):
        ask(path, 2, 3)
    assert path.read_text() == "index,label\n1,cat\n2,dog\n3,\n"


def test_a_disk_that_is_full_costs_nothing_that_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    path.write_text("index,label\n1,cat\n")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"labels\.csv could not be written: .*no space left"):
        ask(path, 1, 2)
    assert path.read_text() == "index,label\n1,cat\n"
    assert list(path.parent.iterdir()) == [path]


def test_any_file_name_fits_into_the_list(path: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, a carriage return, commas and quotes; the list can be read again."""
    names = [b"caf\xe9.png", b"car\rriage.png", b'a, "b".png', "Käfer\u202f1.png".encode()]
    for name in names:
        Image.new("L", (2, 2)).save(tmp_path / os.fsdecode(name))
    images = Data.from_folder(tmp_path, classes=("cat", "dog")).images
    pool = Pool.unlabelled(images, ("cat", "dog"))
    with pytest.raises(AwaitingLabels):
        CSVFile(str(path))(pool, torch.arange(4), 0)
    assert read_rows(path) == [(index, "") for index in range(4)]
    text = path.read_text(encoding="utf-8")
    assert "caf\\udce9.png" in text
    assert "Käfer\u202f1.png" in text  # as it is, for a person to find
    with pytest.raises(AwaitingLabels, match="4 of 4"):
        CSVFile(str(path))(pool, torch.arange(4), 0)
