"""The card of a model: complete for any run folder, and honest about what nobody tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robal.errors import InputError
from robal.report.card import PARTS, as_json, as_markdown, card
from robal.report.folder import read

Write = Callable[..., Path]


def only_pgd(row: dict[str, Any]) -> None:
    row["robust_accuracy"].pop("AutoAttack", None)


def untested_run(row: dict[str, Any]) -> None:
    row |= {"accuracy": None, "robust_accuracy": {}, "images": {}}


def with_audit(row: dict[str, Any]) -> None:
    untested_run(row)
    row["audit"] = {
        "asked": 40,
        "accuracy": 0.9,
        "robust_accuracy": {"PGD-50": 0.5},
        "images": {"clean": 40, "PGD-50": 40},
    }


@pytest.mark.parametrize("change", [lambda row: None, only_pgd, untested_run, with_audit])
@pytest.mark.parametrize("rounds", [0, 3, 6])
def test_it_is_complete_whatever_the_run_measured(
    write_run: Write, tmp_path: Path, change: Callable[[dict[str, Any]], None], rounds: int
) -> None:
    found = card(read(write_run(tmp_path / "run", rounds=rounds, change=change)))
    assert set(found) == set(PARTS)
    assert all(found[part] for part in PARTS if part != "cautions")
    assert json.loads(as_json(found)) == found
    text = as_markdown(found)
    for head in (
        "Model",
        "Input",
        "Classes",
        "Data",
        "Labels",
        "Training",
        "Threat",
        "Figures",
        "What it was not tested on",
        "Run",
    ):
        assert f"## {head}\n" in text
    assert "None" not in text


def test_its_figures_carry_intervals_and_say_of_what(write_run: Write, tmp_path: Path) -> None:
    found = card(read(write_run(tmp_path / "run", change=with_audit)))
    assert [one["of"] for one in found["figures"]] == ["images of the audit set"] * 2
    accuracy = found["figures"][0]
    assert accuracy["low"] < accuracy["rate"] == 0.9 < accuracy["high"]
    assert accuracy["images"] == 40


def test_what_nobody_tried_is_said(write_run: Write, tmp_path: Path) -> None:
    whole = card(read(write_run(tmp_path / "a")))["untested"]
    assert "Perturbations other than L∞ ε = 0.2." in whole
    assert not any("AutoAttack" in said for said in whole)
    weak = card(read(write_run(tmp_path / "b", change=only_pgd)))["untested"]
    assert any(said.startswith("AutoAttack") for said in weak)
    blind = card(read(write_run(tmp_path / "c", change=untested_run)))["untested"]
    assert any("there was no test set" in said for said in blind)


def test_a_folder_with_next_to_nothing_in_it_still_gives_a_whole_card(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "labelled": 5}\n')
    found = card(read(tmp_path))
    assert all(part in found for part in PARTS)
    assert found["figures"] == [{"what": "nothing was measured", "of": "test images", "rate": None}]
    assert as_markdown(found)


def test_a_run_without_a_round_has_no_card(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("{}")
    with pytest.raises(InputError, match="has no finished round"):
        card(read(tmp_path))
