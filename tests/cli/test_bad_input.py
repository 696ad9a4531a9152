"""Input that cannot be: one clear sentence, an exit code, no traceback, and a run folder that is none the worse."""

from __future__ import annotations

import gzip
import shutil
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiny_runs import SETTINGS, Apart, hold, outcome, rows

PIXELS = (np.random.default_rng(0).random((60, 28, 28)) * 255).astype("uint8")
LABELS = np.arange(60) % 4
SMALL = ("data.name=images.npz", *SETTINGS, "start.labels=8", "rounds=0", "evaluation.at_end=[]")


def npz(path: Path, **arrays: Any) -> Path:
    """Sixty images of four classes, or what is given in their place."""
    np.savez(path, **({"images": PIXELS, "labels": LABELS} | arrays))
    return path


def nothing_begun(folder: Path) -> bool:
    """No plan is written, so that the next run may have the folder."""
    return not (folder / "plan.yaml").exists() and not (folder / "metrics.jsonl").exists()


# Plans


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["acquisition=Margn"], "acquisition: 'Margn' is unknown; did you mean 'Margin'?"),
        (["recipie.epochs=3"], "recipie: unknown; did you mean 'recipe'?"),
        (["recipe.epochs=many"], "recipe.epochs: "),
        (["recipe.optimiser.lrr=0.1"], "recipe.optimiser.lrr: unknown; did you mean 'lr'?"),
        (["per_round=0"], "needs per_round >= 1"),
        (["rounds=-1"], "rounds >= 0"),
        (["start.labels=1"], "a run starts from at least two labels, or from none; 1 came"),
        (["threat.eps=8"], "Divide by 255 if it counts grey levels"),
        (["validation.bought_share=0.5"], "bought_share in [0, 0.2]"),
        (["evaluation.at_end=[FGSM, FGSM]"], "FGSM is there twice"),
        (["data.name=mnits"], "no data set is called 'mnits'; did you mean 'mnist'?"),
        (["data.name=nowhere/images"], "there is no folder nowhere/images"),
        (["data.name=nowhere.npz"], "there is no file"),
        (["--preset", "dre-mnits"], "no preset is called 'dre-mnits'; did you mean 'dre-mnist'?"),
        (["--preset", "xyzzy"], "known: caat-cifar10, dfal-mnist-lenet5, dre-cifar10-"),
        (["plan.yaml"], "there is no plan file plan.yaml"),
        (["one.yaml", "other.yaml"], "one plan file at a time, not 2 (one.yaml, other.yaml)"),
        (["="], "write key=value"),
        (["validation.images=0", "recipe.keep=best"], 'recipe.keep="best" chooses by validation images'),
        (["rounds=1000"], "and the pool holds 1259 images; lower rounds or per_round"),
        (["network=LeNet5DRE"], "takes 32x32 images, got 28x28: add data.resize=32"),
        (["data.resize=4"], "takes images of at least"),
        (["data.resize=0"], "resize must be at least 1 pixel"),
        (["data.held_out_images=-1"], "held_out_images must be 0 or more"),
        (["data.name=quickdraw:cat"], "cat"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_plan_that_cannot_be_run(robal: Any, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    said = robal("run", *arguments, "--out", "run")
    assert said.code == 2
    assert sentence in said.sentence
    assert nothing_begun(tmp_path / "run")


def test_all_mistakes_of_a_plan_are_told_at_once_a_line_each(robal: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("recipie: {epochs: 3}\nacquisition: Margn\nrounds: many\n", encoding="utf-8")
    said = robal("run", "plan.yaml", "recipe.optimiser.lrr=1", "--out", "run")
    assert said.code == 2
    lines = said.err.splitlines()
    keys = [line.split(":")[1].strip() for line in lines]
    assert sorted(keys) == ["acquisition", "recipe.optimiser.lrr", "recipie", "rounds"]
    assert all(line.startswith("robal: ") for line in lines)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"- 1\n", "must hold a mapping"),
        (b"seed: [1", "is not YAML"),
        (b"\xff\xfe\x00", "should be UTF-8 text"),
    ],
)
def test_a_plan_file_that_is_none(robal: Any, tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "plan.yaml").write_bytes(content)
    said = robal("run", "plan.yaml", "--out", "run")
    assert said.code == 2
    assert sentence in said.sentence


# Files of published data sets


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes of an idx file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype("uint8").tobytes()


def mnist_in(folder: Path) -> Path:
    """Four files with MNIST's names and other contents."""
    (folder / "mnist").mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"mnist/{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS)))
        (folder / f"mnist/{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    return folder


def test_a_file_with_a_wrong_checksum(robal: Any, tmp_path: Path) -> None:
    said = robal("run", "--preset", "dre-mnist", "--data", mnist_in(tmp_path / "sets"), "--out", "run")
    assert said.code == 2
    assert (
        "train-images-idx3-ubyte.gz is not the train-images-idx3-ubyte.gz of mnist: its md5 should be" in said.sentence
    )
    assert "`robal data fetch mnist` gets the right one" in said.sentence
    assert nothing_begun(tmp_path / "run")


@pytest.mark.parametrize("left", [0, 100, 400])
def test_a_truncated_file(robal: Any, tmp_path: Path, left: int) -> None:
    path = mnist_in(tmp_path / "sets") / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:left])
    said = robal("run", "--preset", "dre-mnist", "--data", "sets", "--out", "run")
    assert said.code == 2
    assert str(path) in said.sentence
    assert nothing_begun(tmp_path / "run")


def test_data_list_tells_wrong_files_from_missing_ones(robal: Any, tmp_path: Path) -> None:
    said = robal("data", "list", "--data", mnist_in(tmp_path / "sets"))
    assert said.code == 0
    plain = " ".join(said.out.replace("│", " ").split())
    assert "wrong checksum" in plain
    assert "missing" in plain


def test_data_fetch_of_what_nobody_knows(robal: Any) -> None:
    said = robal("data", "fetch", "mnits")
    assert said.code == 2
    assert said.sentence.startswith("no data set is called 'mnits'; did you mean 'mnist'?")


def test_missing_files_are_named_with_the_place_and_the_command(robal: Any, tmp_path: Path) -> None:
    (tmp_path / "sets/cifar10").mkdir(parents=True)
    said = robal("run", "data.name=cifar10", "--data", "sets", "--out", "run")
    assert said.code == 2
    for word in ("data_batch_1", str(tmp_path / "sets/cifar10"), "robal data fetch cifar10 --data"):
        assert word in said.sentence


# Images of a user's own


def floats(value: float) -> np.ndarray[Any, Any]:
    """Images in [0, 1] but for one pixel."""
    images = (PIXELS / 255).astype("float32")
    images[7, 3, 3] = value
    return images


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": floats(np.nan)}, "contain NaN or infinity, first in image 7"),
        ({"images": floats(np.inf)}, "contain NaN or infinity, first in image 7"),
        ({"images": floats(1.5)}, "must lie in [0, 1]; they reach from 0 to 1.5. Divide by 255"),
        ({"images": floats(-0.1)}, "must lie in [0, 1]; they reach from -0.1"),
        ({"images": PIXELS.astype("int64")}, "must be uint8, or floats in [0, 1]"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "are empty"),
        ({"images": PIXELS.reshape(60, -1)}, "must have shape [N, H, W]"),
        ({"labels": np.where(LABELS == 3, 9, LABELS)}, "should be 0 to K - 1"),
        ({"labels": LABELS - 2}, "labels"),
        ({"labels": LABELS, "classes": np.array(["a", "b"])}, "must lie in"),
        ({"labels": LABELS[:59]}, "one for each image"),
        ({"labels": LABELS + 0.5}, "must be whole numbers or strings"),
        ({"labels": LABELS * 0}, "has only one class, '0'; at least two classes are needed"),
        ({"lables": LABELS}, "'lables', which means nothing here; did you mean 'labels'?"),
        ({"test_images": PIXELS}, "test images and test labels come together"),
        ({"images": np.array([None, 1], dtype=object)}, "holds something other than plain arrays"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value[:30],
)
def test_arrays_that_cannot_be_images_and_labels(
    robal: Any, tmp_path: Path, arrays: dict[str, Any], sentence: str
) -> None:
    npz(tmp_path / "images.npz", **arrays)
    said = robal("run", *SMALL, "--out", "run")
    assert said.code == 2
    assert sentence in said.sentence
    assert nothing_begun(tmp_path / "run")


def test_a_truncated_npz(robal: Any, tmp_path: Path) -> None:
    content = npz(tmp_path / "images.npz").read_bytes()
    (tmp_path / "images.npz").write_bytes(content[: len(content) // 2])
    assert "is truncated or no .npz file" in robal("run", *SMALL, "--out", "run").sentence


def photographs(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """class/0.png to class/9.png for each class."""
    for number, (name, size) in enumerate(sizes.items()):
        (folder / name).mkdir(parents=True)
        for copy in range(10):
            Image.new("L", size, 20 * number + copy).save(folder / name / f"{copy}.png")
    return folder


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"cat": (28, 28), "dog": (28, 30)}, "images differ in size: "),
        ({"cat": (28, 28)}, "one class"),
    ],
)
def test_a_folder_of_images_that_cannot_be_used(
    robal: Any, tmp_path: Path, sizes: dict[str, tuple[int, int]], sentence: str
) -> None:
    photographs(tmp_path / "photos", sizes)
    said = robal("run", "data.name=photos", *SETTINGS, "--out", "run")
    assert said.code == 2
    assert sentence in said.sentence
    assert nothing_begun(tmp_path / "run")


def test_a_broken_image_in_a_folder(robal: Any, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", {"cat": (28, 28), "dog": (28, 28)})
    (folder / "dog/3.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    said = robal("run", "data.name=photos", *SETTINGS, "--out", "run")
    assert said.code == 2
    assert "dog/3.png is broken or no image" in said.sentence


def test_labels_that_nobody_knows_cannot_be_simulated(robal: Any, tmp_path: Path) -> None:
    npz(tmp_path / "images.npz", labels=np.where(np.arange(60) == 5, -1, LABELS))
    said = robal("run", *SMALL, "--out", "run")
    assert said.code == 2
    assert "have no held-back label to simulate an annotator with; use oracle=CSVFile" in said.sentence
    assert nothing_begun(tmp_path / "run")


def test_a_pool_smaller_than_the_budget(robal: Any, tmp_path: Path) -> None:
    npz(tmp_path / "images.npz")
    said = robal("run", *SMALL, "rounds=4", "per_round=9", "--out", "run")
    assert said.code == 2
    assert "asks for 44 labels (8 at the start, 4 rounds of 9) and the pool holds 40 images" in said.sentence
    assert "as in start.labels=4 per_round=4" in said.sentence
    assert "Run folder" not in said.out
    assert nothing_begun(tmp_path / "run")


def test_auto_attack_on_two_classes_is_the_reduced_set_and_is_called_so(robal: Any, tmp_path: Path) -> None:
    npz(tmp_path / "images.npz", labels=LABELS % 2)
    two = (*SMALL, "validation.images=4", "evaluation.images=1", "--out", "run")
    assert robal("run", *two, "evaluation.at_end=AutoAttack").code == 0
    assert list(rows(tmp_path / "run")[0]["robust_accuracy"]) == ["PGD-2", "AutoAttack-reduced"]


# Networks


NETWORKS = """
from torch import nn

def good(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

def softmax(shape, classes):
    return nn.Sequential(good(shape, classes), nn.Softmax(1))

def too_few(shape, classes):
    return good(shape, classes - 1)

def text():
    return "a network"
"""


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("own_networks:softmax", "the model ends in a softmax; remove it, robal needs logits"),
        ("own_networks:too_few", "the model returns 3 logits an image, but there are 4 classes"),
        ("own_networks:text", "returned str, not a torch.nn.Module"),
        ("own_networks:goood", "the module has no 'goood'; did you mean 'good'?"),
        ("not_there:good", "there is no module 'not_there'"),
        ("good", "factory is written module:function"),
    ],
)
def test_a_network_of_ones_own_that_cannot_be_used(
    robal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, sentence: str
) -> None:
    (tmp_path / "own_networks.py").write_text(NETWORKS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    npz(tmp_path / "images.npz")
    custom = "network={name: Custom, factory: '%s'}"
    said = robal("run", *SMALL, custom % factory, "--out", "run")
    assert said.code == 2
    assert sentence in said.sentence
    assert nothing_begun(tmp_path / "run")
    if "softmax" in factory:  # the folder takes the network that was mended
        assert robal("run", *SMALL, custom % "own_networks:good", "--out", "run").code == 0


def test_a_loss_that_explodes(robal: Any, tmp_path: Path) -> None:
    settings = (*SETTINGS, "rounds=1", "evaluation.at_end=[]", "recipe.optimiser.lr=1e9", "--out", "run")
    said = robal("run", *settings)
    assert said.code == 2
    assert "lower the learning rate" in said.sentence
    assert [row["round"] for row in rows(tmp_path / "run")] == [0]
    assert robal("resume", "run").sentence == said.sentence
    assert robal("report", "run").code == 0


# Run folders


def test_a_folder_that_is_a_file(robal: Any, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    said = robal("run", *SETTINGS, "--out", "run")
    assert said.code == 4
    assert said.sentence.startswith("run cannot be used as a run folder: ")
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_folder_without_a_run(robal: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        said = robal(command, folder)
        assert said.code == 4
        assert "plan.yaml" in said.sentence
        assert not (tmp_path / folder / "state.sqlite").exists()


def test_report_on_no_folder_at_all(robal: Any) -> None:
    assert robal("report").sentence.startswith("name at least one run folder")


def test_a_folder_of_another_plan(robal: Any, finished: Path) -> None:
    before = outcome(finished)
    said = robal("run", *SETTINGS, "seed=7", "--out", finished)
    assert said.code == 4
    assert "holds a run of another plan (1 differences: seed is 0 there and 7 here)" in said.sentence
    assert outcome(finished) == before


def test_a_folder_that_another_run_is_using(robal: Any, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    other = Apart(partial(hold, folder), tmp_path / "log")
    process = other.start()
    try:
        while "locked" not in other.said and process.exitcode is None:
            time.sleep(0.02)
        for arguments in (["resume", folder], ["run", *SETTINGS, "--out", folder]):
            said = robal(*arguments)
            assert said.code == 4
            assert f"another process is running in {folder}; wait for it" in said.sentence
    finally:
        process.kill()
        process.join()
        process.close()
    assert outcome(folder) == outcome(finished)
    assert robal("resume", folder).code == 0


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("metrics.jsonl", "{", "metrics.jsonl is damaged"),
        ("plan.yaml", "seed: [", "plan.yaml is not YAML"),
        ("plan.yaml", "seed: many", "seed: "),
        ("environment.json", "{", "environment.json is damaged"),
    ],
)
def test_a_damaged_folder(robal: Any, finished: Path, tmp_path: Path, file: str, content: str, sentence: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / file).write_text(content, encoding="utf-8")
    said = robal("resume", folder)
    assert said.code in (2, 4)
    assert sentence in said.sentence
