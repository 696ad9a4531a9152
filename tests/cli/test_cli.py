"""The command line as a user meets it: commands, what they print and where, and how they end."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from robal import __version__, cli, presets
from robal.cli import app
from robal.datasets import catalogue
from robal.oracles.csv_file import read_rows
from robal.plan import Plan
from robal.plans import default_folder, read_plan, read_yaml
from tiny_runs import SETTINGS, Apart, outcome, rows, tiny_plan
from tiny_runs import robal as command

ESCAPE = "\x1b"
SHORT = (*SETTINGS, "rounds=0", "evaluation.at_end=[]")


# run


def test_run_carries_out_a_plan_and_says_what_came_of_it(robal: Any, tmp_path: Path) -> None:
    said = robal("run", *SHORT, "--out", tmp_path / "run")
    assert said.code == 0
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0].startswith("digits: drawn class by class with seed 0")
    assert lines[1].startswith("10 classes: 0 124, 1 128, ")
    assert lines[2] == "Threat: Linf, eps = 0.05, of intensities in [0, 1]"
    assert lines[3] == f"Run folder: {tmp_path / 'run'}"
    (row,) = rows(tmp_path / "run")
    attack = row["robust_accuracy"]["PGD-2"]
    assert lines[4].startswith(f"round 0: 40 labels, {row['accuracy']:.1%} accurate, {attack:.1%} under PGD-2")
    assert lines[-1] == f"Report: {tmp_path / 'run/report/index.html'}"
    assert (tmp_path / "run/report/index.html").read_text(encoding="utf-8").startswith("<!")


def test_run_without_a_folder_makes_one_up_from_the_plan(robal: Any, tmp_path: Path) -> None:
    said = robal("run", *SHORT)
    folder = default_folder(tiny_plan(*SHORT))
    assert f"Run folder: {folder}" in said.out
    assert (tmp_path / folder / "metrics.jsonl").exists()


def test_run_reads_a_plan_file_and_settings_over_it(robal: Any, tmp_path: Path) -> None:
    plan = {"start": {"labels": 30, "recipe": {"epochs": 2}}, "rounds": 0, "evaluation": {"images": 9, "at_end": []}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    said = robal("run", "mine.yaml", "start.labels=25", *SETTINGS[-1:], "evaluation.at_end=[]", "--out", "run")
    assert said.code == 0, said.err
    written = read_plan(tmp_path / "run/plan.yaml")
    assert (written.start.labels, written.start.recipe.epochs, written.rounds) == (25, 2, 0)


def test_run_takes_a_preset_a_data_folder_and_settings(robal: Any, tmp_path: Path) -> None:
    """Everything but the data, which are not here: what is looked for and where says that all of it arrived."""
    said = robal("run", "--preset", "dre-mnist", "--data", "sets", "rounds=1")
    assert said.code == 2
    assert "mnist lacks train-images-idx3-ubyte.gz" in said.sentence
    assert f"`robal data fetch mnist --data {tmp_path / 'sets'}` gets them" in said.sentence


def test_the_data_folder_comes_from_the_environment_where_none_is_named(
    robal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBAL_DATA", "/from/the/environment")
    assert "/from/the/environment" in robal("run", "--preset", "dre-mnist").sentence
    assert "/named" in robal("run", "--preset", "dre-mnist", "--data", "/named").sentence


def test_run_called_again_goes_on_and_changes_nothing_when_all_is_done(robal: Any, finished: Path) -> None:
    before = outcome(finished)
    said = robal("run", *SETTINGS, "--out", finished)
    assert said.code == 0
    assert "round 0:" not in said.out  # nothing was done, so nothing is told but the table
    assert outcome(finished) == before


def test_a_folder_called_like_a_data_set_does_not_hide_it(robal: Any, tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert robal("run", *SHORT, "--out", "run").code == 0


# What is printed where


def test_json_prints_one_object_a_round_and_nothing_else(tmp_path: Path) -> None:
    """The installed command, in a process of its own, its output a pipe as in a script."""
    script = Path(sys.executable).with_name("robal")
    done = subprocess.run(
        [script, "run", *SETTINGS, "rounds=1", "--json", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 2
    assert done.stderr == ""
    assert (tmp_path / "run/report/index.html").exists()


def test_json_goes_on_with_the_rounds_that_are_left(robal: Any, finished: Path) -> None:
    said = robal("resume", finished, "--json")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_where_nobody_looks_there_are_no_bars_and_no_escapes(tmp_path: Path) -> None:
    first = Apart(command("run", *SHORT, "--out", tmp_path / "run"), tmp_path / "log")
    assert first.run() == 0, first.said
    assert ESCAPE not in first.said
    assert "\r" not in first.said
    assert "training" not in first.said  # the name of a bar


def on_a_terminal(arguments: tuple[str | Path, ...]) -> tuple[int, str]:
    """The exit code of a command, and all it wrote to a terminal of 120 columns."""
    keyboard, screen = pty.openpty()
    seen: list[bytes] = []

    def watch() -> None:
        while True:
            try:
                piece = os.read(keyboard, 4096)
            except OSError:  # how a terminal ends on Linux
                return
            if not piece:
                return
            seen.append(piece)

    watcher = threading.Thread(target=watch)
    process = Apart(command(*arguments), Path(os.ttyname(screen))).start()
    watcher.start()
    process.join(120)
    code = process.exitcode
    process.close()
    os.close(screen)
    watcher.join(10)
    os.close(keyboard)
    return code, b"".join(seen).decode(errors="replace")


def unstyled(seen: str) -> str:
    """Without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)


def test_on_a_terminal_there_are_bars_for_rounds_training_and_attacks(tmp_path: Path) -> None:
    code, seen = on_a_terminal(("run", *SETTINGS, "rounds=1", "--out", tmp_path / "run"))
    assert code == 0, seen
    assert ESCAPE in seen
    assert "━" in seen
    assert "rounds" in seen
    assert re.search(r"\d/2\b", seen)  # how many rounds are done
    assert "training" in seen
    assert "left" in seen
    assert "round 1: 50 labels" in unstyled(seen)


def test_on_a_terminal_json_has_no_bars_either(tmp_path: Path) -> None:
    code, seen = on_a_terminal(("run", *SHORT, "--json", "--out", tmp_path / "run"))
    assert code == 0, seen
    assert ESCAPE not in seen
    assert [json.loads(line)["round"] for line in seen.splitlines()] == [0]


def test_what_takes_long_at_the_end_says_how_long(tmp_path: Path) -> None:
    setting = "evaluation.at_end=[{name: AutoAttack, threat: {name: Linf, eps: 0.9}}]"  # nothing stands for long
    code, seen = on_a_terminal(("run", *SETTINGS, "rounds=0", setting, "--out", tmp_path / "run"))
    assert code == 0, seen
    assert re.search(r"AutoAttack on 20 test images takes at most about \d+ s", unstyled(seen))


# resume, and a person who labels


def answer(path: Path, labels: list[int]) -> int:
    """Fill in a label file as a person with a spreadsheet would; how many were open."""
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    opened = [row for row in table if not row["label"]]
    for row in opened:
        row["label"] = str(labels[int(row["index"])])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["index", "label"])
        writer.writeheader()
        writer.writerows(table)
    return len(opened)


def test_a_person_labels_two_rounds_through_a_file(robal: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hidden = tiny_plan().data.load().hidden
    assert hidden is not None
    settings = (*SETTINGS, "rounds=1", "evaluation.at_end=[]", "start.labels=20", "oracle=CSVFile", "--out", "run")
    first = robal("run", *settings)
    assert first.code == 3
    assert first.sentence.startswith("20 of 20 images wait for a label: fill in the column `label` of run/labels.csv")
    assert first.sentence.endswith("`robal resume run`")
    again = robal("resume", folder)  # nothing filled in yet
    assert again.code == 3
    assert "20 of 20" in again.sentence
    assert answer(folder / "labels.csv", hidden.tolist()) == 20
    second = robal("resume", folder)
    assert second.code == 3
    assert "10 of 10 images wait" in second.sentence
    assert "round 0: 20 labels" in second.out
    assert answer(folder / "labels.csv", hidden.tolist()) == 10
    third = robal("resume", folder)
    assert third.code == 0
    assert third.err == ""
    assert "round 1: 30 labels" in third.out
    assert (folder / "report/index.html").exists()
    assert [row["labelled"] for row in rows(folder)] == [20, 30]
    assert len(read_rows(folder / "labels.csv")) == 30
    # By hand or simulated: with the same labels it is the same run.
    simulated = (*SETTINGS, "rounds=1", "evaluation.at_end=[]", "start.labels=20", "--out", "simulated")
    assert robal("run", *simulated).code == 0
    one, other = outcome(folder), outcome(tmp_path / "simulated")
    assert {key: one[key] for key in one if key != "files"} == {key: other[key] for key in other if key != "files"}


def test_a_label_that_is_no_class_names_file_image_and_hint(robal: Any, tmp_path: Path) -> None:
    settings = (*SHORT, "start.labels=5", "oracle=CSVFile", "--out", "run")
    assert robal("run", *settings).code == 3
    path = tmp_path / "run/labels.csv"
    index = read_rows(path)[2][0]
    path.write_text(path.read_text(encoding="utf-8").replace(f"{index},", f"{index},sevn"), encoding="utf-8")
    said = robal("resume", "run")
    assert said.code == 2
    assert re.search(rf"labels\.csv, (line \d+, )?image {index}: 'sevn' is no class", said.sentence)
    assert robal("resume", "run").code == 2  # and again, until it is mended
    path.write_text(path.read_text(encoding="utf-8").replace("sevn", "7"), encoding="utf-8")
    assert "4 of 5 images wait" in robal("resume", "run").sentence


def test_photographs_without_labels_go_from_a_folder_to_a_model(robal: Any, tmp_path: Path) -> None:
    """Only the person knows: no validation, no test, nothing is measured, and the run comes to its end all the same."""
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.new("L", (28, 28), number * 20).save(tmp_path / f"photos/{number}.png")
    settings = ("data.name=photos", "oracle=CSVFile", "start={labels: 6, recipe: {epochs: 2}}", "rounds=0")
    assert "name them: data.classes='[cat, dog]'" in robal("run", *settings, "--out", "run").sentence
    said = robal("run", *settings, "data.classes=[dark, bright]", "--out", "run")
    assert said.code == 3
    assert "(dark, bright; or skip, none)" in said.sentence
    path = tmp_path / "run/labels.csv"
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header == "index,file,label"
    assert sorted(lines) == sorted(f"{index},{index}.png," for index, _ in read_rows(path))
    labels = [(index, "bright" if index > 5 else "dark") for index, _ in read_rows(path)]
    path.write_text("index,label\n" + "".join(f"{index},{label}\n" for index, label in labels), encoding="utf-8")
    done = robal("resume", "run")
    assert done.code == 0, done.err
    assert "round 0: 6 labels, no test images" in done.out
    assert f"{labels[0][0]}.png" in (tmp_path / "run/rounds/000/query.csv").read_text(encoding="utf-8")
    assert robal("labels", "export", "run", "all.csv").code == 0
    index, label = labels[0]
    assert f"\n{index},{index}.png,{label},0," in (tmp_path / "all.csv").read_text(encoding="utf-8")
    assert (tmp_path / "run/rounds/000/model.safetensors").exists()


def test_resume_finds_data_that_moved(robal: Any, tmp_path: Path) -> None:
    _write_npz(tmp_path / "here.npz")
    settings = ("data.name=here.npz", *SHORT, "start.labels=8", "validation.images=0", "--out", "run")
    assert robal("run", *settings).code == 0
    plan = read_plan(tmp_path / "run/plan.yaml")
    assert plan.data.name == str(tmp_path / "here.npz")
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")  # a run can be resumed from any working folder
    assert robal("resume", tmp_path / "run").code == 0


def _write_npz(path: Path, **arrays: Any) -> None:
    import numpy as np

    labels = np.arange(60) % 4
    images = (np.random.default_rng(0).random((60, 28, 28)) * 60 + labels[:, None, None] * 60).astype("uint8")
    np.savez(path, **({"images": images, "labels": labels} | arrays))


# report, presets, data


def test_report_lays_runs_over_each_other(robal: Any, finished: Path, tmp_path: Path) -> None:
    assert robal("run", *SHORT, "seed=1", "--out", "other").code == 0
    said = robal("report", finished, "other", "--out", "comparison")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1].endswith("comparison/index.html")
    page = (tmp_path / "comparison/index.html").read_text(encoding="utf-8")
    assert "other" in page
    assert re.search(rf"\b{100 * rows(finished)[-1]['accuracy']:.1f}\b", said.out)
    assert re.search(rf"\b{100 * rows(tmp_path / 'other')[0]['accuracy']:.1f}\b", said.out)


def test_the_table_names_runs_and_columns_in_full_when_it_goes_into_a_file(robal: Any, finished: Path) -> None:
    said = robal("report", finished)
    for word in ("run", "round", "labels", "accuracy", "PGD-2", "FGSM"):
        assert re.search(rf"\b{word}\b", said.out), said.out
    for row in rows(finished):
        assert re.search(rf"\b{row['labelled']}\b", said.out)


def test_report_shows_an_unfinished_run(robal: Any, tmp_path: Path) -> None:
    assert robal("run", *SHORT, "oracle=CSVFile", "--out", "run").code == 3
    said = robal("report", "run")
    assert said.code == 0, said.err
    assert "unfinished" in said.out


def test_presets_are_listed_with_what_they_are_and_printed_as_plans(robal: Any, tmp_path: Path) -> None:
    said = robal("presets")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == list(presets.names())
    assert all(presets.summary(name) in said.out for name in presets.names())
    printed = robal("presets", "dre-mnist")
    assert printed.out == presets.text("dre-mnist")
    (tmp_path / "plan.yaml").write_text(printed.out, encoding="utf-8")
    assert read_plan(tmp_path / "plan.yaml") == read_plan(None, base=read_yaml(presets.text("dre-mnist"), ""))


def test_data_list_says_what_is_known_and_what_is_here(robal: Any, tmp_path: Path) -> None:
    said = robal("data", "list", "--data", tmp_path)
    assert said.code == 0
    for known in catalogue():
        assert known.name in said.out
    assert "embedded" in said.out
    assert "missing" in said.out


def test_data_fetch_leaves_what_needs_no_fetching_alone(robal: Any, tmp_path: Path) -> None:
    said = robal("data", "fetch", "digits", "--data", tmp_path)
    assert said.code == 0
    assert said.out == "digits comes with scikit-learn: nothing to fetch\n"
    assert list(tmp_path.iterdir()) == []


# Help and exit codes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["run", "resume", "report", "presets", "data", "Robust active learning"]),
        (("run",), ["robal run --preset dre-mnist", "robal run plan.yaml recipe.epochs=5", "--json", "--out", "exit"]),
        (("resume",), ["robal resume runs/dre", "--data", "--json", "The run folder"]),
        (("report",), ["robal report runs/dre runs/random", "--out", "Run folders"]),
        (("presets",), ["robal presets dre-mnist > plan.yaml", "The preset to print"]),
        (("data",), ["list", "fetch"]),
        (("data", "list"), ["--data", "ROBAL_DATA"]),
        (("data", "fetch"), ["robal data fetch mnist --data ~/data", "ROBAL_DATA"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_help_explains_each_command_with_examples(robal: Any, arguments: tuple[str, ...], words: list[str]) -> None:
    said = robal(*arguments, "--help")
    assert said.code == 0
    plain = " ".join(said.out.replace("│", " ").split())
    for word in words:
        assert word in plain, f"{word!r} is not in:\n{said.out}"


def test_the_version_is_the_packages(robal: Any) -> None:
    assert robal("--version").out.strip() == __version__


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nope"], ["run", "--preset"], ["resume"], ["data", "fetch"]])
def test_what_the_command_line_does_not_know_ends_with_code_2(robal: Any, arguments: list[str]) -> None:
    said = robal(*arguments)
    assert said.code == 2
    assert "Error" in said.err
    assert "Traceback" not in said.err


def test_output_that_nobody_reads_to_the_end_is_no_error(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("robal")
    with subprocess.Popen([script, "presets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(60)
    assert "Traceback" not in said
    assert "BrokenPipeError" not in said


def test_the_global_threads_are_left_alone(robal: Any, finished: Path) -> None:
    before = torch.get_num_threads()
    assert robal("resume", finished).code == 0
    assert torch.get_num_threads() == before


def test_a_shell_can_complete_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "robal.bash"
    script.write_text(app.generate_completion(shell="bash"))
    asked = """
        source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        $(complete -p robal | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo "${COMPREPLY[@]}"
    """

    def completed(*words: str) -> str:
        command = ["bash", "-c", asked, "bash", str(script), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert completed("robal", "fore") == "forecast"
    assert completed("robal", "pool", "bu") == "build"
    assert completed("robal", "run", "--pre") == "--preset"


def test_the_default_plan_can_be_printed_and_run(robal: Any, tmp_path: Path) -> None:
    said = robal("presets", "default")
    (tmp_path / "plan.yaml").write_text(said.out)
    assert read_plan(tmp_path / "plan.yaml") == Plan()


def test_a_model_that_says_one_class_of_everything_is_told_of() -> None:
    row = {"round": 1, "labelled": 9, "accuracy": 0.5, "robust_accuracy": {}, "seconds": 1.0}
    assert "the same class" in cli._line({**row, "per_class": {"accuracy": [1.0, 0.0, None]}})
    assert "the same class" not in cli._line({**row, "per_class": {"accuracy": [1.0, 0.1, None]}})


def test_a_finished_run_says_that_nothing_is_left(robal: Any, finished: Path) -> None:
    assert "Nothing was left to do." in robal("resume", finished).out


def test_a_list_of_names_may_be_written_with_commas(tmp_path: Path) -> None:
    assert read_plan(None, ["data.name=photos", "data.classes=cat, dog"]).data.classes == ("cat", "dog")
