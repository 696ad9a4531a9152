"""The meta set in a run: bought, counted, agreed on, never trained on; and a kill changes nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robal.data import Data
from robal.errors import AwaitingLabels, InputError, PlanError
from robal.folder import RunFolder
from robal.loop import load, run
from robal.loop import rounds as rounds_of
from robal.objectives.caat import Companion
from robal.plan import Plan
from robal.state import shared_out
from tiny_runs import rows, tiny_plan

CAAT = ("recipe.objective={name: CAAT, steps: 2, weighing: {name: Learned, every: 2}, costs: {steps: 2}}",)


def meta_plan(*settings: str) -> Plan:
    return tiny_plan(*CAAT, "meta.share=0.2", *settings)


def test_a_share_of_every_answer_is_the_meta_set_and_is_counted(tmp_path: Path, data: Data) -> None:
    plan = meta_plan()
    state = run(plan, data, tmp_path / "run")
    asked = [plan.start.labels, *[plan.per_round] * plan.rounds]
    assert len(state.meta) == sum(round(0.2 * count) for count in asked)
    assert len(state.meta.unique()) == len(state.meta)
    last = rows(tmp_path / "run")[-1]["labels"]
    assert last["meta"] == len(state.meta)
    assert last["training"] + last["meta"] == last["bought"] == sum(asked)
    assert last["repeated"] == 0


def test_under_noise_several_agree_on_the_meta_set_and_all_answers_are_bought(tmp_path: Path, data: Data) -> None:
    plan = meta_plan("oracle.noise=0.3")
    state = run(plan, data, tmp_path / "run")
    assert data.hidden is not None
    labels = rows(tmp_path / "run")[-1]["labels"]
    known = state.meta[state.pool.labels[state.meta] >= 0]
    assert labels["meta"] == len(known)
    assert float((state.pool.labels[known] == data.hidden[known]).float().mean()) >= 0.9
    assert labels["repeated"] >= len(state.meta)
    assert labels["bought"] == plan.budget + labels["repeated"]
    said = RunFolder(tmp_path / "run").judgements.votes(state.meta.tolist())
    assert len(said) == len(state.meta) + labels["repeated"]


def test_without_an_objective_that_learns_from_it_there_is_none(tmp_path: Path, data: Data) -> None:
    state = run(tiny_plan("oracle.noise=0.3", "rounds=1"), data, tmp_path / "run")
    assert len(state.meta) == 0
    assert rows(tmp_path / "run")[-1]["labels"]["meta"] == 0


def test_a_run_that_goes_on_has_the_companion_that_it_had(tmp_path: Path, data: Data) -> None:
    plan = meta_plan("rounds=3", "oracle.noise=0.2")
    wanted = run(plan, data, tmp_path / "whole")
    run_until(plan, data, tmp_path / "killed", 2)
    with RunFolder(tmp_path / "killed").locked() as place:
        _, trained = load(plan, data, place)
    assert isinstance(trained.companion, Companion)
    assert int(trained.companion.learned.lessons) > 0
    found = run(plan, data, tmp_path / "killed")
    assert torch.equal(found.meta, wanted.meta)
    for name in ("model", "kept"):
        one, other = (tmp_path / part / "rounds" / "003" / f"{name}.safetensors" for part in ("whole", "killed"))
        assert one.exists() == other.exists()
        assert not one.exists() or one.read_bytes() == other.read_bytes()
    assert [without_times(row) for row in rows(tmp_path / "whole")] == [
        without_times(row) for row in rows(tmp_path / "killed")
    ]


def run_until(plan: Plan, data: Data, folder: Path, number: int) -> None:
    """Carry out a run up to the end of a round, and leave it."""
    for state in (states := rounds_of(plan, data, folder)):
        if state.round == number:
            break
    states.close()  # type: ignore[attr-defined]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("times", "seconds")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("oracle=CSVFile", "meta.answers=3"), "meta.answers=3 is for the simulated oracle; CSVFile asks people"),
        (("start.labels=2",), r"2 first labels have no share for the meta set \(meta.share=0.2\)"),
        (("start.labels=3", "meta.share=0.5"), "leaves fewer than two to train on"),
        (("meta.share=0",), r"meta.share lies in \(0, 0.5\]"),
        (("meta.answers=0",), "meta.answers counts answers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_bought(
    tmp_path: Path, data: Data, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises((InputError, PlanError), match=message):
        run(meta_plan(*settings), data, tmp_path / "run")
    assert not (tmp_path / "run" / "state.sqlite").exists()


def test_where_no_meta_image_is_settled_at_the_start_their_first_answers_count(tmp_path: Path, data: Data) -> None:
    """Of so few answers under so much noise none leads by two, in some of these runs; all of them go on."""
    unsettled = 0
    for seed in range(6):
        plan = meta_plan(
            "start.labels=20",
            "meta.share=0.05",
            "oracle.noise=0.9",
            "meta.answers=3",
            "rounds=0",
            f"seed={seed}",
            "start.recipe={epochs: 1, objective: {name: CAAT, steps: 1, weighing: LossRank, costs: {steps: 1}}}",
        )
        state = run(plan, data, tmp_path / str(seed))
        assert rows(tmp_path / str(seed))[-1]["labels"]["meta"] == 1
        said = RunFolder(tmp_path / str(seed)).judgements.votes(state.meta.tolist())
        unsettled += len({one.label for one in said.values()}) == 3
    assert unsettled > 0


def test_people_who_skip_the_whole_meta_set_are_told_before_anything_is_saved(tmp_path: Path, data: Data) -> None:
    plan = meta_plan("oracle=CSVFile", "start.labels=10", "meta.share=0.1")
    with pytest.raises(AwaitingLabels):
        run(plan, data, tmp_path / "run")
    file = next((tmp_path / "run").rglob("*.csv"))
    asked = [int(line.split(",")[0]) for line in file.read_text().splitlines()[1:]]
    meta = shared_out(plan, 0, 10)[1].tolist()
    answers = ["skip" if place in meta else str(place % 10) for place in range(10)]
    file.write_text("index,label\n" + "".join(f"{i},{a}\n" for i, a in zip(asked, answers, strict=True)))
    with pytest.raises(
        InputError, match="9 images to train on, and two are needed and 0 to the meta set, where one is"
    ):
        run(plan, data, tmp_path / "run")
    answers[meta[0]] = "3"
    file.write_text("index,label\n" + "".join(f"{i},{a}\n" for i, a in zip(asked, answers, strict=True)))
    with pytest.raises(AwaitingLabels):  # of the next round
        run(plan, data, tmp_path / "run")
    assert rows(tmp_path / "run")[0]["labels"]["meta"] == 1
