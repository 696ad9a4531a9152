"""Pool training inside a run: what it says, and that no label is used that was not bought."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.data import Data
from robal.kept import describe_guesses
from robal.loop import left_over, rounds, run
from robal.objectives import Natural
from robal.plan import Plan
from robal.plans import decode, encode
from robal.pool import Examples
from robal.training import Adam, Recipe, Trained
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
    assert right[0]["pseudo_right"] != right[1]["pseudo_right"]  # one figure that looks at them, for the reader
    classes = [row["query"]["bias"].pop("true class") for part in (first, second) for row in part["metrics"][1:]]
    assert classes[0] != classes[1]  # and the other one
    assert first["metrics"] == second["metrics"]


def test_the_metrics_say_how_many_were_labelled_and_how_many_rightly(data: Data, folder: Path) -> None:
    before, after = rows(folder)
    assert before["pool"] is None
    said = after["pool"]
    assert said["images"] == len(data.images) - 50
    assert 0 < said["pseudo"] <= 200
    assert 0.1 < said["pseudo_right"] < 1
    assert after["labelled"] == 50  # pseudo-labels cost nothing
    assert said["pseudo"] + said["unsure"] == 200
    assert (said["disputed"], said["collapsed"]) == (0, False)


def test_a_collapsed_teacher_is_said_in_the_metrics() -> None:
    hidden, used, model = torch.arange(9), torch.tensor([3, 5]), torch.nn.Identity()
    refused = {"unsure": 0, "disputed": 1}
    taught = Trained(model, teacher=model, guesses=torch.tensor([3, -1]), refused=refused)
    assert describe_guesses(taught, used, 7, hidden) == (
        {"images": 7, "pseudo": 1, "pseudo_right": 1.0, "unsure": 0, "disputed": 1, "collapsed": False}
    )
    collapsed = replace(taught, teacher=None, guesses=torch.tensor([-1, -1]))
    assert describe_guesses(collapsed, used, 7, hidden) == (
        {"images": 7, "pseudo": 0, "pseudo_right": None, "unsure": 0, "disputed": 1, "collapsed": True}
    )
    assert describe_guesses(Trained(model), used, 7, hidden) is None


def test_an_image_of_no_known_class_counts_neither_as_right_nor_as_wrong() -> None:
    model, hidden = torch.nn.Identity(), torch.tensor([0, 1, -1])
    taught = Trained(model, teacher=model, guesses=torch.tensor([0, 0, 1]))
    said = describe_guesses(taught, torch.tensor([0, 1, 2]), 3, hidden)
    assert said is not None
    assert (said["pseudo"], said["pseudo_right"]) == (3, 0.5)


def test_the_model_file_holds_the_teacher_for_the_next_choice(plan: Plan, data: Data, folder: Path) -> None:
    model = plan.network(data.images.shape, 10, 0)
    assert Trained.load(folder / "rounds/001/model.safetensors", model).teacher is not None
    assert not list(folder.rglob("*teacher*"))


@dataclass(frozen=True)
class FirstOnes:
    """Asks about the first n of the pool and guesses, wrongly, at the ten after them."""

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return candidates.indices[:n]

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, draw: torch.Generator) -> Examples:
        guessed = candidates.indices[:10]
        return Examples.of(candidates.pool.images.at_rest(guessed), torch.full((10,), 3), guessed, "pseudo")


def test_what_the_acquisition_function_labelled_the_teacher_does_not_label_again(
    plan: Plan, data: Data, tmp_path: Path
) -> None:
    assert plan.recipe.pool is not None
    whole = replace(plan.recipe, pool=replace(plan.recipe.pool, images=None, confidence=0.0))
    *_, state = rounds(replace(plan, acquisition=FirstOnes(), recipe=whole), data, tmp_path / "run")
    row = rows(tmp_path / "run")[1]
    assert row["kept"]["pseudo"] == 10
    assert row["pool"]["images"] == row["pool"]["pseudo"] == len(data.images) - 50 - 10
    left = left_over(state.pool, state.kept)
    assert not torch.isin(left, state.kept.origin).any()
    assert torch.equal(torch.cat([left, state.kept.origin]).sort().values, state.pool.candidates)


def test_a_run_with_a_witness_leaves_no_file_of_it(plan: Plan, data: Data, tmp_path: Path) -> None:
    assert plan.recipe.pool is not None
    witness = Recipe(Natural(), epochs=30, batch_size=10, optimiser=Adam(2e-3))
    recipe = replace(plan.recipe, pool=replace(plan.recipe.pool, witness=witness))
    assert decode(encode(replace(plan, recipe=recipe))).recipe == recipe
    run(replace(plan, recipe=recipe), data, tmp_path / "run")
    said = rows(tmp_path / "run")[1]["pool"]
    assert said["pseudo"] > 0
    assert said["disputed"] > 0
    assert said["pseudo"] + said["unsure"] + said["disputed"] == 200
    assert not list(tmp_path.rglob("pool-*"))
