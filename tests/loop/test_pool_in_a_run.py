"""Pool training inside a run: what it says, and that no label is used that was not bought."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robal.data import Data
from robal.loop import run
from robal.plan import Plan
from robal.training import Trained
from tiny_runs import outcome, rows, tiny_plan

POOL = (
    "rounds=1",
    "recipe.pool={images: 200, confidence: 0.5, teacher: {budget: 3000, batch_size: 10, unlabelled_batch: 10}}",
    "recipe.pool.teacher={optimiser: {name: Adam, lr: 0.01}, objective: Natural}",
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan(*POOL)


@pytest.fixture(scope="module")
def data(plan: Plan) -> Data:
    return plan.data.load()


@pytest.fixture(scope="module")
def folder(plan: Plan, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pool") / "run"
    run(plan, data, place)
    return place


def test_no_label_is_used_that_was_not_bought(plan: Plan, data: Data, folder: Path, tmp_path: Path) -> None:
    """The same run, where the hidden labels of all images that are never asked about are others, ends the same."""
    assert data.hidden is not None
    asked = torch.tensor([image for _, _, image in outcome(folder)["questions"]])
    others = (data.hidden + 1 + torch.arange(len(data.hidden)) % 9) % 10
    others[asked] = data.hidden[asked]
    run(plan, replace(data, hidden=others), tmp_path / "run")
    first, second = outcome(folder), outcome(tmp_path / "run")
    assert first["weights"] == second["weights"]
    assert first["questions"] == second["questions"]
    right = [row.pop("pool") for part in (first, second) for row in part["metrics"][1:]]
    assert right[0]["pseudo_right"] != right[1]["pseudo_right"]  # the one figure that looks at them, for the reader
    assert first["metrics"] == second["metrics"]


def test_the_metrics_say_how_many_were_labelled_and_how_many_rightly(data: Data, folder: Path) -> None:
    before, after = rows(folder)
    assert before["pool"] is None
    said = after["pool"]
    assert said["images"] == len(data.images) - 50
    assert 0 < said["pseudo"] <= 200
    assert 0.1 < said["pseudo_right"] < 1
    assert after["labelled"] == 50  # pseudo-labels cost nothing


def test_the_model_file_holds_the_teacher_for_the_next_choice(plan: Plan, data: Data, folder: Path) -> None:
    model = plan.network(data.images.shape, 10, 0)
    assert Trained.load(folder / "rounds/001/model.safetensors", model).teacher is not None
    assert not list(folder.rglob("*teacher*"))
