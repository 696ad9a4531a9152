"""The forecast of a run folder: in numbers, words and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robal.cli import main
from robal.errors import InputError, RunFolderError
from robal.report.forecast import forecast, picture, sentences

RATES = [0.30, 0.45, 0.52, 0.57, 0.60, 0.62]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.yaml").write_text(
        "start: {labels: 100, recipe: {objective: {name: Adversarial}}}\n"
        "recipe: {objective: {name: Adversarial}}\nper_round: 100\nrounds: 5\nthreat: {name: Linf, eps: 0.2}\n"
    )
    write(tmp_path / "run", RATES)
    return tmp_path / "run"


def write(folder: Path, rates: list[float]) -> None:
    rows = [
        {
            "round": number,
            "labelled": 100 * (number + 1),
            "accuracy": rate + 0.2,
            "robust_accuracy": {"PGD-20": rate} | ({"AutoAttack": rate - 0.05} if number == 5 else {}),
            "images": {"clean": 300, "PGD-20": 300, "AutoAttack": 300},
            "times": {"choose": 1.0, "label": 30.0, "train": 60.0, "evaluate": 9.0},
            "seconds": 100.0,
        }
        for number, rate in enumerate(rates)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_it_says_what_the_next_labels_bring_and_cost(folder: Path) -> None:
    found = forecast(folder, [100, 250], price=0.5)
    one, other = found.outlooks
    assert 0 < one.rates["PGD-20"].gain < other.rates["PGD-20"].gain < 0.2
    assert one.rates["PGD-20"].low < 0.63 < one.rates["PGD-20"].high
    assert (one.compute, one.labelling, one.price) == (70.0, 30.0, 50.0)
    assert (other.compute, other.labelling, other.price) == (210.0, 90.0, 125.0)  # three rounds
    said = sentences(found)
    assert said[0].startswith("The next 100 labels: +")
    assert "Cost: 100 labels for 50.00, 30.0 s of labelling, 1 min 10 s of computing." in said[0]
    assert "on test images, L∞ ε = 0.2" in said[2]
    assert said[-1] == "AutoAttack was measured in too few rounds for a curve."


def test_without_a_number_it_is_the_next_round_and_as_many_again(folder: Path) -> None:
    assert [one.more for one in forecast(folder).outlooks] == [100, 600]


def test_a_first_round_of_another_training_lies_on_no_curve(folder: Path) -> None:
    plan = folder / "plan.yaml"
    plan.write_text(
        plan.read_text().replace("recipe: {objective: {name: Adversarial}}}", "recipe: {objective: Natural}}")
    )
    assert forecast(folder).series[0].labels == (200, 300, 400, 500, 600)
    write(folder, RATES[:3])
    with pytest.raises(InputError, match=r"has 2 measured rounds .* 3 are needed; round 0 is trained otherwise"):
        forecast(folder)


def test_it_draws_and_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["forecast", str(folder), "--labels", "200", "400"])
    assert left.value.code in (0, None)
    said = capsys.readouterr().out
    assert "The next 400 labels" in said
    assert (folder / "report" / "figures" / "forecast.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main(["forecast", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == 600
    assert found["outlooks"][0]["rates"]["PGD-20"]["low"] < 0.63


@pytest.mark.parametrize("wrong", [{"more": [0]}, {"probability": 1.0}, {"price": -1.0}])
def test_numbers_that_cannot_be_are_refused(folder: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="a forecast needs labels >= 1"):
        forecast(folder, **wrong)  # type: ignore[arg-type]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        forecast(tmp_path)


def test_the_picture_goes_where_it_is_wanted(folder: Path, tmp_path: Path) -> None:
    assert picture(forecast(folder), tmp_path / "f.png").stat().st_size > 5_000


def test_more_labels_than_the_pool_has_are_said_and_a_simulation_waits_for_nobody(folder: Path) -> None:
    (folder / "environment.json").write_text(json.dumps({"data": {"pool": 700}}))
    plan = folder / "plan.yaml"
    plan.write_text(plan.read_text() + "oracle: {name: Hidden}\n")
    found = forecast(folder, [50, 200])
    assert [one.labelling for one in found.outlooks] == [0.0, 0.0]
    assert "The pool has 700 images to ask about in all, fewer than these labels need." in found.notes
    assert not any("The pool has" in note for note in forecast(folder, [50]).notes)
