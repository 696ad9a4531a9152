"""The page of a study: what it says, how fast it is made, and published numbers beside ours."""

from __future__ import annotations

import csv
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import pytest
import small_studies
import yaml
from small_studies import TINY, cell

from robal.cli import main
from robal.errors import PlanError
from robal.plans import encode, to_yaml
from robal.report.folder import read
from robal.studies import Place, named, reproduction, reproductions, study_of, study_report
from robal.studies.beside import _HARMLESS, otherwise
from robal.studies.measures import measures_of
from robal.studies.reproduce import HIGHEST
from robal.studies.results import Run, bias_of, results_of
from robal.wilson import wilson
from tiny_runs import main_ends

FUNCTIONS = ["Random", "DRE", "Margin", "MaxEntropy", "LeastConfidence", "DeepGini", "MCP", "CoreSet", "BADGE", "DFAL"]


PLAN = (
    TINY
    | {"start": TINY["start"] | {"labels": 100}, "per_round": 50}
    | {"evaluation": {"images": 20, "each_round": [{"name": "PGD", "steps": 50}], "at_end": ["AutoAttack"]}}
)


def said(**more: Any) -> dict[str, Any]:
    """A study whose runs measure what `told` writes."""
    return small_studies.said(**({"plan": PLAN} | more))


def written(path: Path, study: dict[str, Any]) -> Place:
    """A study in its folder, whose data need not be here."""
    place = Place.foreseen(path, study)
    path.mkdir(exist_ok=True)
    (path / "study.yaml").write_text(yaml.safe_dump(study))
    return place


def told(place: Place, robust: Any, rounds: int = 1, images: int = 1000, each: bool = True) -> None:
    """Write what finished runs would have; `robust(labels, round)`: accuracy under AutoAttack, in `each` round."""
    for one in place.study.cells:
        folder = place.folder(one)
        folder.mkdir(parents=True)
        (folder / "plan.yaml").write_text(to_yaml(one.plan))
        rows = []
        for number in range(rounds + 1):
            rate = robust(dict(one.labels), number)
            bought = one.plan.start.labels + one.plan.per_round * number
            row: dict[str, Any] = {
                "round": number,
                "labelled": bought,
                "labels": {"bought": bought},
            }
            row |= {"accuracy": min(1.0, rate + 0.3), "robust_accuracy": {"PGD-50": rate + 0.1, "AutoAttack": rate}}
            row |= {
                "images": {"clean": 5000, "PGD-50": images, "AutoAttack": images},
                "seconds": 60.0,
                "times": {"train": 60.0},
            }
            row |= {"gradient_evaluations": 1000, "query": {"images": 50, "classes": [5] * 10}}
            if not each and number < rounds:
                del row["robust_accuracy"]["AutoAttack"], row["images"]["AutoAttack"]
            if number:
                high = 0.5 if one.labels["acquisition"] == "Margin" else 0.1
                row["query"]["bias"] = {name: {"divergence": high, "floor": 0.1} for name in ("entropy", "true class")}
            rows.append(json.dumps(row))
        (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_says_what_can_be_reckoned_by_hand(tmp_path: Path) -> None:
    levels = {"Random": 0.4, "Margin": 0.3, "DRE": 0.5}

    def robust(labels: dict[str, str], number: int) -> float:
        spread = 0.01 if labels["acquisition"] == "Margin" else 0.0
        return levels[labels["acquisition"]] * number / 2 + spread * (int(labels["seed"]) - 2.5)

    primary = {"compare": ["DRE", "Random"], "measure": "AutoAttack"}
    grid = {"acquisition": list(levels), "seed": 6}
    place = Place.begun(tmp_path / "study", said(plan=PLAN | {"rounds": 2}, grid=grid, primary=primary))
    told(place, robust, rounds=2)
    page = study_report(place.path).read_text()
    # six pairs, all of one sign: p is the least possible, 2 / 2^6
    assert "DRE less Random, accuracy under AutoAttack at the end: +10.0" in page
    assert "p\u00a0=\u00a00.031 (least possible 0.031)" in page
    table = {row["acquisition"]: row for row in rows_of(place.path / "report" / "table.csv")}
    assert (table["DRE"]["AutoAttack"], table["DRE"]["less Random"]) == ("50.0", "+10.0")
    assert table["DRE"]["p"] == "0.031, primary"
    assert table["Margin"]["p"] == "0.031, Holm, explores"  # the only other one
    low, high = wilson(0.5, 1000)
    assert table["DRE"]["over images"] == f"{100 * low:.1f} to {100 * high:.1f}"
    # DRE's curve is 0, 0.25, 0.5 at 100, 150, 200 labels: it reaches 0.4 at 180, a tenth below 200
    assert table["DRE"]["labels to Random's end"] == "180 (+10 % saved)"
    assert table["Margin"]["labels to Random's end"] == "never"
    results = results_of(place)
    bias = bias_of(results.blocks[0], "AutoAttack")
    assert bias is not None
    assert bias.mean["entropy"] == pytest.approx({"Random": 0.0, "Margin": 0.4, "DRE": 0.0})
    assert [point.r is not None and point.r < -0.5 for point in bias.correlations["entropy"]] == [True, True]
    assert r"\toprule" in (place.path / "report" / "table.tex").read_text()
    assert {"block-1-bias.png", "block-1-differences.svg", "block-1-accuracy.png"} <= {
        file.name for file in (place.path / "report" / "figures").iterdir()
    }


def test_measures_by_class_can_be_reckoned_by_hand(tmp_path: Path) -> None:
    """Clean 0.9 and 0.7, robust 0.5 and 0.6, one class not in the test: falls of 0.4 and 0.1."""
    names = [f"{name}{kind}" for name in ("accuracy", "AutoAttack") for kind in (", balanced", ", worst class")]
    names += [f"boundary error under AutoAttack{kind}" for kind in ("", ", worst class")]
    plan = PLAN | {"start": PLAN["start"] | {"labels": 9999}, "per_round": 1}
    place = written(tmp_path / "study", said(plan=plan, measures=names))
    told(place, lambda labels, number: 0.5)
    for place_of, file in enumerate((tmp_path / "study").glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        third = [None] if place_of % 2 else []  # in half of the runs nobody has named that class
        for row in rows:
            robust = {"AutoAttack": [0.5, 0.6, *third]}
            fallen = {"AutoAttack": [0.4, 0.1, *third]}
            row["per_class"] = {"accuracy": [0.9, 0.7, *third], "robust_accuracy": robust, "boundary_error": fallen}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = results_of(place)
    assert results.measures[-6:] == tuple(names)
    line = results.blocks[0].lines[0]
    found = [line.mean(name) for name in names]
    assert found == pytest.approx([0.8, 0.7, 0.55, 0.5, 0.25, 0.4])
    page = study_report(place.path).read_text()
    assert "boundary error under AutoAttack, worst class" in page
    assert results.main == ("AutoAttack", "end")
    assert line.by_class("accuracy") == pytest.approx({"0": 0.9, "1": 0.7})  # none is told of the third
    assert line.by_class("boundary error under AutoAttack") == pytest.approx({"0": 0.4, "1": 0.1})
    panels = (place.path / "report" / "figures" / "block-1-classes.svg").read_text()
    assert panels.count(">90</text>") == panels.count(">10</text>") == len(results.blocks[0].lines)
    assert ">accuracy under AutoAttack, %</text>" in panels
    drawn = [file.read_text() for file in (place.path / "report" / "figures").glob("block-1-a*.svg")]
    assert sum(f">{name}</text>" in one for one in drawn for name in names) == 4
    assert sum(f">accuracy under {name}</text>" in one for one in drawn for name in names) == 2  # AutoAttack's
    assert all(">9999</text>" in one and ">10000</text>" in one for one in drawn)  # not -1 and 0 beside +1e4


def test_every_measure_is_compared_by_seed(tmp_path: Path) -> None:
    """Margin is 1, 2, … 6 points better under AutoAttack than Random, and as much in what follows from it."""
    grid = {"acquisition": ["Random", "Margin"], "seed": 6}
    place = written(tmp_path / "study", said(grid=grid))
    told(place, lambda labels, _: 0.5 + 0.01 * (int(labels["seed"]) + 1) * (labels["acquisition"] == "Margin"))
    (row,) = rows_of(study_report(place.path).parent / "differences.csv")
    assert (row["acquisition, less Random"], row["pairs"]) == ("Margin", "6")
    assert row["AutoAttack"] == row["PGD-50"] == row["accuracy"]
    found = results_of(place).blocks[0].differences("accuracy")["Margin"].pairs
    low, high = found.interval or (0.0, 0.0)
    assert low < found.mean < high
    assert found.mean == pytest.approx(0.035)
    assert row["accuracy"] == f"+3.5 (+{100 * low:.1f} to +{100 * high:.1f})"
    assert "Every measure, paired by seed" in (place.path / "report/index.html").read_text()


def test_of_few_seeds_no_p_is_given(tmp_path: Path) -> None:
    grid = {"acquisition": ["Random", "DRE"], "seed": 3}
    place = Place.begun(tmp_path / "study", said(grid=grid, primary={"compare": ["DRE", "Random"]}))
    told(place, lambda labels, number: 0.1 + 0.2 * (labels["acquisition"] == "DRE"))
    page = study_report(place.path).read_text()
    assert "too few seeds (p cannot be below 0.25)" in page


def test_where_autoattack_is_of_the_end_alone_curves_are_of_the_attack_of_each_round(tmp_path: Path) -> None:
    grid = {"acquisition": ["Random", "DRE", "Margin"], "seed": 6}
    place = Place.begun(tmp_path / "study", said(plan=PLAN | {"rounds": 4}, grid=grid))
    levels = {"Random": 0.1, "DRE": 0.2, "Margin": 0.05}
    told(place, lambda labels, number: levels[labels["acquisition"]] * number, rounds=4, each=False)
    block = results_of(place).blocks[0]
    assert block.curve_measure("AutoAttack") == "PGD-50"
    bias = bias_of(block, "PGD-50")
    assert bias is not None
    assert bias.rounds == (1, 2, 3, 4)
    table = {row["acquisition"]: row for row in rows_of(study_report(place.path).parent / "table.csv")}
    # PGD-50 is 0.1 above AutoAttack: Random ends at 0.5, DRE has it at half of its labels
    assert table["DRE"]["labels to Random's end"] == "200 (+33 % saved)"
    assert table["Margin"]["labels to Random's end"] == "never"


def test_holms_correction_makes_many_comparisons_of_few_seeds_untestable(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(grid={"acquisition": FUNCTIONS, "seed": 6}))
    told(place, lambda labels, number: 0.1 + 0.01 * FUNCTIONS.index(labels["acquisition"]) * number)
    table = rows_of(study_report(place.path).parent / "table.csv")
    # nine comparisons: no p can be below 9 * 2 / 2^6
    assert {row["p"] for row in table[1:]} == {"too few seeds (p cannot be below 0.28)"}


def test_runs_that_are_not_finished_say_nothing_of_the_end(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(plan=PLAN | {"rounds": 2}, grid={"acquisition": ["Random", "DRE"]}))
    told(place, lambda labels, number: 0.2 * number, rounds=2)
    folder = place.folder(cell(place, acquisition="Random"))
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    rows = {row["acquisition"]: row for row in rows_of(study_report(place.path).parent / "table.csv")}
    assert (rows["Random"]["runs"], rows["Random"]["AutoAttack"]) == ("0", "–")
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe")
    assert "damaged" in study_report(place.path).read_text()


def test_a_run_that_its_stop_ended_is_finished(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(plan=PLAN | {"rounds": 2}, grid={"acquisition": ["Random", "DRE"]}))
    told(place, lambda labels, number: 0.2 * number, rounds=2)
    one = cell(place, acquisition="Random")
    path = place.folder(one) / "metrics.jsonl"
    first, second, _ = path.read_text().splitlines()
    path.write_text("\n".join([first, json.dumps(json.loads(second) | {"stopped": {"probability": 0.9}})]) + "\n")
    assert place.standing(one).status == "finished"
    rows = {row["acquisition"]: row for row in rows_of(study_report(place.path).parent / "table.csv")}
    assert (rows["Random"]["runs"], rows["Random"]["AutoAttack"]) == ("1", "20.0")
    assert (rows["DRE"]["runs"], rows["DRE"]["AutoAttack"]) == ("1", "40.0")
    found = Run(one, read(place.folder(one), strips=False))
    assert found.value("AutoAttack", "area") == pytest.approx(0.15)  # up to 0.2 in the first half, and level from there


def test_data_sets_are_blocks_and_never_pooled(tmp_path: Path) -> None:
    grid = {"start.labels": [20, 40], "acquisition": ["Random", "DRE"], "seed": 2}
    place = Place.begun(tmp_path / "study", said(grid=grid))
    told(place, lambda labels, number: 0.2 if labels["start.labels"] == "20" else 0.4)
    results = results_of(place)
    assert [block.said for block in results.blocks] == ["start.labels 20", "start.labels 40"]
    assert "No comparison was fixed beforehand" in study_report(place.path).read_text()


def test_the_report_of_two_hundred_runs_is_fast_and_small(tmp_path: Path) -> None:
    draw = random.Random(0)
    place = Place.begun(
        tmp_path / "study", said(plan=PLAN | {"rounds": 8}, grid={"acquisition": FUNCTIONS, "seed": 20})
    )
    told(place, lambda labels, number: 0.05 * number + 0.05 * draw.random(), rounds=8)
    began = time.process_time()
    page = study_report(place.path)
    assert time.process_time() - began < 10
    assert page.stat().st_size < 5_000_000
    assert page.read_text().count("plan.yaml") == 200


def test_nothing_finished_yet(tmp_path: Path) -> None:
    place = Place.begun(tmp_path / "study", said(primary={"compare": ["Margin", "Random"]}))
    assert "nothing to compare yet" in study_report(place.path).read_text()


def test_names_from_a_study_file_are_no_html(tmp_path: Path) -> None:
    grid = {"acquisition": {"<b>bold</b>": "Random", "other": "DRE"}, "seed": 1}
    place = Place.begun(tmp_path / "study", said(grid=grid))
    told(place, lambda labels, number: 0.3)
    assert "<b>bold" not in study_report(place.path).read_text()


# What was published


def test_published_numbers_are_the_papers() -> None:
    found = reproductions()["dre-table5-fashion"].published
    assert found[6000]["DRE"] == {"accuracy": 0.7379, "AutoAttack": 0.3379}
    assert found[2200]["Random"] == {"accuracy": 0.7184, "AutoAttack": 0.3207}
    # what the text says of the table, MNIST and the last stage: DRE is 3.84 above Random
    last = reproductions()["dre-table5-mnist"].published[5000]
    assert math.isclose(last["DRE"]["AutoAttack"] - last["Random"]["AutoAttack"], 0.0384)
    initial = reproductions()["dre-table3-cifar10-vgg16"].published["end"]["initial"]
    assert initial == {"accuracy": 0.3701, "PGD-50": 0.0171, "Square-5000": 0.0427, "AutoAttack": 0.0154}
    caat = reproductions()["caat-standard"].published["end"][
        "CAAT ReMargin"
    ]  # errors 13.9 and 29.3, of classes 24.3, 44.4
    assert list(caat.values())[:4] == [0.861, 0.757, 0.707, 0.556]
    assert reproductions()["caat-noise"].published["end"] == {}
    quick = reproductions()["caat-noise"].study(quick=True)["measures"]
    assert {"accuracy, worst class", "boundary error under PGD-20, worst class"} <= set(quick)
    assert not any("AutoAttack" in measure for measure in quick)  # it is not run there
    for about in reproductions().values():
        for is_quick in (True, False):
            further = [f"{key}={json.dumps(value)}" for key, value in about.stand_in.items()]
            plan = study_of(about.study(seeds=1, quick=is_quick, settings=further)).cells[0].plan
            if further:
                assert plan.data.name == about.stand_in["data.name"]
            if about.stand_in and about.name.startswith("caat"):
                plan.network((1, 28, 28), 10, 0)  # grey images, for which the three means would be wrong
    # what the text says of table 6, Fashion-MNIST and 4 %: DRE is 8.21 above Random and 2.58 above the model before
    few, many = (reproductions()[f"dre-table6-fashion-{share}"].published for share in (1, 4))
    assert math.isclose(many[400]["DRE"]["AutoAttack"] - many[400]["Random"]["AutoAttack"], 0.0821)
    assert math.isclose(many[400]["DRE"]["AutoAttack"] - many[0]["Random"]["AutoAttack"], 0.0258)
    assert few[100]["DRE"] == {"accuracy": 0.6946, "AutoAttack": 0.3456}
    assert reproductions()["dre-table6-cifar10-4"].published == {0: {}, 400: {}}
    dfal = reproductions()["dfal-quickdraw-vgg8"].published
    assert [dfal[labels]["CORE-SET"]["accuracy"] for labels in (100, 500, 800, 1000)] == [
        0.6671,
        0.8993,
        0.9228,
        0.9262,
    ]


@pytest.mark.parametrize("name", sorted(reproductions()))
def test_what_is_published_can_be_measured(name: str) -> None:
    """Every published row is a line of the study, and every measure one of its runs takes, where it was published."""
    about = reproductions()[name]
    for stage in about.rounds:
        study = study_of(about.study(stage, seeds=1))
        assert {cell.plan.rounds for cell in study.cells} == {about.rounds[stage]}
        assert set(study.axes[about.axis]) == set(about.labels)
        quick = study_of(about.study(stage, seeds=1, quick=True))
        assert all(one.plan.rounds <= 3 for one in quick.cells)
        assert not set(otherwise(about, quick)) <= set(_HARMLESS)  # a quick look compares nothing
        assert otherwise(about, study) == {}
    longest = study_of(about.study(list(about.rounds)[-1], seeds=1))
    for at, rows in about.published.items():
        assert set(rows) <= {*about.labels, HIGHEST}
        of_it = [one for one in longest.cells if HIGHEST in rows or one.labels[about.axis] in rows]
        assert of_it or not rows
        for one in of_it:
            plan = one.plan
            stages = [plan.start.labels + number * plan.per_round for number in range(plan.rounds + 1)]
            assert at == "end" or at in stages
            for measures in rows.values():
                assert set(measures) <= set(measures_of(plan))
    for other in about.also:
        assert reproduction(other) is about


def test_published_figures_stand_beside_ours_where_they_can_be_compared(tmp_path: Path) -> None:
    about = reproduction("dre-table5-mnist")
    place = written(tmp_path / "study", about.study(only=["DRE", "Random"], seeds=2))
    told(place, lambda labels, number: 0.56 if labels["acquisition"] == "DRE" else 0.40, rounds=8)
    page = study_report(place.path).read_text()
    assert "What is done otherwise" in page
    rows = {(row["what"], row["measure"]): row for row in rows_of(place.path / "report" / "published.csv")}
    assert len(rows) == 4
    assert rows["DRE", "AutoAttack"]["differs"] == ""  # 56.0 both
    assert rows["DRE", "AutoAttack"]["labels"] == "1,800"
    assert rows["Random", "AutoAttack"]["differs"] == "differs"  # 54.1 there
    assert rows["Random", "AutoAttack"]["difference"] == "-14.1"
    assert "ours, highest so far" not in rows["Random", "AutoAttack"]
    curves = (place.path / "report/figures/block-1-accuracy.svg").read_text()
    assert "published" in curves
    for setting in (
        "network=LeNet5",
        "start={labels: 50}",
        "recipe.epochs=1",
        "recipe.objective=Natural",
        "oracle.noise=0.3",
    ):
        told_of = otherwise(about, study_of(about.study(seeds=1, settings=[setting])))
        assert not set(told_of) <= set(_HARMLESS), setting
    other = study_of(about.study(seeds=1, settings=["recipe.objective.attack.steps=10"]))
    steps = "recipe.objective.attack.steps"
    assert otherwise(about, other) == {steps: f"{steps} is 10 instead of 40."}
    assert about.study(rounds=0)["plan"]["rounds"] == 0
    quick = written(tmp_path / "quick", about.study(only=["DRE"], seeds=1, quick=True))
    told(quick, lambda labels, number: 0.5, rounds=2)
    assert "nothing here can be compared" in study_report(quick.path).read_text()


def test_a_published_curve_of_highest_accuracies_stands_beside_ours_raw_and_so_far(tmp_path: Path) -> None:
    about = reproduction("dfal-mnist-lenet5")
    place = written(tmp_path / "study", about.study(only=["DFAL"], seeds=2))
    told(place, lambda labels, number: 0.6 if number == 39 else 0.5, rounds=90)
    study_report(place.path)
    rows = {row["labels"]: row for row in rows_of(place.path / "report" / "published.csv")}
    assert list(rows) == ["100", "500", "800", "1,000"]
    assert [row["ours"] for row in rows.values()] == ["80.0"] * 4
    assert [row["ours, highest so far"] for row in rows.values()] == ["80.0", "90.0", "90.0", "90.0"]
    assert [row["published"] for row in rows.values()] == ["82.8", "96.2", "97.7", "98.0"]


def test_the_best_line_stands_beside_a_published_highest(tmp_path: Path) -> None:
    about = reproduction("dre-table1-mnist")
    place = written(tmp_path / "study", about.study(seeds=1))
    told(place, lambda labels, number: 0.6 if labels["acquisition"] == "Random" else 0.0, rounds=24)
    study_report(place.path)
    rows = {row["measure"]: row for row in rows_of(place.path / "report" / "published.csv")}
    assert [rows[name]["ours"] for name in ("accuracy", "AutoAttack")] == ["90.0", "60.0"]
    assert rows["AutoAttack"]["what"] == "highest of all"
    assert rows["AutoAttack"]["differs"] == "differs"  # 0.20 at most
    below = written(tmp_path / "below", about.study(seeds=1))
    told(below, lambda labels, number: 0.0, rounds=24)
    study_report(below.path)
    assert rows_of(below.path / "report" / "published.csv")[1]["differs"] == ""
    some = written(tmp_path / "some", about.study(only=["Random"], seeds=1))
    told(some, lambda labels, number: 0.0, rounds=24)
    study_report(some.path)
    assert not (some.path / "report" / "published.csv").exists()  # the best of one is not that of twelve


def test_a_published_correlation_stands_beside_ours(tmp_path: Path) -> None:
    about = reproduction("dre-figure3-svhn")
    place = written(tmp_path / "study", about.study(seeds=1))
    robust = {label: 0.1 + 0.05 * number for number, label in enumerate(about.labels)} | {
        "DRE": 0.01
    }  # which is left out
    told(place, lambda labels, number: robust[labels["acquisition"]], rounds=6)
    for one in place.study.cells:
        file = place.folder(one) / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows[1:]:
            told_of = {"entropy": 1 - robust[one.labels["acquisition"]], "margin": 0.1}
            row["query"]["bias"] = {name: {"divergence": high, "floor": 0.0} for name, high in told_of.items()}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = study_report(place.path).read_text()
    assert "<td>-0.65</td><td>-1.00</td><td>-0.84</td><td>-1.00</td>" in page
    assert "margin</th>" not in page.split("Pearson")[0]  # the same for all: no correlation
    few = written(tmp_path / "few", about.study(only=["Random", "BALD", "EGL"], seeds=1))
    told(few, lambda labels, number: robust[labels["acquisition"]], rounds=6)
    assert "-0.65" not in study_report(few.path).read_text()  # three of eleven are another thing


def test_a_table_is_all_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [one.name for one in named("dfal-shoebag")] == ["dfal-shoebag"]
    assert len(named("dre-table5")) == len(named("dre-figure2")) == 6
    with pytest.raises(PlanError, match="nothing to reproduce is called 'dre-table'"):
        named("dre-table")
    with pytest.raises(SystemExit) as ended:  # no data there: each column is said
        main(["reproduce", "dre-table2", "--plan", "--data", str(tmp_path)])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "left out: dre-table2-mnist (no mnist; `robal data list` says more); dre-table2-fashion" in said


def test_more_functions_join_a_reproduction_with_fewer_seeds(tmp_path: Path) -> None:
    from robal.studies import joined, with_data

    about, folder = reproduction("dre-table5-mnist"), tmp_path / "study"
    written(folder, about.study(only=["DRE", "Random"], seeds=4))
    place = written(folder, joined(folder, about.study(seeds=2)))
    assert len(place.study.cells) == 2 * 4 + 10 * 2
    assert dict(cell(place, acquisition="Random", seed="3").labels) == {"acquisition": "Random", "seed": "3"}
    assert len(written(folder, joined(folder, about.study(seeds=2))).study.cells) == 28
    assert len(joined(folder, about.study(only=["Random"], seeds=1))["grid"]) == 2  # that is a part of what is there
    assert len(joined(folder, about.study(seeds=4))["grid"]) == 1  # and this is the whole of it
    moved = joined(folder, with_data(about.study(only=["Random"], seeds=5), tmp_path / "elsewhere"))
    assert (len(moved["grid"]), moved["plan"]["data.folder"]) == (3, str(tmp_path / "elsewhere"))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_ends(["reproduce", "--list"])
    assert "dre-table5-mnist" in capsys.readouterr().out
    for words, message in (
        (["dre-table5-minst"], "did you mean 'dre-table5-mnist'"),
        (["dre-table5-mnist", "--only", "DER"], "has no 'DER'"),
        (["dre-table5-mnist", "acquisition.allocation=released"], "says itself what it compares"),
        (["dre-table3-mnist", "start.labels=7"], "says itself what it compares"),
        (["dfal-transfer", "network=LeNet5"], "says itself what it compares"),
        (["dre-table5-mnist", "--seeds", "0"], "has no value"),
        (
            ["dre-table6-mnist", "per_round=200", "dataset=digits"],
            "dre-table6-mnist-1 and dre-table6-mnist-4 would be the same runs; name one of them",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["reproduce", *words, "--out", str(tmp_path / "out")])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert encode(study_of(said()).cells[0].plan)["rounds"] == 1
