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
from robal.errors import InputError
from robal.images import InMemory
from robal.networks import LeNet5
from robal.scores import entropy
from robal.selection import Offered, read_images, read_labels
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
    (tmp_path / "factory_of_select.py").write_text(FACTORY, encoding="utf-8")
    for number, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "a.png", "b.png", "c.png"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][number, 0].numpy()).save(tmp_path / "photos" / name)
    common = ("select", "--model", "factory_of_select:build", "--images", "photos")
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
    assert robal(*common, "--classes", "one").sentence.startswith("--classes names at least two classes")


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
        (("--acquisition", "EntropyMix"), "EntropyMix needs a standard model beside the robust one: give --teacher"),
        (("--model", "nowhere:build"), "factory 'nowhere:build': there is no module 'nowhere'"),
        (("--model", "LeNet6"), "model: 'LeNet6' is unknown; did you mean"),
        (("--weights", "no.safetensors"), "weights: there is no file 'no.safetensors'"),
        (("--labelled", "no.csv"), "there is no file no.csv"),
        (("--n", "0"), "at least one image has to be asked for; n = 0 came"),
        (("--images", "nothing"), "no data set is called 'nothing'"),
        (("--threat", "linf:x"), "'x' is not a radius"),
        (("--device", "cuda"), "device=cuda is asked for and torch finds none"),
        (("--classes", "a,a"), "--classes names at least two classes, each once; 'a,a' came"),
        (("--out", "query.png"), "--out names a .csv file, such as query.csv"),
        (("--teacher", "no.safetensors"), "weights: there is no file 'no.safetensors'"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_file(
    robal: Any, tmp_path: Path, arguments: tuple[str, str], sentence: str
) -> None:
    given = {"--model": "LeNet5", "--images": "digits", "--n": "4"} | {arguments[0]: arguments[1]}
    if "--teacher" in given:
        given["--acquisition"] = "EntropyMix"
    said = robal("select", *(part for pair in given.items() for part in pair))
    assert sentence in said.sentence
    assert said.code == 2
    assert not (tmp_path / "query.csv").exists()


def test_a_label_outside_the_data_set_is_refused(robal: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("index,label\n1797,3\n", encoding="utf-8")
    said = robal("select", "--model", "LeNet5", "--images", "digits", "--n", "4", "--labelled", "labels.csv")
    assert said.sentence == "image 1797 is said to be labelled; digits has 1797, from 0 on"


def test_weights_of_another_network_are_refused(robal: Any, tmp_path: Path) -> None:
    save_file(dict(LeNet5()((1, 28, 28), 4, 0).state_dict()), tmp_path / "w.safetensors")
    said = robal("select", "--model", "LeNet5", "--weights", "w.safetensors", "--images", "digits", "--n", "4")
    assert "is of another network" in said.sentence


# Labels that are known already


def photos(folder: Path, digits: tuple[Tensor, Tensor], names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][number, 0].numpy()).save(folder / name)


COMMON = ("select", "--model", "LeNet5", "--images", "photos", "--classes", "cat,dog")


def fill_in(path: Path, label: str) -> None:
    rows = read(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"label": label} for row in rows)


def test_in_a_folder_that_has_grown_labels_stay_with_their_files(
    robal: Any, tmp_path: Path, digits: tuple[Tensor, Tensor]
) -> None:
    photos(tmp_path / "photos", digits, ["b.png", "d.png", "f.png", "h.png"])
    assert robal(*COMMON, "--n", "2", "--out", "first.csv").code == 0
    files = {row["file"] for row in read(tmp_path / "first.csv")}
    fill_in(tmp_path / "first.csv", "cat")
    photos(tmp_path / "photos", digits, ["a.png", "c.png", "e.png"])
    said = robal(*COMMON, "--n", "5", "--labelled", "first.csv", "--out", "second.csv")
    assert "5 of 5 images" in said.out
    assert not files & {row["file"] for row in read(tmp_path / "second.csv")}
    (tmp_path / "photos" / min(files)).unlink()
    said = robal(*COMMON, "--n", "2", "--labelled", "first.csv", "--out", "third.csv")
    assert f"is the file '{min(files)}', which photos does not have" in said.sentence


def test_several_answered_queries_add_up_and_must_agree(
    robal: Any, tmp_path: Path, digits: tuple[Tensor, Tensor]
) -> None:
    photos(tmp_path / "photos", digits, [f"{name}.png" for name in "abcdefgh"])
    assert robal(*COMMON, "--n", "3", "--out", "first.csv").code == 0
    fill_in(tmp_path / "first.csv", "cat")
    assert "3 of 5 images" in robal(*COMMON, "--n", "3", "--out", "second.csv", "--labelled", "first.csv").out
    fill_in(tmp_path / "second.csv", "dog")
    both = ("--labelled", "first.csv", "--labelled", "second.csv")
    assert "2 of 2 images" in robal(*COMMON, "--n", "2", "--out", "third.csv", *both).out
    rows = read(tmp_path / "first.csv")
    (tmp_path / "again.csv").write_text(f"index,label\n{rows[0]['index']},dog\n", encoding="utf-8")
    both = ("--labelled", "first.csv", "--labelled", "again.csv")
    assert "has two labels; leave one" in robal(*COMMON, "--n", "2", "--out", "third.csv", *both).sentence


def test_an_answered_query_is_not_written_over(robal: Any, tmp_path: Path, digits: tuple[Tensor, Tensor]) -> None:
    photos(tmp_path / "photos", digits, ["a.png", "b.png", "c.png"])
    assert robal(*COMMON, "--n", "1").code == 0
    assert robal(*COMMON, "--n", "1").code == 0  # nothing is filled in yet
    fill_in(tmp_path / "query.csv", "cat")
    before = (tmp_path / "query.csv").read_bytes()
    said = robal(*COMMON, "--n", "1", "--labelled", "query.csv")
    assert said.sentence == "query.csv holds labels, which would be lost; name another file by --out"
    assert (tmp_path / "query.csv").read_bytes() == before


def test_the_picture_does_not_become_one_of_the_images(
    robal: Any, tmp_path: Path, digits: tuple[Tensor, Tensor]
) -> None:
    photos(tmp_path / "photos", digits, ["a.png", "b.png"])
    said = robal(*COMMON, "--n", "1", "--out", "photos/query.csv")
    assert "lies among the images" in said.sentence
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a.png", "b.png"]


def test_folders_that_are_no_classes_hold_images_without_labels(
    robal: Any, tmp_path: Path, digits: tuple[Tensor, Tensor]
) -> None:
    photos(tmp_path / "photos", digits, ["camera 1/a.png", "camera 1/b.png", "camera 2/c.png", "d.png"])
    assert "2 of 4 images" in robal(*COMMON, "--n", "2").out
    assert {row["file"] for row in read(tmp_path / "query.csv")} < {
        "camera 1/a.png",
        "camera 1/b.png",
        "camera 2/c.png",
        "d.png",
    }


def test_a_folder_of_train_and_test_keeps_its_classes_when_they_are_named(
    tmp_path: Path, digits: tuple[Tensor, Tensor]
) -> None:
    photos(tmp_path / "photos", digits, ["train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png"])
    dataset, names = read_images(str(tmp_path / "photos"), None, None, "cat,dog")
    assert names == ("cat", "dog")
    assert len(dataset) == 2
    assert dataset.test_labels is not None
    assert dataset.test_labels.tolist() == [0, 1]


def test_labels_of_a_partly_labelled_data_set_stay_whatever_classes_are_named(robal: Any, tmp_path: Path) -> None:
    images = (np.random.default_rng(0).random((20, 28, 28)) * 255).astype("uint8")
    np.savez(tmp_path / "pool.npz", images=images, labels=np.where(np.arange(20) < 8, np.arange(20) % 4, -1))
    common = ("select", "--model", "LeNet5", "--images", "pool.npz", "--n", "12")
    for more in ((), ("--classes", "10")):
        assert "12 of 12 images" in robal(*common, *more).out
    said = robal(*common, "--classes", "cat,dog")
    assert said.sentence == "pool has images labelled '0', which is none of cat, dog"


# What a run left


def test_a_run_lends_its_snapshots_and_a_teacher_is_a_file(
    robal: Any, tmp_path: Path, lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    other = LeNet5()((1, 28, 28), 10, 5)
    Trained(lenet, None, (dict(other.state_dict()),)).save(tmp_path / "model.safetensors")
    Trained(lenet).save(tmp_path / "bare.safetensors")
    save_file(dict(other.state_dict()), tmp_path / "other.safetensors")
    common = ("select", "--model", "LeNet5", "--images", "digits", "--n", "9")

    def chosen(*arguments: str) -> list[int]:
        assert robal(*common, *arguments).code == 0
        return indices(tmp_path / "query.csv")

    gentle = ("--acquisition", "LowInputGradient", "--weights")
    assert chosen(*gentle, "model.safetensors") != chosen(*gentle, "bare.safetensors")
    mixed = chosen("--acquisition", "EntropyMix", "--weights", "bare.safetensors", "--teacher", "other.safetensors")
    with torch.no_grad():  # in the first round the teacher decides
        uncertain = entropy(other.eval()(digits[0] / 255).softmax(1))
    assert uncertain[mixed].min() >= uncertain.topk(9).values.min() - 1e-5  # some are equal but for rounding


def test_what_was_seen_is_kept_and_serves_the_next_choice(robal: Any, tmp_path: Path, weights: Path) -> None:
    common = ("select", "--model", "LeNet5", "--weights", weights, "--images", "digits", "--n", "20")
    assert robal(*common, "--out", "here.csv").code == 0
    for out in ("first.csv", "again.csv"):
        assert robal(*common, "--shards", "seen", "--out", out).code == 0
        assert (tmp_path / out).read_text() == (tmp_path / "here.csv").read_text()
    kept = list((tmp_path / "seen").glob("*/*.safetensors"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    assert robal(*common, "--shards", "seen", "--acquisition", "Margin", "--out", "margin.csv").code == 0
    assert list((tmp_path / "seen").glob("*/*.safetensors")) == kept  # other scores of the same outputs
    assert kept[0].stat().st_mtime_ns == before


@pytest.mark.parametrize("option", [("--workers", "2"), ("--address", "auto"), ("--gpus", "1")])
def test_options_of_ray_need_ray(robal: Any, tmp_path: Path, option: tuple[str, str]) -> None:
    said = robal("select", "--model", "LeNet5", "--images", "digits", "--n", "2", *option)
    assert said.sentence == "--address, --workers and --gpus are for Ray: add --engine ray"
    assert not list(tmp_path.iterdir())


def test_where_a_file_lies_twice_in_a_pool_the_number_decides(tmp_path: Path) -> None:
    """Two folders went into the pool, and both have 1.png; some images never were files."""
    files = ("1.png", "2.png", "1.png", "", "")
    offered = Offered("pool", InMemory(torch.zeros(5, 1, 2, 2), files), torch.full((5,), -1), ("cat", "dog"))
    path = tmp_path / "labels.csv"
    path.write_text("index,file,label\n0,1.png,cat\n2,1.png,dog\n4,,cat\n3,2.png,dog\n")
    assert read_labels([path], ("cat", "dog"), offered) == {0: 0, 2: 1, 4: 0, 1: 1}
    path.write_text("index,file,label\n1,1.png,cat\n")
    with pytest.raises(InputError, match=r"image 1 is the file '1.png', which pool has 2 times"):
        read_labels([path], ("cat", "dog"), offered)
