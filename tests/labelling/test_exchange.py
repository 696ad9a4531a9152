"""Labels out of a run and into it: CSV, JSON, folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from serving import asking, labels_of, say

from robal.errors import InputError, RunFolderError
from robal.folder import RunFolder
from robal.labelling import exported, taken_in
from robal.pool import NONE_OF_THESE, SKIPPED
from tiny_runs import main_ends


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_csv_file_goes_round(folder: Path, tmp_path: Path) -> None:
    images = asking(folder, "start.labels=40")
    say(folder, dict(zip(images[:4], (3, SKIPPED, NONE_OF_THESE, 5), strict=True)))
    RunFolder(folder).judgements.add_class(tuple("0123456789"), "smudge, large", 0, "Ada")
    say(folder, {images[4]: 10})
    out = tmp_path / "labels.csv"
    assert exported(folder, out).startswith("5 of 40")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows[:6]] == ["3", "skip", "none", "5", "smudge, large", ""]
    assert [int(row["index"]) for row in rows] == images
    assert [rows[0]["who"], rows[5]["who"]] == ["Ada", ""]
    assert "5 labels taken" in taken_in(folder, out, "Bert")
    assert "0 labels taken" in taken_in(folder, out, "Bert")
    assert RunFolder(folder).judgements.repeated(images) == 5


def test_json_tells_everything(folder: Path, tmp_path: Path) -> None:
    images = asking(folder, "start.labels=40")
    for label in (3, None, 4):
        say(folder, {images[0]: label}, guess_seen=label == 4)
    main_ends(["labels", "export", str(folder), str(tmp_path / "labels.json")])
    found = json.loads((tmp_path / "labels.json").read_text())
    first = found["images"][0]
    assert (first["label"], first["who"]) == ("4", "Ada")
    assert [(one["label"], one["guess_seen"]) for one in first["judgements"]] == [
        ("3", False),
        (None, False),
        ("4", True),
    ]
    assert all(one["at"].endswith("+00:00") for one in first["judgements"])


def test_images_sorted_by_hand(folder: Path, tmp_path: Path) -> None:
    images = asking(folder, "start.labels=40")
    say(folder, {images[0]: 7})
    out = tmp_path / "sorted"
    main_ends(["labels", "export", str(folder), str(out)])
    assert (out / "7" / f"{images[0]}.png").exists()
    with Image.open(out / f"{images[1]}.png") as picture:
        assert picture.size == (28, 28)
    with pytest.raises(RunFolderError, match="not empty"):
        exported(folder, out)
    (out / "2").mkdir()
    (out / f"{images[1]}.png").rename(out / "2" / f"{images[1]}.png")
    main_ends(["labels", "import", str(folder), str(out), "--who", "Ada"])
    assert labels_of(folder, images)[:3] == [7, 2, -99]
    (out / "3").mkdir()
    (out / "3" / f"{images[1]}.png").write_bytes((out / "2" / f"{images[1]}.png").read_bytes())
    with pytest.raises(InputError, match="two class folders"):
        taken_in(folder, out, "Ada")


def test_what_cannot_be_taken(folder: Path, tmp_path: Path) -> None:
    images = asking(folder, "start.labels=40")
    path = tmp_path / "labels.csv"
    path.write_text(f"index,label\n{images[0]},trhee\n")
    with pytest.raises(InputError, match="'trhee' is no class"):
        taken_in(folder, path, "Ada")
    path.write_text(f"index,label\n{images[0]},3\n{max(images) + 1},4\n")
    assert "1 of images not asked about now" in taken_in(folder, path, "Ada")
    with pytest.raises(InputError, match="there is no file"):
        taken_in(folder, tmp_path / "nothing.csv", "Ada")
    with pytest.raises(InputError, match=r"name\.csv"):
        exported(folder, tmp_path / "labels.xlsx")
    (tmp_path / "odd" / "3").mkdir(parents=True)
    (tmp_path / "odd" / "3" / "cat.png").write_bytes(b"")
    with pytest.raises(InputError, match="image's number"):
        taken_in(folder, tmp_path / "odd", "Ada")
    assert labels_of(folder, images)[:2] == [3, -99]
