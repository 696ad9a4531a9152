"""A run that ends early, because more labels would hardly help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from robal.cli import main
from robal.data import Data
from robal.errors import InputError
from robal.loop import run
from robal.measure import stopped_by
from robal.pool import UNLABELLED
from robal.report.folder import read
from tiny_runs import outcome, rows, tiny_plan

STOPS = ("rounds=5", "stop={gain: 50, after: 4}", "validation.bought_share=0.2")


def test_it_ends_early_and_its_last_round_is_measured_as_a_last_one(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, folder = tiny_plan(*STOPS), tmp_path / "run"
    state = run(plan, data, folder)
    found = rows(folder)
    assert len(found) == 4
    assert state.is_over(plan)
    assert found[-1]["stopped"]["points_for_100_labels"] < 50
    assert all("stopped" not in row for row in found[:-1])
    assert "FGSM" in found[-1]["robust_accuracy"]
    assert all("FGSM" not in row["robust_accuracy"] for row in found[:-1])
    before = outcome(folder)
    run(plan, data, folder)  # which finds it over
    assert outcome(folder) == before
    record = read(folder)
    assert record.is_finished
    assert record.status == "round 3 of 5, stopped: more labels would hardly help"
    with pytest.raises(SystemExit) as left:
        main(["resume", str(folder)])
    assert left.value.code in (0, None)
    assert capsys.readouterr().err == ""


def test_it_goes_on_as_long_as_labels_help(data: Data, tmp_path: Path) -> None:
    run(tiny_plan(*STOPS, "stop.gain=-1000"), data, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 6


def test_it_goes_by_validation_alone() -> None:
    plan = tiny_plan(*STOPS)
    history = [
        {"labelled": 100 * k, "validation": {"accuracy": 0.9, "robust_accuracy": {"PGD-2": rate}}}
        for k, rate in enumerate([0.3, 0.5, 0.5, 0.5, 0.5], start=1)
    ]  # no test figure is there to be looked at
    found = stopped_by(plan, history)
    assert found is not None
    assert found["probability"] > 0.5
    for k, row in enumerate(history):
        row["validation"] = {"accuracy": 0.9, "robust_accuracy": {"PGD-2": 0.1 * k}}
    assert stopped_by(tiny_plan(*STOPS, "stop.gain=0.5"), history) is None


@pytest.mark.parametrize("settings", [("stop={}", "validation.images=0"), ("stop={}", "validation.measure=loss")])
def test_it_is_refused_where_nothing_tells_how_it_goes(data: Data, tmp_path: Path, settings: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="stop goes by an accuracy on validation images"):
        run(tiny_plan(*settings), data, tmp_path / "run")


@pytest.mark.parametrize("settings", ["{after: 2}", "{sure: 1}", "{sure: 0}"])
def test_a_rule_that_cannot_be_is_refused(settings: str) -> None:
    with pytest.raises(Exception, match="stop needs after >= 3"):
        tiny_plan(f"stop={settings}")


def test_a_retraining_that_buys_nothing_at_first_goes_by_its_later_rounds(data: Data, tmp_path: Path) -> None:
    known = data.hidden.clone()  # type: ignore[union-attr]
    known[200:] = UNLABELLED
    plan = tiny_plan(
        "start={labels: 0, recipe: {objective: Natural}}",
        "recipe.objective=Natural",
        "rounds=4",
        "stop={gain: 50, after: 3}",
        "validation.images=20",
    )
    run(plan, replace(data, known=known), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert [row["labelled"] for row in found] == [0, 10, 20, 30]  # three rounds with labels, and then it is enough
    assert "stopped" in found[-1]
