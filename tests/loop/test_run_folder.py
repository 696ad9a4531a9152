"""The run folder: what lies in it, whom it lets in, and that writing is all or nothing."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from robal.data import Data
from robal.errors import FolderInUse, RunFolderError
from robal.evaluation import clean, predict
from robal.files import write
from robal.folder import RunFolder
from robal.loop import run
from robal.plans import read_plan
from robal.pool import NONE_OF_THESE, SKIPPED
from robal.training import Trained
from tiny_runs import Apart, hold, outcome, rows, tiny_plan


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and the time of its last change; the lock apart."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def numbers(value: Any) -> list[float]:
    """Every number in nested lists and mappings."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [] if value is None else [float(value)]


# What lies in it


def test_a_finished_run_left_the_documented_files_and_nothing_else(finished: Path) -> None:
    of_each_round = [
        f"rounds/{number:03d}{file}"
        for number in range(3)
        for file in ("", "/model.safetensors", "/query.csv", "/query.png", "/question.png")
    ]
    files = [".lock", "environment.json", "metrics.jsonl", "plan.yaml", "rounds", *of_each_round, "state.sqlite"]
    assert outcome(finished)["files"] == sorted(files)


def test_no_file_is_a_pickle(finished: Path) -> None:
    for name, (content, _) in contents(finished).items():
        assert not content.startswith((b"\x80", b"PK")), name  # pickles, and torch.save's zip of them


def test_the_plan_in_the_folder_is_the_plan_of_the_run(finished: Path) -> None:
    assert read_plan(finished / "plan.yaml") == tiny_plan()
    assert (finished / "plan.yaml").read_text(encoding="utf-8").startswith("# robal ")


def test_there_is_one_row_of_metrics_for_the_start_and_one_a_round(finished: Path) -> None:
    found = rows(finished)
    assert [row["round"] for row in found] == [0, 1, 2]
    assert [row["labelled"] for row in found] == [40, 50, 60]
    for row in found:
        assert {"round", "labelled", "accuracy", "robust_accuracy", "seconds"} <= row.keys()
        assert row["seconds"] == pytest.approx(sum(row["times"].values()))
        assert row["times"].keys() == {"choose", "label", "train", "evaluate"}
        assert row["seconds"] > 0


def test_the_attacks_of_the_last_round_come_on_top_of_those_of_every_round(finished: Path) -> None:
    assert [list(row["robust_accuracy"]) for row in rows(finished)] == [["PGD-2"], ["PGD-2"], ["PGD-2", "FGSM"]]
    assert [row["images"] for row in rows(finished)[1:]] == [
        {"clean": 359, "PGD-2": 20},
        {"clean": 359, "PGD-2": 20, "FGSM": 20},
    ]


def test_all_rates_lie_between_0_and_1_and_some_lie_between(finished: Path) -> None:
    for row in rows(finished):
        rates = numbers([row["accuracy"], row["robust_accuracy"], row["per_class"]])
        rates += numbers([row["validation"]["accuracy"], row["validation"]["robust_accuracy"]])
        assert len(rates) > 20
        assert all(0 <= rate <= 1 for rate in rates)
        assert 0.2 < row["accuracy"] < 1
        assert row["robust_accuracy"]["PGD-2"] > 0


def test_the_saved_model_has_the_accuracy_that_the_metrics_state(finished: Path, data: Data) -> None:
    assert data.test is not None
    whole = torch.arange(len(data.test))
    for row in rows(finished):
        model = tiny_plan().network(data.images.shape, len(data.classes), seed=99)
        trained = Trained.load(finished / "rounds" / f"{row['round']:03d}" / "model.safetensors", model)
        verdicts = clean(trained.model, data.test.images.at_rest(whole), data.test.labels)
        assert verdicts.accuracy == row["accuracy"]
        assert verdicts.per_class == row["per_class"]["accuracy"]
        assert trained.epoch == row["epoch_kept"]


def test_robust_accuracy_is_of_the_first_test_images_alone(tmp_path: Path, data: Data) -> None:
    # An adversary of no strength leaves accuracy, so what is expected can be counted from the saved model.
    plan = tiny_plan("rounds=0", "threat.eps=0", "evaluation.images=7", "evaluation.at_end=[]")
    run(plan, data, tmp_path / "run")
    (row,) = rows(tmp_path / "run")
    model = plan.network(data.images.shape, len(data.classes), seed=0)
    model = Trained.load(tmp_path / "run/rounds/000/model.safetensors", model).model
    assert data.test is not None
    first = torch.arange(7)
    right = predict(model, data.test.images.at_rest(first)) == data.test.labels[first]
    assert row["robust_accuracy"] == {"PGD-2": pytest.approx(float(right.double().mean()))}
    assert row["images"]["PGD-2"] == 7


def test_query_files_hold_absolute_indices_in_order_of_choice_and_their_labels(finished: Path, data: Data) -> None:
    assert data.hidden is not None
    seen: list[int] = []
    place = RunFolder(finished)
    for number, count in enumerate((40, 10, 10)):
        head, *lines = (finished / f"rounds/{number:03d}/query.csv").read_text(encoding="utf-8").splitlines()
        assert head == "order,index,label,class"
        cells = [line.split(",") for line in lines]
        assert [int(cell[0]) for cell in cells] == list(range(count))
        indices = torch.tensor([int(cell[1]) for cell in cells])
        question = place.question(number)
        assert question is not None
        assert torch.equal(indices, question[0])
        labels = [int(cell[2]) for cell in cells]
        assert labels == data.hidden[indices].tolist()
        assert [cell[3] for cell in cells] == [data.classes[label] for label in labels]
        seen += indices.tolist()
    assert len(set(seen)) == len(seen) == 60
    assert all(0 <= index < len(data.images) for index in seen)


def test_a_strip_of_the_queried_images_lies_beside_them(finished: Path) -> None:
    with Image.open(finished / "rounds/001/query.png") as strip:
        strip.load()
        assert strip.format == "PNG"
        assert strip.width == 10 * (56 + 6)


def test_rows_describe_the_query(finished: Path, data: Data) -> None:
    start, first, _ = rows(finished)
    assert start["query"]["entropy"] is None
    assert start["query"]["images"] == sum(start["query"]["classes"]) == 40
    entropy = first["query"]["entropy"]
    assert sum(entropy["pool"]) == len(data.images) - 40
    assert sum(entropy["chosen"]) == first["query"]["images"] == 10
    assert len(entropy["edges"]) == len(entropy["pool"]) + 1
    assert start["query"]["bias"] is None
    assert list(first["query"]["bias"]) == ["entropy", "gini", "least confidence", "margin", "true class"]
    assert all(0 < one["floor"] < 1 for one in first["query"]["bias"].values())


# Whom it lets in


def test_a_finished_run_called_again_changes_nothing(finished: Path, data: Data) -> None:
    before = contents(finished)
    state = run(tiny_plan(), data, finished)
    assert contents(finished) == before
    assert state.round == 3
    assert int((state.pool.labels >= 0).sum()) == 60


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path: Path, data: Data) -> None:
    plan, folder = tiny_plan("rounds=0", "evaluation.at_end=[]"), tmp_path / "run"
    first = Apart(partial(hold, folder), tmp_path / "log")
    process = first.start()
    try:
        for _ in range(600):
            if "locked" in first.said:
                break
            time.sleep(0.05)
        with pytest.raises(FolderInUse, match=r"another process is running in .*run"):
            run(plan, data, folder)
        assert not (folder / "plan.yaml").exists()
    finally:
        process.kill()  # nobody tidies up, and the lock goes all the same
        process.join()
        process.close()
    assert run(plan, data, folder).round == 1


def test_two_runs_of_one_process_do_not_share_a_folder_either(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(FolderInUse),
        RunFolder(tmp_path).locked(),
    ):
        pass


def test_another_plan_is_refused_and_told_what_differs(finished: Path, data: Data) -> None:
    before = contents(finished)
    with pytest.raises(RunFolderError) as caught:
        run(tiny_plan("seed=1", "recipe.optimiser.lr=0.5"), data, finished)
    message = str(caught.value)
    assert "holds a run of another plan (2 differences: " in message
    assert "seed is 0 there and 1 here" in message
    assert "recipe.optimiser.lr is 0.004 there and 0.5 here" in message
    with pytest.raises(RunFolderError, match=r"acquisition\.name is 'DRE' there and 'Random' here"):
        run(tiny_plan("acquisition=Random"), data, finished)
    assert contents(finished) == before


def test_other_data_are_refused(finished: Path, data: Data) -> None:
    before = contents(finished)
    assert data.hidden is not None
    hidden = data.hidden.clone()
    hidden[-1] = (hidden[-1] + 1) % 10
    with pytest.raises(RunFolderError, match="begun with other images or labels"):
        run(tiny_plan(), replace(data, hidden=hidden), finished)
    assert contents(finished) == before


def test_where_the_data_lie_and_on_which_device_may_differ(finished: Path, data: Data) -> None:
    before = contents(finished)
    assert run(tiny_plan("device=cpu", 'data.folder="/elsewhere"', "engine=Sharded"), data, finished).round == 3
    assert contents(finished) == before


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, data: Data) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="cannot be used as a run folder"):
        run(tiny_plan(), data, tmp_path / "run")
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("metrics.jsonl", b'{"round": 0', "metrics.jsonl is damaged"),
        ("state.sqlite", b"not a database" * 100, "state.sqlite could not be used"),
        ("state.sqlite", None, "state.sqlite"),
        ("rounds/002/model.safetensors", b"short", "model.safetensors cannot be read"),
        ("rounds/002/model.safetensors", None, "model.safetensors cannot be read"),
        ("environment.json", b"{", "environment.json"),
    ],
)
def test_a_damaged_folder_is_said_to_be_damaged(
    finished: Path, data: Data, tmp_path: Path, file: str, damage: bytes | None, message: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    if damage is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(damage)
    with pytest.raises(RunFolderError, match=message):
        run(tiny_plan(), data, folder)


def test_weights_of_another_network_are_refused(finished: Path, data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    other = tiny_plan("network=VGG8").network((1, 28, 28), 10, 0)
    Trained(other).save(folder / "rounds/002/model.safetensors")
    with pytest.raises(RunFolderError, match="holds the weights of another network"):
        run(tiny_plan(), data, folder)


# All or nothing


@pytest.fixture
def place(tmp_path: Path) -> RunFolder:
    """A folder of which nothing is written yet but the tables."""
    with RunFolder(tmp_path / "run").locked() as made:
        return made


def test_a_question_comes_back_in_its_order_with_its_note(place: RunFolder) -> None:
    assert place.question(3) is None
    place.save_question(3, torch.tensor([9, 2, 5]), {"seconds": 0.5})
    found = place.question(3)
    assert found is not None
    assert found[0].tolist() == [9, 2, 5]
    assert found[0].dtype == torch.int64
    assert found[1] == {"seconds": 0.5}
    assert place.question(2) is None


def test_a_question_whose_note_cannot_be_written_is_not_written_at_all(place: RunFolder) -> None:
    with pytest.raises(TypeError):
        place.save_question(0, torch.tensor([1, 2]), {"when": object()})
    assert place.question(0) is None


def test_a_round_asks_once(place: RunFolder) -> None:
    place.save_question(0, torch.tensor([1, 2]), {})
    with pytest.raises(RunFolderError, match=r"state\.sqlite could not be used"):
        place.save_question(0, torch.tensor([3, 4]), {})
    found = place.question(0)
    assert found is not None
    assert found[0].tolist() == [1, 2]


def test_answers_are_there_when_the_last_one_is_and_the_first_answer_stays(place: RunFolder) -> None:
    asked = torch.tensor([4, 0, 7])
    place.save_answers(1, asked[:2], torch.tensor([3, SKIPPED]), "a person")
    assert place.answers(1, asked) is None
    place.save_answers(1, asked, torch.tensor([8, 8, NONE_OF_THESE]), "another")
    answers = place.answers(1, asked)
    assert answers is not None
    assert answers.tolist() == [3, SKIPPED, NONE_OF_THESE]
    assert place.answers(0, asked) is None


def test_answers_remember_who_gave_them_and_when(place: RunFolder) -> None:
    place.save_answers(0, torch.tensor([4]), torch.tensor([1]), "a person")
    with place._database() as database:
        rows = database.execute("SELECT image, label, who, at FROM answers").fetchall()
    assert rows[0][:3] == (4, 1, "a person")
    assert rows[0][3].startswith("20")
    assert rows[0][3].endswith("+00:00")


def test_refusals_have_no_class_in_the_query_file(place: RunFolder) -> None:
    place.save_query(2, torch.tensor([5, 6, 7]), torch.tensor([1, SKIPPED, NONE_OF_THESE]), ("cat", "a, b"))
    text = (place.path / "rounds/002/query.csv").read_text(encoding="utf-8")
    assert text == 'order,index,label,class\n0,5,1,"a, b"\n1,6,-2,\n2,7,-3,\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_file_that_does_not_fit_on_the_disk_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, "old")
    (tmp_path / "metrics.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl could not be written: .*No space left.*robal resume"):
        write(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_written_file_is_whole_and_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "ü" * 10_000)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ü" * 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_history_survives_blank_lines(place: RunFolder) -> None:
    assert place.history() == []
    place.save_history([{"round": 0}, {"round": 1}])
    with (place.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert place.history() == [{"round": 0}, {"round": 1}]
