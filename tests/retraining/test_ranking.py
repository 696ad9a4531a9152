"""`robal rank` on a user's own network and folder: orders, files, figures, and what it refuses."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_model
from small_networks import SMALL, build

from robal.cli import main
from robal.datasets import load
from robal.errors import InputError
from robal.pool_files import build_pool
from robal.retraining import apfd, rank_from_files

NAMES = ",".join("0123456789")


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def rank(*further: str) -> None:
    model = () if "--model" in further else ("--model", SMALL)
    with pytest.raises(SystemExit) as stop:
        main(["rank", *model, "--weights", "weights.safetensors", "--resize", "8", *further])
    if stop.value.code != 0:
        raise stop.value


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_order_is_that_of_the_score_and_faults_are_marked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rank("--images", "new", "--classes", NAMES)
    found = rows(here / "order.csv")
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)
    assert sorted(int(row["index"]) for row in found) == list(range(80))
    model = build((1, 8, 8), 10)
    load_model(model, str(here / "weights.safetensors"))
    for row in found:
        with Image.open(here / "new" / row["file"]) as picture:
            pixels = torch.from_numpy(np.array(picture)).view(1, 1, 8, 8) / 255
        probs = model(pixels).softmax(1)[0]
        assert float(row["score"]) == pytest.approx(1 - probs.square().sum().item(), abs=1e-4)
        assert row["predicted"] == str(int(probs.argmax()))
        assert row["true"] == Path(row["file"]).parent.name
        assert row["fault"] == str(int(row["true"] != row["predicted"]))
    faults = torch.tensor([row["fault"] == "1" for row in found])
    said = capsys.readouterr().out
    assert f"{int(faults.sum())} faults in 80 labelled images" in said
    assert f"APFD {apfd(faults):.3f}" in said
    assert (apfd(faults) or 0) > 0.6
    for name in ("order.png", "order-faults.png"):
        with Image.open(here / name) as picture:
            assert min(picture.size) > 60


@pytest.mark.parametrize("stored", ["a folder", "a pool on disk"])
def test_a_test_split_of_files_is_ordered_with_their_names(here: Path, stored: str) -> None:
    for split in ("train", "test"):
        for label in range(10):
            (here / f"both/{split}/{label}").mkdir(parents=True)
            pixels = np.random.default_rng([label, split == "test"]).integers(0, 255, (8, 8), "uint8")
            Image.fromarray(pixels).save(here / f"both/{split}/{label}/one.png")
    images = "both"
    if stored == "a pool on disk":
        build_pool("both", here / "both.parquet")
        images = "both.parquet"
    size = ["--resize", "8"] if images == "both" else []
    with pytest.raises(SystemExit) as stop:
        main(["rank", "--model", SMALL, "--weights", "weights.safetensors", *size, "--images", images])
    assert stop.value.code == 0
    found = rows(here / "order.csv")
    assert {row["file"] for row in found} == {f"test/{label}/one.png" for label in range(10)}
    assert all(row["file"] == f"test/{row['true']}/one.png" for row in found)


def test_equal_commands_give_equal_files_and_another_seed_another_random_order(here: Path) -> None:
    for name, seed in (("a.csv", "0"), ("b.csv", "0"), ("c.csv", "1")):
        rank("--images", "held.npz", "--by", "Random", "--seed", seed, "--out", name)
    first, again, other = ((here / name).read_bytes() for name in ("a.csv", "b.csv", "c.csv"))
    assert first == again != other


@pytest.mark.parametrize("by", ["DistanceSurprise", "LSA", "CoreSet", "KMST", "Margin", "{name: DRE, bins: 5}"])
def test_any_acquisition_function_orders(here: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    rank("--images", "held.npz", "--by", by, "--train", "old.npz", "--threat", "linf:0.1")
    is_score = by in ("DistanceSurprise", "LSA", "Margin")
    assert ("a choice of all at once, whose order says little" in capsys.readouterr().out) is not is_score
    assert sorted(int(row["index"]) for row in rows(here / "order.csv")) == list(range(80))


def test_what_was_trained_on_is_compared_with(here: Path) -> None:
    settings: dict[str, Any] = {"weights": here / "weights.safetensors", "by": "DSA", "resize": 8}
    with pytest.raises(InputError, match="DistanceSurprise compares with what the model was trained on: give --train"):
        rank_from_files(SMALL, "held.npz", here / "a.csv", **settings)
    beside = rank_from_files(SMALL, "held.npz", here / "b.csv", train="old.npz", **settings)
    assert beside.scores is not None
    assert beside.scores[0] > beside.scores[-1] > 0


def test_labels_of_a_person_are_added_and_never_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = np.load("held.npz")
    partly = np.where(np.arange(80) < 40, held["labels"], -1)
    np.savez(here / "partly.npz", images=held["images"], labels=partly)
    (here / "mine.csv").write_text(f"index,label\n50,{held['labels'][50]}\n51,{held['labels'][51]}\n")
    rank("--images", "partly.npz", "--labelled", "mine.csv")
    assert sum(row["true"] != "" for row in rows(here / "order.csv")) == 42
    before = (here / "mine.csv").read_bytes()
    for further in (("--labelled", "mine.csv"), ()):
        with pytest.raises(SystemExit):
            rank("--images", "partly.npz", *further, "--out", "mine.csv")
        assert "mine.csv holds no order of images, and would be lost" in capsys.readouterr().err
    assert (here / "mine.csv").read_bytes() == before
    (here / "mine.csv").write_text(f"index,label\n0,{(held['labels'][0] + 1) % 10}\n")
    with pytest.raises(SystemExit):
        rank("--images", "partly.npz", "--labelled", "mine.csv")
    assert "image 0 is " in capsys.readouterr().err


def test_without_labels_there_is_an_order_and_no_figure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rank("--images", "flat", "--classes", "10")
    assert "80 images ordered by DeepGini" in capsys.readouterr().out
    assert {row["fault"] for row in rows(here / "order.csv")} == {""}
    assert not (here / "order-faults.png").exists()
    (here / "some.csv").write_text("index,label\n3,4\n5,skip\n7,1\n")
    rank("--images", "flat", "--classes", "10", "--labelled", "some.csv")
    assert sum(row["true"] != "" for row in rows(here / "order.csv")) == 2
    assert "in 2 labelled images" in capsys.readouterr().out


def test_labels_filled_in_are_read_and_not_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rank("--images", "held.npz")  # its picture of faults is of another order than the next one
    assert (here / "order-faults.png").exists()
    rank("--images", "flat", "--classes", "10")
    assert not (here / "order-faults.png").exists()
    found = rows(here / "order.csv")
    with (here / "order.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, found[0].keys())
        writer.writeheader()
        writer.writerows([{**row, "label": (int(row["predicted"]) + at) % 10} for at, row in enumerate(found[:3])])
        writer.writerows(found[3:])
    filled = (here / "order.csv").read_bytes()
    with pytest.raises(SystemExit):
        rank("--images", "flat", "--classes", "10")
    assert "order.csv holds labels, which would be lost" in capsys.readouterr().err
    assert (here / "order.csv").read_bytes() == filled
    rank("--images", "flat", "--classes", "10", "--labelled", "order.csv", "--out", "faults.csv")
    assert [row["fault"] for row in rows(here / "faults.csv")] == ["0", "1", "1", *[""] * 77]
    assert all(row["label"] == row["true"] for row in rows(here / "faults.csv"))
    assert "2 faults in 3 labelled images; APFD is of all images, and 77 have no label" in capsys.readouterr().out
    assert not (here / "faults-faults.png").exists()
    rank("--images", "flat", "--classes", "10", "--labelled", "order.csv", "--out", "faults.csv")  # its own file again
    with pytest.raises(SystemExit):  # without those labels
        rank("--images", "flat", "--classes", "10", "--out", "faults.csv")
    found = rows(here / "faults.csv")
    found[0]["label"] = str((int(found[0]["label"]) + 5) % 10)
    with (here / "faults.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, found[0].keys())
        writer.writeheader()
        writer.writerows(found)
    with pytest.raises(SystemExit):  # a label that was corrected there, its fault filled in
        rank("--images", "flat", "--classes", "10", "--labelled", "order.csv", "--out", "faults.csv")
    assert rows(here / "faults.csv")[0]["label"] == found[0]["label"]


def test_what_a_person_cannot_tell_is_kept_and_is_in_no_figure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "said.csv").write_text("index,label\n3,none\n5,skip\n7,1\n")
    for _ in range(2):  # the second time over its own file
        rank("--images", "flat", "--classes", "10", "--labelled", "said.csv", "--out", "faults.csv")
        assert "left out of these figures: 2 that --labelled says skip or none of" in capsys.readouterr().out
    said = {row["index"]: (row["label"], row["true"], row["fault"] != "") for row in rows(here / "faults.csv")}
    assert [said[index] for index in ("3", "5", "7")] == [("none", "", False), ("skip", "", False), ("1", "1", True)]


def test_folders_that_are_no_classes_are_refused_or_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = sorted((here / "flat").iterdir())
    for folder, picture in (("3", pictures[0]), ("7", pictures[1]), ("cat", pictures[2])):
        (here / "strange" / folder).mkdir(parents=True)
        shutil.copy(picture, here / "strange" / folder)
    with pytest.raises(SystemExit):
        rank("--images", "strange", "--classes", "10")
    assert "cat is no class" in " ".join(capsys.readouterr().err.split())
    for folder, name in (("3", "Three"), ("7", "Seven")):
        (here / "strange" / folder).rename(here / "strange" / name)
    rank("--images", "strange", "--classes", "10")
    said = capsys.readouterr()
    assert (
        "none of its folders (cat, Seven, Three) is a class (0, 1, 2, …): its images are taken" in said.out + said.err
    )


def test_outputs_in_another_order_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "zero,one,two,three,four,five,six,seven,eight,nine"
    for label, word in enumerate(words.split(",")):
        shutil.copytree(here / "new" / str(label), here / "named" / word)
    rank("--images", "flat", "--classes", words)
    names = words.split(",")
    others = [(row["index"], names[(names.index(row["predicted"]) + 1) % 10]) for row in rows(here / "order.csv")]
    (here / "said.csv").write_text("\n".join(["index,label", *map(",".join, others)]))
    rank("--images", "flat", "--classes", words, "--labelled", "said.csv", "--out", "faults.csv")
    assert "says it" not in capsys.readouterr().err  # what a person labelled may be the faults alone
    for further, is_said in (((), True), (("--classes", words), False)):
        rank("--images", "named", *further)
        assert (f"--classes {words} says it" in " ".join(capsys.readouterr().err.split())) == is_said


def test_a_picture_of_another_list_is_left_alone(here: Path) -> None:
    rank("--images", "flat", "--classes", "10", "--out", "order-faults.csv")
    sheet = (here / "order-faults.png").read_bytes()
    for _ in range(2):
        rank("--images", "flat", "--classes", "10", "--out", "order.csv")
    assert (here / "order-faults.png").read_bytes() == sheet


@pytest.mark.parametrize("by", ["Margin", "KMST", "BEST"])
def test_the_first_few_are_asked_for_alone(here: Path, capsys: pytest.CaptureFixture[str], by: str) -> None:
    rank("--images", "held.npz", "--by", by, "--threat", "linf:0.1", "--out", "all.csv")
    capsys.readouterr()
    rank("--images", "held.npz", "--by", by, "--threat", "linf:0.1", "--first", "8", "--out", "few.csv")
    few, every = rows(here / "few.csv"), rows(here / "all.csv")
    faults = sum(row["fault"] == "1" for row in few)
    said = capsys.readouterr().out
    assert len(few) == 8
    assert f"{faults} faults in 8 labelled images; APFD is of all images" in said or not faults
    assert "try --first" not in said
    assert not (here / "few-faults.png").exists()
    if by == "Margin":
        assert [row["index"] for row in few] == [row["index"] for row in every[:8]]
    else:  # a half of BEST's and a quarter of KMST's eight have the highest of first-order losses
        place = {int(row["index"]): at for at, row in enumerate(_by_first_order_loss(here))}
        places = sorted(place[int(row["index"])] for row in few)
        assert places == [0, 1, 2, 3, 76, 77, 78, 79] if by == "BEST" else min(places) < 40 <= max(places)


def _by_first_order_loss(here: Path) -> list[dict[str, str]]:
    rank("--images", "held.npz", "--by", "FirstOrderLoss", "--threat", "linf:0.1", "--out", "fol.csv")
    return rows(here / "fol.csv")


def test_images_in_colours_are_made_grey_for_a_grey_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = np.load("held.npz")
    np.savez(here / "colours.npz", images=np.repeat(held["images"][:, None], 3, 1), labels=held["labels"])
    rank("--images", "held.npz", "--train", "old.npz", "--out", "grey.csv")
    rank("--images", "colours.npz", "--train", "old.npz", "--out", "colours.csv")
    assert rows(here / "colours.csv") == rows(here / "grey.csv")
    for number, image in enumerate(np.load("colours.npz")["images"][:4]):
        (here / "in-colours").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, 2))).save(here / f"in-colours/{number}.png")
    build_pool("in-colours", here / "colours.parquet")
    with pytest.raises(SystemExit):
        main(["rank", "--model", SMALL, "--images", "colours.parquet", "--train", "old.npz"])
    assert "the images of old have 1 channels, those to order 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rank("--images", "colours.npz")
    assert "the file's network takes images of another size (--resize" in capsys.readouterr().err


def test_the_order_of_folders_is_said_where_others_sort_otherwise(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rank("--images", "new")
    assert "outputs are taken" not in capsys.readouterr().err
    order = ["eel", "ant", "cat", "Dog", "bee", "fox", "gnu", "hen", "ibis", "jay"]
    for label in range(10):
        (here / "new" / str(label)).rename(here / "new" / order[label])
    rank("--images", "new")
    natural = ", ".join(sorted(order, key=str.lower))
    assert sorted(order)[0] == "Dog"
    assert f"the model's outputs are taken to be {natural}; where" in " ".join(capsys.readouterr().err.split())


def test_the_same_images_by_another_name_are_those_trained_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rank("--images", "Digits", "--train", "digits", "--by", "DSA")
    assert "name others than the model was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (("--images", "held.npz", "--by", "DeepGinni"), "did you mean 'DeepGini'"),
        (("--images", "held.npz", "--out", "order.txt"), "--out names a .csv file"),
        (("--images", "new", "--classes", NAMES, "--out", "new/order.csv"), "lies among the images"),
        (("--images", "nowhere/"), "there is no folder nowhere"),
        (("--images", "old.npz", "--train", "old.npz"), "name others than the model was trained on by --images"),
        (
            ("--images", "./old.npz", "--train", "new/../old.npz"),
            "name others than the model was trained on by --images",
        ),
        (("--images", "held.npz", "--by", "EntropyMix"), "EntropyMix needs teacher beside the model"),
        (("--images", "held.npz", "--model", "LeNet5"), "LeNet5 takes images of at least 16x16, got 8x8"),
        (("--images", "heap.npz"), "names no classes: give --classes 10"),
        (("--images", "held.npz", "--labelled", "semicolons.csv"), "semicolons.csv needs the columns index and label"),
        (("--images", "held.npz", "--labelled", "latin.csv"), "latin.csv is not written in UTF-8"),
        (("--images", "held.npz", "--labelled", "commas.csv"), "commas.csv, line 2: '' is no image index"),
        (("--images", "held.npz", "--first", "81"), "--first 81, and held has 80 images to order"),
        (("--images", "held.npz", "--train", "heap.npz"), "heap has no labelled image"),
        (("--images", "held.npz", "--by", "LSA"), "compares with what the model was trained on: give --train"),
    ],
)
def test_what_cannot_be_ordered_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], further: tuple[str, ...], said: str
) -> None:
    (here / "semicolons.csv").write_text("index;file;label\n1;a;3\n")
    (here / "latin.csv").write_bytes("index,file,label\n1,a,B\xe4r\n".encode("latin-1"))
    (here / "commas.csv").write_text("index,file,label\n,,\n")
    with pytest.raises(SystemExit) as stop:
        rank(*further)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_it_takes_little_more_than_the_forward_passes(here: Path) -> None:
    """The bound is loose for a machine at work; `benchmarks/retraining.py` measures 60,000 images."""
    from robal.networks import LeNet5

    digits, model = load("digits"), LeNet5()((1, 28, 28), 10, 0).eval()
    started = time.perf_counter()
    with torch.no_grad():
        for part in digits.images.split(256):
            model(part.float() / 255)
    passes = time.perf_counter() - started
    started = time.perf_counter()
    rank_from_files("LeNet5", "digits", here / "all.csv")
    assert time.perf_counter() - started < 10 * passes + 2
