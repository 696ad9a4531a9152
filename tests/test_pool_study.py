"""benchmarks/pool_training.py: arms are comparable plans, and kept runs are those of their plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robal import presets
from robal.plan import Plan
from robal.plans import read_plan, read_yaml, to_yaml

STUDY = "pool_training"


def plan_of(preset: str, *settings: str) -> Plan:
    return read_plan(None, settings, read_yaml(presets.text(preset), preset))


def test_every_arm_is_a_plan_of_the_same_budget_and_network_and_buys_what_its_name_says(study: Any) -> None:
    for name, (preset, common, arms) in study.STUDIES.items():
        first = plan_of(preset, *common)
        for arm, settings in arms.items():
            plan, words = plan_of(preset, *common, *settings), arm.split("-")
            last = plan.start if plan.rounds == 0 else plan
            assert last.recipe.budget == first.start.recipe.budget, (name, arm)
            assert (plan.network, plan.threat, plan.data) == (first.network, first.threat, first.data)
            assert (last.recipe.pool is None) is (words[0] != "pool"), (name, arm)
            assert plan.validation.images == 0
            if words[-1] == "128":
                assert last.recipe.batch_size == int(words.pop())
            if len(words) > 1:
                assert plan.budget == int(words[1])
            elif words == ["ceiling"]:
                assert plan.budget == {"cifar10": 45_000}.get(name, 55_000)


def test_what_is_kept_was_made_by_the_plan_of_its_arm(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    kept = sorted(study.KEPT.glob("*-*"))
    assert kept
    for folder in kept:
        name, seed = folder.name.rsplit("-", 1)
        matching = [
            (preset, [*common, *settings, f"seed={seed}"])
            for of_study, (preset, common, arms) in study.STUDIES.items()
            for arm, settings in arms.items()
            if f"{of_study}-{arm}" == name
        ]
        assert len(matching) == 1, folder.name
        study.carry_out(*matching[0], folder.name, None, Path("never"), study.KEPT)
    assert capsys.readouterr().out == ""  # none of them was run


def test_a_kept_run_of_another_plan_is_not_taken_for_this_one(study: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/plan.yaml").write_text(to_yaml(plan_of("few-labels-mnist", "seed=3")), encoding="utf-8")
    study.carry_out("few-labels-mnist", ["seed=3"], "run", None, tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="run of another plan"):
        study.carry_out("few-labels-mnist", ["seed=4"], "run", None, tmp_path, tmp_path)


@pytest.mark.parametrize("study_name", ["mnist", "fashion"])
def test_a_picture_is_drawn_however_little_is_finished(study: Any, study_name: str, tmp_path: Path) -> None:
    study.picture(study_name, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
