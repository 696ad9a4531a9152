"""What somebody has on their disk stays there: files of other kinds, images, runs, labels filled in, grown pools."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from robal import cli
from robal.labelling.exchange import keep_labels
from robal.oracles import CSVFile
from robal.pool import Pool
from tiny_runs import SETTINGS

SHORT = (*SETTINGS, "rounds=0", "evaluation.at_end=[]")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of thirty small pictures."""
    draw = torch.Generator().manual_seed(0)
    for label, name in enumerate(("circle", "square", "triangle")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            pixels = (torch.rand(28, 28, generator=draw) * 80 + 80 * label).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_a_folder_of_other_things_is_no_run_folder(robal: Any, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    (downloads / "sub").mkdir(parents=True)
    (downloads / "movie.mkv.part").write_text("half")
    (downloads / "sub" / "thesis.part").write_text("half")
    said = robal("run", *SHORT, "--out", downloads)
    assert "holds other things and no run (movie.mkv.part, sub, …)" in said.sentence
    assert said.code == 4
    assert sorted(path.name for path in downloads.rglob("*")) == ["movie.mkv.part", "sub", "thesis.part"]


def test_in_a_run_folder_only_its_own_unfinished_files_go(robal: Any, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", finished, run], check=True)
    (run / "mine").mkdir()
    (run / "mine" / "thesis.part").write_text("half")
    (run / "rounds" / "000" / "model.safetensors.part").write_text("half")
    assert robal("resume", run).code == 0
    assert (run / "mine" / "thesis.part").exists()
    assert not (run / "rounds" / "000" / "model.safetensors.part").exists()


def test_results_never_lie_among_the_images(robal: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = (*SHORT, "evaluation.each_round=[]", "data.resize=28", "start.labels=20")
    for out in (photos, photos / "runs" / "one"):
        said = robal("run", f"data.name={photos}", *plan, "--out", out)
        assert "lies among the images" in said.sentence
    monkeypatch.chdir(photos)
    assert "lies among the images" in robal("run", "data.name=.", *plan).sentence
    assert sorted(path.name for path in photos.iterdir()) == ["circle", "square", "triangle"]


def test_runs_and_studies_do_not_share_a_folder(robal: Any, finished: Path, tmp_path: Path) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text("plan: {rounds: 0}\ngrid: {acquisition: [Random, Margin]}\n")
    before = sorted(path.name for path in finished.iterdir())
    said = robal("compare", study, "--out", finished)
    assert "holds a run; name another folder for a study" in said.sentence
    assert sorted(path.name for path in finished.iterdir()) == before
    (tmp_path / "of-study").mkdir()
    (tmp_path / "of-study" / "study.yaml").write_text("{}")
    assert "holds a study" in robal("run", *SHORT, "--out", tmp_path / "of-study").sentence
    assert "holds a study, no single run" in robal("resume", tmp_path / "of-study").sentence
    assert "holds other things and no study" in robal("compare", study, "--out", tmp_path).sentence


def test_a_folder_in_the_place_of_a_plan_is_taken_for_images(robal: Any, photos: Path, finished: Path) -> None:
    assert f"for images, `robal run data.name={photos}`" in robal("run", photos).sentence
    assert f"`robal resume {finished}` goes on with it" in robal("run", finished).sentence


def test_labels_that_were_filled_in_are_not_written_over(robal: Any, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    assert robal("labels", "export", finished, out).code == 0
    assert robal("labels", "export", finished, out).code == 0  # what the run knows may be written again
    with out.open() as file:
        lines = list(csv.DictReader(file))
    lines[0]["label"] = "7" if lines[0]["label"] != "7" else "8"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    before = out.read_bytes()
    assert "holds labels that the run does not know (1)" in robal("labels", "export", finished, out).sentence
    assert "labels that the run does not know" in robal("labels", "suspects", finished, "--out", out).sentence
    assert out.read_bytes() == before
    keep_labels(tmp_path / "nothing.csv", {})


def test_a_grown_pool_is_not_built_anew(robal: Any, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pool = tmp_path / "photos.parquet"
    more = tmp_path / "more" / "circle"
    more.mkdir(parents=True)
    Image.new("L", (28, 28), 255).save(more / "new.png")
    assert robal("pool", "build", photos, pool).code == 0
    assert robal("pool", "build", photos, pool).code == 0
    assert robal("pool", "add", more.parent, pool).code == 0
    before = pool.read_bytes()
    assert "has grown to 2 versions" in robal("pool", "build", photos, pool).sentence
    assert pool.read_bytes() == before


def test_a_label_changed_after_its_round_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Three:
        shape = (1, 1, 1)

        def __len__(self) -> int:
            return 3

    path = tmp_path / "labels.csv"
    path.write_text("index,label\n0,dog\n1,cat\n99,cat\n")
    pool = Pool.unlabelled(Three(), ["cat", "dog"]).reveal(torch.tensor([0]), torch.tensor([0]))  # type: ignore[arg-type]
    assert CSVFile(str(path))(pool, torch.tensor([1]), seed=0).tolist() == [0]
    said = capsys.readouterr().err
    assert "says dog of image 0, which the run has learned as cat: `robal labels correct`" in said
    assert "there is no image 99" in said


def test_named_classes_decide_over_the_folders(robal: Any, photos: Path) -> None:
    plan = (*SHORT, "evaluation.each_round=[]", "data.resize=28", "start.labels=20", "--out", "run")
    said = robal("run", f"data.name={photos}", "data.classes=[square, circle, rhombus, triangle]", *plan)
    assert "4 classes: square 21, circle 21, rhombus 0, triangle 21" in said.out
    assert (
        "data.classes names cat, dog, and digits has 0, 1," in robal("run", "data.classes=[cat, dog]", *SHORT).sentence
    )


def test_folders_that_look_like_a_split_are_no_classes(robal: Any, photos: Path) -> None:
    (photos / "circle").rename(photos / "training")
    (photos / "square").rename(photos / "validation")
    assert "look like a split and not like classes" in robal("run", f"data.name={photos}", *SHORT).sentence


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_cannot_be(robal: Any, port: str, tmp_path: Path) -> None:
    assert robal("run", *SHORT, "oracle=Page", "--out", "asked").code == 3
    assert "the page cannot be served" in robal("label", "asked", "--port", port, "--no-browser").sentence


@pytest.mark.parametrize("body", ["def build(:\n", "raise RuntimeError('no licence')\n", "def build():\n    1 / 0\n"])
def test_a_network_of_somebodys_own_that_fails(robal: Any, tmp_path: Path, body: str) -> None:
    (tmp_path / f"net{abs(hash(body))}.py").write_text(body)
    said = robal("run", *SHORT, f"network={{name: Custom, factory: 'net{abs(hash(body))}:build'}}")
    assert "failed" in said.sentence
    assert said.code == 2


@pytest.mark.parametrize("names", ["[a, a]", "['', b]", "[skip, b]"])
def test_names_that_are_none(robal: Any, names: str) -> None:
    assert robal("run", *SHORT, f"data.classes={names}").code == 2


@pytest.mark.parametrize("words", [("labels", "suspects", "x", "--most", "0"), ("compare", "x", "--workers", "-1")])
def test_numbers_below_one(robal: Any, words: tuple[str, ...]) -> None:
    said = robal(*words)
    assert said.code == 2
    assert "Must be >= 1" in said.err


def test_a_norm_that_is_none(robal: Any) -> None:
    assert "unknown norm 'l3'" in robal("run", *SHORT, "threat=l3:0.3").sentence


def test_brackets_in_a_folders_name_are_only_brackets(robal: Any) -> None:
    said = robal("run", *SHORT, "--out", "runs/[bold]b[/x]")
    assert said.code == 0
    assert "Run folder: runs/[bold]b[/x]" in said.out


def test_whoever_has_no_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert cli._user() == f"user {os.getuid()}"


def test_a_terminal_that_knows_ascii_alone(tmp_path: Path) -> None:
    environment = os.environ | {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("robal"), "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
