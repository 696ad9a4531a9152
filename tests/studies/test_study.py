"""What a study file says, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_studies import TINY, said

from robal.acquisition import DRE, Margin, Random
from robal.errors import PlanError
from robal.studies import Primary, study_of, with_data


def test_a_grid_is_the_product_of_its_axes() -> None:
    grid = {
        "acquisition": ["Random", {"name": "DRE", "bins": 30}],
        "dataset": ["digits"],
        "seed": [3, 5],
        "length": {"short": {}, "long": {"rounds": 2, "recipe.epochs": 3}},
    }
    study = study_of(said(grid=grid))
    assert len(study.cells) == 8
    assert study.axes == {
        "acquisition": ("Random", "DRE bins=30"),
        "dataset": ("digits",),
        "length": ("short", "long"),
        "seed": ("3", "5"),
    }
    last = study.cells[-1]
    assert dict(last.labels) == {"acquisition": "DRE bins=30", "dataset": "digits", "length": "long", "seed": "5"}
    assert (last.plan.acquisition, last.plan.seed, last.plan.rounds, last.plan.recipe.epochs) == (DRE(bins=30), 5, 2, 3)
    assert last.name.startswith("DRE-bins-30-digits-long-s5-")
    assert len({cell.name for cell in study.cells}) == 8


def test_runs_that_differ_after_the_first_round_alone_share_it() -> None:
    lengths = {"short": {}, "long": {"rounds": 2, "per_round": 5, "recipe.epochs": 3}}
    study = study_of(said(grid={"acquisition": ["Random", "Margin"], "length": lengths, "seed": 2}))
    assert len({cell.start for cell in study.cells}) == 2  # a seed each
    other = study_of(said(grid={"start.labels": [20, 40], "seed": 1}))
    assert len({cell.start for cell in other.cells}) == 2
    at_the_end = study_of(said(grid={"rounds": [0, 1]}))  # round 0 is the last one of the first: it is attacked more
    assert len({cell.start for cell in at_the_end.cells}) == 2
    people = study_of(said(plan=TINY | {"oracle": "CSVFile"}))
    assert {cell.start for cell in people.cells} == {""}
    objectives = {"plain": "Natural", "with a meta set": "CAAT", "with one too": "FRL"}
    apart = study_of({"plan": TINY, "grid": {"recipe.objective": objectives}})
    starts = [cell.start for cell in apart.cells]
    assert starts[0] != starts[1] == starts[2]  # of the first labels a share is not trained on


def test_a_preset_is_what_the_plan_is_laid_over() -> None:
    study = study_of({"preset": "dre-mnist", "plan": {"rounds": 3}, "grid": {"acquisition": ["DRE", "Random"]}})
    assert [type(cell.plan.acquisition) for cell in study.cells] == [DRE, Random]
    assert {cell.plan.data.name for cell in study.cells} == {"mnist"}
    assert {cell.plan.rounds for cell in study.cells} == {3}
    assert [cell.labels["seed"] for cell in study.cells] == ["0", "0"]


def test_data_sets_make_runs_apart_though_the_rest_is_the_same() -> None:
    study = study_of({"preset": "dre-mnist", "grid": {"dataset": ["mnist", "fashion-mnist"]}})
    assert len({cell.name for cell in study.cells}) == len({cell.start for cell in study.cells}) == 2


def test_another_data_set_keeps_the_other_settings_of_the_data() -> None:
    sets = {"as it is": {}, "other": {"data.name": "fashion-mnist", "data.train": "fashion-mnist"}}
    study = study_of({"preset": "dre-retrain-mnist", "plan": {"data.folder": "/d"}, "grid": {"images": sets}})
    data = [cell.plan.data for cell in study.cells]
    assert [(one.name, one.train, one.resize, one.folder) for one in data] == [
        ("mnist", "mnist", 32, "/d"),
        ("fashion-mnist", "fashion-mnist", 32, "/d"),
    ]
    alone = study_of({"plan": {"data.folder": "/d"}, "grid": {"data": ["digits", "mnist"]}})
    assert [(one.plan.data.name, one.plan.data.folder) for one in alone.cells] == [("digits", "/d"), ("mnist", "/d")]


def test_the_primary_comparison() -> None:
    grid = {"acquisition": ["Random", "Margin"], "start.labels": [20, 40]}
    primary = {"compare": ["Margin", "Random"], "measure": "PGD-2", "at": "area", "where": {"start.labels": 20}}
    found = study_of(said(grid=grid, primary=primary)).primary
    assert found == Primary("acquisition", ("Margin", "Random"), "PGD-2", "area", {"start.labels": "20"})
    assert isinstance(study_of(said()).cells[2].plan.acquisition, Margin)
    assert study_of(said()).primary is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gird": {}}, "gird: unknown; did you mean 'grid'"),
        ({"grid": {}}, "grid names what is varied"),
        ({"plan": ["rounds"]}, "plan must be a mapping"),
        ({"preset": "dre-mnits"}, "no preset is called 'dre-mnits'"),
        ({"grid": {"acquisition": ["Random", "DER"], "seed": 3}}, r"acquisition DER, seed 0 \(and 2 more\): .*'DER'"),
        ({"grid": {"acqusition": ["Random"]}}, "grid.acqusition is no setting"),
        ({"grid": {"rounds": [1, 1]}}, "grid.rounds has a value twice"),
        ({"grid": {"rounds": []}}, "grid.rounds has no value"),
        ({"grid": {"rounds": 3}}, "grid.rounds is a list"),
        ({"grid": {"evaluation.at_end": [["FGSM"]]}}, "give .* a label"),
        ({"grid": {"length": {"short": 3}}}, "grid.length.short must be a mapping"),
        ({"grid": {"length": {"short": {}, "same": {}}}}, "are the same run"),
        ({"grid": {"seed": 5000}}, "5,000 runs"),
        ({"primary": {"compare": ["Margin", "Rando"]}}, "'Rando' is no value of acquisition"),
        ({"primary": {"axis": "seed"}}, "'seed' is no axis"),
        ({"primary": {"compare": ["Random", "Random"]}}, "takes two labels"),
        ({"primary": {"compare": ["Margin", "Random"], "at": "start"}}, "end or area"),
        ({"primary": {"compare": ["Margin", "Random"], "measures": "x"}}, "primary.measures: unknown"),
        ({"primary": "DRE"}, "primary is a mapping"),
        ({"reproduces": "dre-table6"}, "nothing to reproduce is called 'dre-table6'"),
        ({"grid": {"time": {"short": {}, "long": {"rounds": 9}}}}, "grid.time: a column of the report is called so"),
        ({"primary": {"compare": None}}, "primary.compare is a list"),
        ({"primary": {"compare": ["Margin", "Random"], "where": {"datset": "x"}}}, "'datset' is no axis"),
        ({"measures": ["acuracy, worst class"]}, "measures: no run has 'acuracy, worst class'; did you mean"),
        ({"measures": "accuracy"}, "measures is a list"),
        (
            {"primary": {"compare": ["Margin", "Random"], "measure": "AutoAtack"}},
            "'AutoAtack' is not measured at its end by acquisition Random, seed 0; it measures accuracy, PGD-2, FGSM",
        ),
        (
            {"primary": {"compare": ["Margin", "Random"], "measure": "FGSM", "at": "area"}},
            "'FGSM' is not measured in each round",
        ),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        study_of(said(**change))


def test_grids_in_a_list_are_joined() -> None:
    study = study_of(said(grid=[{"acquisition": ["Random"], "seed": 3}, {"acquisition": ["Random", "DRE"], "seed": 1}]))
    assert [cell.said for cell in study.cells] == [
        *(f"acquisition Random, seed {seed}" for seed in range(3)),
        "acquisition DRE, seed 0",
    ]
    assert study.axes == {"acquisition": ("Random", "DRE"), "seed": ("0", "1", "2")}
    with pytest.raises(PlanError, match="all grids vary the same"):
        study_of(said(grid=[{"acquisition": ["Random"]}, {"rounds": [1]}]))


def test_a_primary_comparison_is_one() -> None:
    grid = {"acquisition": ["Random", "Margin"], "start.labels": [20, 40]}
    with pytest.raises(PlanError, match=r"start\.labels has several values: say which, as in where: \{start"):
        study_of(said(grid=grid, primary={"compare": ["Margin", "Random"]}))


def test_what_the_data_cannot_carry_names_the_cells() -> None:
    study = study_of(said(grid={"per_round": [10, 100_000], "seed": 2}))
    with pytest.raises(PlanError, match=r"per_round 100000, seed 0 \(and 1 more\): the plan asks for"):
        study.check()


@pytest.mark.parametrize("plan", [{}, {"data": "mnist"}, {"data": {"name": "mnist"}}, {"data.name": "mnist"}, None])
def test_data_that_lie_elsewhere_are_those_of_the_plan(plan: Any, tmp_path: Path) -> None:
    study = study_of(with_data({"plan": plan, "grid": {"acquisition": ["Random"]}}, tmp_path))
    source = study.cells[0].plan.data
    assert (source.name, source.folder) == ("mnist" if plan else "digits", str(tmp_path))
