"""Studies are carried out: side by side, shared where they may, killed, failed, gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_studies import TINY, carry_out, cell, numbers, said

from robal.cli import main
from robal.errors import FolderInUse, InputError, PlanError, RunFolderError
from robal.loop import run
from robal.studies import Local, Place, compare, costs_of, read_text, study_report
from robal.studies.cost import _training, repeated
from tiny_runs import main_ends, tiny_plan


def test_the_runs_of_a_grid_are_what_each_is_alone(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said())
    ended = carry_out(place)
    assert sorted(ended) == sorted((one.name, "") for one in place.study.cells)
    for one in place.study.cells:
        alone = tmp_path / one.name
        run(one.plan, one.plan.data.load(), alone)
        assert numbers(place.folder(one)) == numbers(alone)
        assert (place.folder(one) / "rounds/001/query.csv").read_bytes() == (
            alone / "rounds/001/query.csv"
        ).read_bytes()
    shared = [
        json.loads((place.folder(one) / "metrics.jsonl").read_text().splitlines()[0]) for one in place.study.cells
    ]
    assert ["shared_with" in row for row in shared] == [False, False, True, True]
    before = {file: file.stat().st_mtime_ns for file in place.path.rglob("metrics.jsonl")}
    assert carry_out(place) == []  # all is done
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_runs_end_seed_by_seed_where_nothing_is_shared(tmp_path: Path) -> None:
    """Stopped half-way, a study has pairs to compare."""
    grid = {"start.labels": [10, 12], "seed": 2}
    place = Place.begun(tmp_path / "study", said(plan=TINY | {"rounds": 0}, grid=grid))
    ended = [name for name, _ in carry_out(place, workers=1)]
    assert ended == [cell(place, **{"start.labels": labels, "seed": s}).name for s in "01" for labels in ("10", "12")]


def test_a_seed_is_finished_before_the_next_begins_where_a_start_is_shared(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said())
    before = []
    for now in compare(place, Local(1)):
        if {one.labels["seed"] for one, _ in now.ended} == {"0"}:
            before.append({now.standings[one.name].rounds for one in place.study.cells if one.labels["seed"] == "1"})
    assert before[0] == {0}


def test_a_run_that_fails_is_told_of_and_tried_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "breaking.py"
    module.write_text(
        "from dataclasses import dataclass\nimport os, torch\nfrom robal.acquisition import Random\n"
        "@dataclass(frozen=True)\nclass Breaking:\n"
        "    def __call__(self, candidates, n, generator):\n"
        f"        if not os.path.exists({str(tmp_path / 'mended')!r}): raise ValueError('out of luck')\n"
        "        return Random()(candidates, n, generator)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    grid = {"acquisition": {"good": "Random", "bad": "breaking:Breaking"}, "seed": 1}
    place = Place.begun(tmp_path / "study", said(grid=grid))
    ended = {one.name: why for now in compare(place, Local(2)) for one, why in now.ended}
    good, bad = cell(place, acquisition="good"), cell(place, acquisition="bad")
    assert ended[good.name] == ""
    assert "ValueError: out of luck" in ended[bad.name]
    assert "breaking.py" in json.loads((place.folder(bad) / "failed.json").read_text())["trace"]
    assert (place.standing(bad).status, place.standing(bad).rounds) == ("failed", 1)
    assert "out of luck" in study_report(place.path).read_text()
    (tmp_path / "mended").touch()
    assert [(one.name, why) for now in compare(place, Local(2)) for one, why in now.ended] == [(bad.name, "")]
    assert place.standing(bad).status == "finished"


def test_a_process_that_is_ended_from_outside_is_a_failure_of_its_run_alone(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random"], "seed": 2}))
    killed, ended = False, []
    scheduler = Local(2)
    for now in compare(place, scheduler):
        if not killed and scheduler._running:
            next(iter(scheduler._running)).kill()
            killed = True
        ended += now.ended
    assert [why for _, why in ended if why] == ["its process was ended by SIGKILL"]
    assert [why for _, why in carry_out(place)] == [""]
    assert {place.standing(one).status for one in place.study.cells} == {"finished"}


def killed_and_again(folder: Path, study: dict[str, Any], kills: int, seed: int) -> Place:
    """A study in a process of its own, killed at random moments, and its workers with it; then to the end."""
    file, draw = folder / "study.yaml", random.Random(seed)
    folder.mkdir()
    file.write_text(yaml.safe_dump(study))
    robal = str(Path(sys.executable).with_name("robal"))
    words = [robal, "compare", str(file), "--out", str(folder / "out"), "--workers", "2"]
    alive = 0
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(3, 9))
        alive += process.poll() is None
        process.kill()
        process.wait()
    assert alive > kills // 2
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return Place.of(folder / "out")


@pytest.mark.slow
def test_killed_twice_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    place = killed_and_again(tmp_path / "killed", said(), 2, 0)
    whole = Place.begun(tmp_path / "whole", said())
    carry_out(whole)
    assert [one.name for one in place.study.cells] == [one.name for one in whole.study.cells]
    for one in place.study.cells:
        assert numbers(place.folder(one)) == numbers(whole.folder(one))


@pytest.mark.slow
def test_twelve_by_six_runs_killed_ten_times(tmp_path: Path) -> None:
    functions = ["Random", "DRE", "Margin", "MaxEntropy", "LeastConfidence", "DeepGini", "MCP", "CoreSet", "BADGE"]
    grid = {"acquisition": [*functions, "TypiClust", "LogitMargin", "EntropyMix"], "seed": 6}
    place = killed_and_again(tmp_path / "killed", said(grid=grid), 10, 1)
    whole = Place.begun(tmp_path / "whole", said(grid=grid))
    carry_out(whole)
    assert len(place.study.cells) == 72
    for one in place.study.cells:
        assert numbers(place.folder(one)) == numbers(whole.folder(one))


def test_a_shared_first_round_brings_its_repeated_answers(tmp_path: Path) -> None:
    """A meta set that was agreed on once is paid in each run."""
    caat = {"objective": {"name": "CAAT", "steps": 1, "costs": None}}
    plan = TINY | {"recipe": TINY["recipe"] | caat, "oracle": {"name": "Hidden", "noise": 0.3}}
    place = Place.begun(tmp_path / "study", said(plan=plan, grid={"acquisition": ["Random", "Margin"], "seed": 1}))
    assert [why for _, why in carry_out(place)] == ["", ""]
    rows = [numbers(place.folder(one)) for one in place.study.cells]
    first, other = (row[0]["labels"] for row in rows)
    assert first == other
    assert first["repeated"] > first["meta"] > 0
    assert all(row[1]["labels"]["repeated"] > first["repeated"] for row in rows)
    files = [(place.folder(one) / "metrics.jsonl").read_text() for one in place.study.cells]
    assert sum("shared_with" in file for file in files) == 1


def test_what_another_run_paid_later_is_not_paid_by_those_that_share_its_start(tmp_path: Path) -> None:
    again = {"per_round": 5, "folds": 2, "recipe": {"epochs": 2, "batch_size": 10}}
    plan = TINY | {"oracle": {"name": "Hidden", "noise": 0.3}}
    grid = {"way": {"again": {"relabel": again}, "plain": {}}}
    place = Place.begun(tmp_path / "study", said(plan=plan, grid=grid))
    carry_out(place, workers=1)
    first, other = (numbers(place.folder(one))[-1]["labels"] for one in place.study.cells)
    assert "shared_with" in (place.folder(cell(place, way="plain")) / "metrics.jsonl").read_text()
    assert first["repeated"] > 0
    assert other["repeated"] == 0


def test_ray_gives_the_same(tmp_path: Path) -> None:
    study = said(grid={"acquisition": ["Random", "Margin"], "seed": 1})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    robal = str(Path(sys.executable).with_name("robal"))
    words = [robal, "compare", "study.yaml", "--out", "ray", "--scheduler", "ray", "--workers", "2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    here = Place.begun(tmp_path / "here", study)
    carry_out(here)
    for one in here.study.cells:
        assert numbers(here.folder(one)) == numbers(tmp_path / "ray" / one.name)


def test_without_ray_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from robal.studies import OnRay

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'robal\[ray\]'"):
        OnRay()


def test_a_study_may_grow_and_no_other_takes_its_folder(tmp_path: Path) -> None:
    small = said(grid={"acquisition": ["Random"], "seed": 1})
    place = Place.begun(tmp_path / "study", small)
    carry_out(place)
    grown = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random", "Margin"], "seed": 1}))
    ended = carry_out(grown)
    assert [name.split("-")[0] for name, _ in ended] == ["Margin"]
    row = json.loads((grown.folder(cell(grown, acquisition="Margin")) / "metrics.jsonl").read_text().splitlines()[0])
    assert row["shared_with"].startswith("Random")
    with pytest.raises(RunFolderError, match="2 of its runs are not in this one"):
        Place.begun(tmp_path / "study", said(plan=TINY | {"per_round": 11}))
    primary = {"compare": ["Margin", "Random"], "measure": "FGSM"}
    with pytest.raises(RunFolderError, match="primary comparison is another"):
        Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random", "Margin"], "seed": 1}, primary=primary))
    with grown.locked(), pytest.raises(FolderInUse, match="another process works"):
        carry_out(grown)
    with pytest.raises(RunFolderError, match="holds no study"):
        Place.of(tmp_path)


def test_a_run_of_which_the_metrics_alone_were_kept_lends_nothing(tmp_path: Path) -> None:
    """Nor is anything written in its folder."""
    place = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random"], "seed": 1}))
    carry_out(place)
    kept = place.folder(place.study.cells[0])
    for path in sorted(kept.rglob("*"), reverse=True):
        if path.name not in ("metrics.jsonl", "plan.yaml", "environment.json"):
            path.rmdir() if path.is_dir() else path.unlink()
    grown = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random", "Margin", "MaxEntropy"], "seed": 1}))
    assert [why for _, why in carry_out(grown)] == ["", ""]
    new = [(grown.folder(cell(grown, acquisition=one)) / "metrics.jsonl") for one in ("Margin", "MaxEntropy")]
    assert ["shared_with" in one.read_text() for one in new] == [False, True]  # the first computes it for both
    assert [len(one.read_text().splitlines()) for one in new] == [2, 2]
    assert {path.name for path in kept.iterdir()} == {"metrics.jsonl", "plan.yaml", "environment.json"}


def test_a_folder_that_was_damaged_by_hand_is_left_out_and_the_rest_reported(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said())
    carry_out(place)
    odd, other = place.study.cells[0], place.study.cells[1]
    (place.folder(odd) / "metrics.jsonl").write_text("not json\n")
    (place.folder(other) / "plan.yaml").unlink()
    assert place.standing(odd).status == "damaged"
    assert carry_out(place) == []
    page = study_report(place.path).read_text()
    assert f"{odd.name} damaged: " in page
    assert f"{other.name} is left out: " in page
    assert "Margin" in page


def test_a_study_whose_people_have_not_answered_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(said(plan=TINY | {"oracle": "CSVFile"}, grid={"seed": 1})))
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(file), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert ended.value.code == 3
    assert "wait for a label" in capsys.readouterr().err


def test_a_mistake_in_one_cell_comes_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(said(grid={"acquisition": ["Random", "Margn"], "seed": 2})))
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(file), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "acquisition Margn, seed 0 (and 1 more)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(PlanError, match="no study file"):
        read_text(tmp_path / "nothing.yaml")


def test_what_a_study_costs_is_said_and_nothing_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(said()))
    main_ends(["compare", str(file), "--plan", "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "4 runs, 200 labels" in out
    assert "2 of them take over the first round" in out
    assert not (tmp_path / "out").exists()
    runs = costs_of(said(), tmp_path / "out")
    # 10 epochs of 40 images, one pass; 2 of 50, PGD-2: three; PGD-2 on 20 test images twice, FGSM once; on 20 for
    # validation, twice
    assert runs[0].evaluations == 10 * 40 * 1 + 2 * 50 * 3 + 20 * (2 * 2 + 1) + 20 * 2 * 2
    place = Place.begun(tmp_path / "out", said())
    carry_out(place)
    assert sum(run.seconds for run in costs_of(said(), tmp_path / "out")) == 0


@pytest.mark.parametrize(
    "settings",
    [
        ("recipe.objective={name: FRL, steps: 2}", "meta.share=0.2", "oracle.noise=0"),
        ("relabel={folds: 2, per_round: 3, recipe: {epochs: 2, batch_size: 10}}", "oracle.noise=0.2"),
        ("data={train: digits}", "start.labels=0"),
    ],
    ids=["a meta set", "suspects", "known labels"],
)
def test_costs_are_what_a_run_will_have_spent(tmp_path: Path, settings: tuple[str, ...]) -> None:
    plan = tiny_plan("validation.images=0", "rounds=1", "evaluation.each_round=[]", "evaluation.at_end=[]", *settings)
    data = plan.data.load()
    state = run(plan, data, tmp_path / "run")
    for number, row in enumerate(state.history):
        counted = _training(plan, number, data)
        assert counted == pytest.approx(row["gradient_evaluations"], rel=0.02), number
    repeats = state.history[-1]["labels"]["repeated"]
    assert repeats <= repeated(plan)
    assert (repeated(plan) > 0) == ("relabel" in settings[0])


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    grid = {"acquisition": ["Random", "Margin"], "seed": 1}
    file.write_text(yaml.safe_dump(said(plan=TINY | {"rounds": 3}, grid=grid)))
    robal = str(Path(sys.executable).with_name("robal"))
    words = [robal, "compare", str(file), "--out", str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.default_int_handler
        ),  # a job in the background has none
    )
    for _ in range(1200):
        if list((tmp_path / "out").glob("*/metrics.jsonl")):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Go on with: robal compare" in errors
    place = Place.of(tmp_path / "out")
    assert "new" in {place.standing(one).status for one in place.study.cells}
    carry_out(place)
    assert {place.standing(one).status for one in place.study.cells} == {"finished"}


def test_where_the_run_that_others_share_a_start_with_fails_another_one_makes_it(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random", "Margin", "DRE"], "seed": 1}))
    first = place.folder(place.study.cells[0])
    first.mkdir()
    (first / "plan.yaml").write_text("x: [")
    ended = dict(carry_out(place))
    assert [bool(ended[one.name]) for one in place.study.cells] == [True, False, False]
    rows = [
        json.loads((place.folder(one) / "metrics.jsonl").read_text().splitlines()[0]) for one in place.study.cells[1:]
    ]
    assert [row.get("shared_with") for row in rows] == [None, place.study.cells[1].name]


def test_other_images_make_another_start(tmp_path: Path) -> None:
    grid = {"acquisition": ["Random"], "seed": 1}
    place = Place.begun(tmp_path / "study", said(grid=grid))
    carry_out(place)
    about = place.folder(place.study.cells[0]) / "environment.json"
    was = json.loads(about.read_text())
    was["data"]["fingerprint"] = "of other images"
    about.write_text(json.dumps(was))
    grown = Place.begun(tmp_path / "study", said(grid=grid | {"acquisition": ["Random", "Margin"]}))
    carry_out(grown)
    row = json.loads((grown.folder(cell(grown, acquisition="Margin")) / "metrics.jsonl").read_text().splitlines()[0])
    assert "shared_with" not in row


def test_runs_keep_their_folder_when_an_axis_joins(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random"], "seed": 1}))
    carry_out(place)
    grown = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random"], "per_round": [10, 12], "seed": 1}))
    assert [grown.standing(one).status for one in grown.study.cells] == ["finished", "new"]
