"""`robal select`: somebody's model and images, a list of those worth labelling, a picture of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from robal.acquisition import DRE, MaxEntropy, select
from robal.networks import LeNet5
from robal.training import Trained

FACTORY = """
from torch import nn

def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
"""


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def indices(path: Path) -> list[int]:
    return [int(row["index"]) for row in read(path)]


@pytest.fixture
def weights(tmp_path: Path, lenet: nn.Module) -> Path:
    path = tmp_path / "w.safetensors"
    save_file(dict(lenet.state_dict()), path)
    return path


def test_the_choice_is_that_of_the_library(
    robal: Any, tmp_path: Path, weights: Path, lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    said = robal("select", "--model", "LeNet5", "--weights", weights, "--images", "digits", "--n", "30", "--seed", "3")
    assert said.code == 0, said.err
    assert said.out.startswith("30 of 1797 images chosen by DRE: query.csv, and to look at: query.png")
    assert indices(tmp_path / "query.csv") == select(DRE(), lenet, digits[0], 30, 3).tolist()
    with Image.open(tmp_path / "query.png") as sheet:
        assert sheet.width > sheet.height > 100


def test_every_row_says_what_the_model_thinks(
    robal: Any, tmp_path: Path, weights: Path, lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    common = ("select", "--model", "LeNet5", "--weights", weights, "--images", "digits", "--n", "5")
    assert robal(*common, "--acquisition", "MaxEntropy", "--out", "sub/next.csv").code == 0
    rows = read(tmp_path / "sub/next.csv")
    with torch.no_grad():
        probs = lenet(digits[0].float() / 255).softmax(1)
    entropies = -(probs * probs.log()).sum(1)
    assert [int(row["index"]) for row in rows] == entropies.argsort(descending=True)[:5].tolist()
    for order, row in enumerate(rows):
        index = int(row["index"])
        assert int(row["order"]) == order
        assert row["predicted"] == str(int(probs[index].argmax()))
        assert float(row["entropy"]) == pytest.approx(float(entropies[index]), abs=1e-4)
        assert float(row["score"]) == pytest.approx(float(entropies[index]), rel=1e-4)
        assert row["label"] == ""
    assert robal(*common, "--acquisition", "MCP", "--out", "mcp.csv").code == 0
    assert {row["score"] for row in read(tmp_path / "mcp.csv")} == {""}
    assert robal(*common, "--acquisition", "{name: DRE, bins: 3}", "--out", "dre.csv").code == 0
    for row in read(tmp_path / "dre.csv"):
        assert float(row["score"]) == pytest.approx(float(row["entropy"]), abs=1e-4)


def test_a_network_of_ones_own_and_a_folder_of_images(
    robal: Any, tmp_path: Path, digits: tuple[Tensor, Tensor]
) -> None:
    """Images in class folders are labelled, those beside them are the candidates."""
    (tmp_path / "own_networks.py").write_text(FACTORY, encoding="utf-8")
    for number, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "a.png", "b.png", "c.png"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][number, 0].numpy()).save(tmp_path / "photos" / name)
    common = ("select", "--model", "own_networks:build", "--images", "photos")
    said = robal(*common, "--n", "3", "--acquisition", "entropy")
    assert said.code == 0, said.err
    assert "3 of 3 images" in said.out
    rows = read(tmp_path / "query.csv")
    assert sorted(row["file"] for row in rows) == ["a.png", "b.png", "c.png"]
    assert {row["predicted"] for row in rows} <= {"cat", "dog"}
    beyond = robal(*common, "--n", "4")
    assert beyond.sentence == "4 images were asked for and 3 unlabelled ones are left in the pool"


def test_labels_of_a_file_are_left_out_and_filled_in_queries_serve_as_one(
    robal: Any, tmp_path: Path, weights: Path
) -> None:
    common = ("select", "--model", "LeNet5", "--weights", weights, "--images", "digits", "--n", "40")
    assert robal(*common).code == 0
    rows = read(tmp_path / "query.csv")
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"label": "7"} for row in rows)
    said = robal(*common, "--labelled", "labels.csv", "--out", "next.csv")
    assert "40 of 1757 images" in said.out
    assert not set(indices(tmp_path / "next.csv")) & set(indices(tmp_path / "query.csv"))


def test_the_weights_of_a_run_are_taken_as_they_lie(
    robal: Any, tmp_path: Path, lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    Trained(lenet, None, (), {"0.exp_avg": torch.zeros(3)}).save(tmp_path / "model.safetensors")
    said = robal(
        "select",
        "--model",
        "LeNet5",
        "--weights",
        "model.safetensors",
        "--images",
        "digits",
        "--n",
        "9",
        "--acquisition",
        "MaxEntropy",
    )
    assert said.code == 0, said.err
    assert indices(tmp_path / "query.csv") == select(MaxEntropy(), lenet, digits[0], 9).tolist()


def test_arrays_without_names_need_to_be_told_the_classes(robal: Any, tmp_path: Path) -> None:
    images = (np.random.default_rng(0).random((20, 28, 28)) * 255).astype("uint8")
    np.savez(tmp_path / "pool.npz", images=images)
    common = ("select", "--model", "LeNet5", "--images", "pool.npz", "--n", "4")
    assert robal(*common).sentence == "pool names no classes: give --classes 10, or --classes cat,dog"
    assert robal(*common, "--classes", "3").code == 0
    assert {row["predicted"] for row in read(tmp_path / "query.csv")} <= {"0", "1", "2"}
    assert robal(*common, "--classes", "cat,dog").code == 0
    assert {row["predicted"] for row in read(tmp_path / "query.csv")} <= {"cat", "dog"}
    assert robal(*common, "--classes", "one").sentence.startswith("LeNet5 needs at least two classes")


def test_a_threat_reaches_the_methods_that_attack(robal: Any, tmp_path: Path, weights: Path) -> None:
    common = (
        "select",
        "--model",
        "LeNet5",
        "--weights",
        weights,
        "--images",
        "digits",
        "--n",
        "20",
        "--acquisition",
        "AdversarialEntropy",
    )
    chosen = []
    for threat in ("linf:0.001", "linf:0.2"):
        assert robal(*common, "--threat", threat).code == 0
        chosen.append(indices(tmp_path / "query.csv"))
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--acquisition", "BALDD"), "acquisition: 'BALDD' is unknown; did you mean"),
        (("--acquisition", "{name: DRE, bin: 3}"), "acquisition.bin: unknown; did you mean 'bins'"),
        (("--acquisition", "EntropyMix"), "a standard model is needed beside the robust one"),
        (("--model", "nowhere:build"), "factory 'nowhere:build': there is no module 'nowhere'"),
        (("--model", "LeNet6"), "model: 'LeNet6' is unknown; did you mean"),
        (("--weights", "no.safetensors"), "weights: there is no file 'no.safetensors'"),
        (("--labelled", "no.csv"), "there is no file no.csv"),
        (("--n", "0"), "at least one image has to be asked for; n = 0 came"),
        (("--images", "nothing"), "no data set is called 'nothing'"),
        (("--threat", "linf:x"), "'x' is not a radius"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_file(
    robal: Any, tmp_path: Path, arguments: tuple[str, str], sentence: str
) -> None:
    given = {"--model": "LeNet5", "--images": "digits", "--n": "4"} | {arguments[0]: arguments[1]}
    said = robal("select", *(part for pair in given.items() for part in pair))
    assert sentence in said.sentence
    assert said.code == 2
    assert not (tmp_path / "query.csv").exists()


def test_a_label_outside_the_data_set_is_refused(robal: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("index,label\n1797,3\n", encoding="utf-8")
    said = robal("select", "--model", "LeNet5", "--images", "digits", "--n", "4", "--labelled", "labels.csv")
    assert said.sentence == "image 1797 is said to be labelled; digits has 1797, counted from 0"


def test_weights_of_another_network_are_refused(robal: Any, tmp_path: Path) -> None:
    save_file(dict(LeNet5()((1, 28, 28), 4, 0).state_dict()), tmp_path / "w.safetensors")
    said = robal("select", "--model", "LeNet5", "--weights", "w.safetensors", "--images", "digits", "--n", "4")
    assert "is of another network" in said.sentence
