"""What stands beside the numbers: environment, threads, the plan of a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from robal import __version__
from robal.data import Data
from robal.errors import PlanError, RunFolderError
from robal.folder import RunFolder
from robal.images import InMemory
from robal.plans import encode, flat, to_yaml
from robal.records import (
    check_same_run,
    digest,
    environment,
    plan_of,
    same_numerics,
    write_records,
)
from tiny_runs import tiny_plan


@pytest.fixture
def place(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


# The environment


def test_the_environment_names_versions_hardware_command_and_data(finished: Path, data: Data) -> None:
    found = json.loads((finished / "environment.json").read_text(encoding="utf-8"))
    assert found["versions"]["robal"] == __version__
    for package in ("torch", "numpy", "pyautoattack"):
        assert found["versions"][package] == version(package)
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert found["platform"]
    assert found["command"]
    assert found["started"].endswith("+00:00")
    assert found["data"] == {
        "name": "digits",
        "about": data.about,
        "pool": 1259,
        "validation": 179,
        "test": 359,
        "classes": [str(digit) for digit in range(10)],
        "shape": [1, 28, 28],
        "fingerprint": data.fingerprint(),
    }


def test_the_environment_counts_nothing_where_there_is_nothing(data: Data) -> None:
    found = environment(tiny_plan(), replace(data, validation=None, test=None))["data"]
    assert (found["pool"], found["validation"], found["test"]) == (1259, 0, 0)


def test_records_are_written_once(place: RunFolder, data: Data) -> None:
    write_records(place, tiny_plan(), data)
    before = [(place.path / name).read_bytes() for name in ("plan.yaml", "environment.json")]
    write_records(place, tiny_plan("seed=1"), replace(data, name="other"))
    assert [(place.path / name).read_bytes() for name in ("plan.yaml", "environment.json")] == before


# The same run


def test_an_empty_folder_takes_any_run(place: RunFolder, data: Data) -> None:
    before = list(place.path.rglob("*"))
    check_same_run(place, tiny_plan(), data)
    assert list(place.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=3", "1 differences: seed is 0 there and 3 here"),
        ("network.mean=[0.5]", "network.mean is None there and [0.5] here"),
        ("threat=L2", "threat.name is 'Linf' there and 'L2' here"),
        ("evaluation.at_end=[]", "evaluation.at_end is [{'name': 'FGSM'"),
        ("recipe.objective=Natural", "recipe.objective.attack.name is 'PGD' there and None here"),
        ("data.seed=1", "data.seed is 0 there and 1 here"),
    ],
)
def test_each_difference_of_two_plans_is_found(place: RunFolder, data: Data, setting: str, said: str) -> None:
    write_records(place, tiny_plan(), data)
    settings = [setting, "network.std=[0.5]"] if setting.startswith("network") else [setting]
    with pytest.raises(RunFolderError) as caught:
        check_same_run(place, tiny_plan(*settings), data)
    assert said in str(caught.value)
    assert "choose another folder with --out" in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["data.folder=/mnt", "data.name=/mnt/digits.npz", "device=cpu", "engine={name: ray, workers: 2}"]
)
def test_where_the_same_data_lie_and_the_device_make_no_other_run(place: RunFolder, data: Data, setting: str) -> None:
    write_records(place, tiny_plan(), data)
    check_same_run(place, tiny_plan(setting), data)
    assert digest(tiny_plan(setting)) == digest(tiny_plan())


def test_other_pixels_make_another_run(place: RunFolder, data: Data) -> None:
    write_records(place, tiny_plan(), data)
    pixels = data.images.at_rest(torch.arange(len(data.images))).clone()
    pixels[7, 0, 3, 3] = 255 - pixels[7, 0, 3, 3]
    with pytest.raises(RunFolderError, match="was begun with other images or labels"):
        check_same_run(place, tiny_plan(), replace(data, images=InMemory(pixels)))


def test_a_plan_in_the_folder_that_is_no_yaml_any_more_is_said_so(place: RunFolder, data: Data) -> None:
    write_records(place, tiny_plan(), data)
    (place.path / "plan.yaml").write_text("seed: [1", encoding="utf-8")
    with pytest.raises(PlanError, match=r"plan\.yaml is not YAML"):
        check_same_run(place, tiny_plan(), data)


def test_a_plan_that_was_changed_in_its_folder_is_not_taken_for_the_one_that_began(
    place: RunFolder, data: Data
) -> None:
    write_records(place, tiny_plan(), data)
    path = place.path / "plan.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("rounds: 2", "rounds: 3"), encoding="utf-8")
    assert plan_of(place.path) == tiny_plan("rounds=3")
    with pytest.raises(RunFolderError, match=r"plan\.yaml was changed after .*, and a run keeps its plan"):
        check_same_run(place, tiny_plan("rounds=3"), data)
    with pytest.raises(RunFolderError, match="rounds is 3 there and 2 here"):
        check_same_run(place, tiny_plan(), data)


# Threads


def test_inside_the_block_torch_has_the_threads_of_the_record_and_outside_its_own(place: RunFolder, data: Data) -> None:
    write_records(place, tiny_plan(), data)
    path, before = place.path / "environment.json", torch.get_num_threads()
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"threads": before + 1}), encoding="utf-8")
    with same_numerics(place):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), same_numerics(place):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


# The plan of a folder


def test_the_plan_of_a_folder_is_the_one_written_there(finished: Path) -> None:
    assert plan_of(finished) == tiny_plan()


def test_data_that_moved_are_looked_for_where_they_are_now(finished: Path, tmp_path: Path) -> None:
    plan = plan_of(finished, tmp_path)
    assert plan.data == replace(tiny_plan().data, folder=str(tmp_path))
    assert replace(plan, data=tiny_plan().data) == tiny_plan()


def test_a_folder_without_a_run_says_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no run: there is no plan\.yaml in it"):
        plan_of(tmp_path)


def test_a_nested_plan_becomes_flat() -> None:
    found = flat(encode(tiny_plan()))
    assert found["recipe.objective.attack.steps"] == 2
    assert found["start.labels"] == 40
    assert found["evaluation.at_end"] == [{"name": "FGSM", "step": 1.0, "random_start": False, "threat": None}]
    assert not any(isinstance(value, dict) for value in found.values())


def test_two_plans_have_the_same_yaml_only_if_they_are_equal() -> None:
    assert to_yaml(tiny_plan("seed=1")) != to_yaml(tiny_plan())
    assert to_yaml(tiny_plan()) == to_yaml(tiny_plan())
