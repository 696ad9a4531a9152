"""A study mirrored in MLflow, the real one: each run once, each round a step, and nothing depends on it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from small_studies import carry_out, cell, numbers, said

from robal.cli import main
from robal.errors import RobalError
from robal.studies import MLflow, Place, Tracker, compare, mirrored, watch
from robal.studies.schedule import Local
from tiny_runs import main_ends

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow uses what SQLAlchemy deprecates


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.begun(tmp_path_factory.mktemp("studies") / "tracked", said())
    assert [why for _, why in carry_out(place)] == [""] * 4
    return place


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> MLflow:
    assert isinstance(MLflow(), Tracker)
    return MLflow(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs.db").reached()


def runs_in(tracker: MLflow, study: str) -> dict[str, Any]:
    """What MLflow has, by the runs' names."""
    mlflow = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id])
    return {
        run.info.run_name: (run, {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics})
        for run in found
    }


def test_every_run_is_there_once_with_its_plan_and_its_rounds(study: Place, tracker: MLflow) -> None:
    for _ in range(2):  # told twice, kept once
        for one in study.study.cells:
            mirrored(study, one, tracker)
    found = runs_in(tracker, str(study.path))
    assert set(found) == {one.name for one in study.study.cells}
    one = cell(study, acquisition="Margin", seed="1")
    run, metrics = found[one.name]
    rows = numbers(study.folder(one))
    assert [(point.step, point.value) for point in metrics["accuracy"]] == [
        (row["round"], row["accuracy"]) for row in rows
    ]
    assert metrics["under PGD-2"][-1].value == rows[-1]["robust_accuracy"]["PGD-2"]
    assert [point.value for point in metrics["labels"]] == [row["labels"]["bought"] for row in rows]
    assert run.data.params["acquisition"] == "Margin"
    assert run.data.params["threat.eps"] == "0.05"
    assert run.info.status == "FINISHED"


def test_a_run_that_goes_on_goes_on_there(study: Place, tracker: MLflow) -> None:
    seed = {"seed": "0", "threat.eps": "0.05"}
    tracker.mirror("going on", "one", seed, [{"accuracy": 0.1}], "begun")
    tracker.mirror("going on", "one", seed, [{"accuracy": 0.1}, {"accuracy": 0.2}], "failed")
    assert runs_in(tracker, "going on")["one"][0].info.status == "FAILED"
    tracker.mirror("going on", "one", seed, [{"accuracy": 0.1}, {"accuracy": 0.2}], "begun")  # tried again
    assert runs_in(tracker, "going on")["one"][0].info.status == "RUNNING"
    tracker.mirror("going on", "one", seed, [{"accuracy": 0.1}, {"accuracy": 0.2}, {"accuracy": 0.4}], "finished")
    ((run, metrics),) = runs_in(tracker, "going on").values()
    assert [(point.step, point.value) for point in metrics["accuracy"]] == [(0, 0.1), (1, 0.2), (2, 0.4)]
    assert run.info.status == "FINISHED"


def test_a_run_that_fails_is_a_failed_one_there_too(tmp_path: Path, tracker: MLflow) -> None:
    place = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random"], "seed": 1}))
    (one,) = place.study.cells
    mirrored(place, one, tracker)  # nothing has happened yet
    place.folder(one).mkdir()
    (place.folder(one) / "failed.json").write_text('{"why": "out of luck", "waits": false}')
    mirrored(place, one, tracker)
    ((run, metrics),) = runs_in(tracker, str(place.path)).values()
    assert (run.info.status, metrics) == ("FAILED", {})


def test_a_tracker_that_fails_stops_nothing(tmp_path: Path) -> None:
    class Full:
        def mirror(self, *_: Any) -> None:
            raise OSError("the disk of somebody else is full")

    place = Place.begun(tmp_path / "study", said(grid={"acquisition": ["Random"], "seed": 1}))
    console = Console(file=(tmp_path / "said").open("w"), width=200)
    assert watch(place, compare(place, Local(1)), console, Full()) == {"finished": 1}
    console.file.close()
    assert "not tracked: Full took nothing of" in (tmp_path / "said").read_text()


def test_the_command_line(
    study: Place, tracker: MLflow, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(said()))
    store = f"sqlite:///{tmp_path}/mlflow.db"
    main_ends(["compare", str(file), "--out", str(study.path), "--track", store])  # all finished: told of afterwards
    assert len(runs_in(MLflow(store), str(study.path))) == 4
    for uri, message in (("sqlite:////proc/nowhere/x.db", "does not reach"), ("what://ever", "does not reach")):
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(file), "--out", str(tmp_path / "new"), "--track", uri])
        assert ended.value.code != 0
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RobalError, match=r"pip install 'robal\[mlflow\]'"):
        MLflow().reached()
