"""The loop: which labels are bought and what for, what a round starts from, and what may influence what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robal.data import Data
from robal.errors import AwaitingLabels, ContractError, InputError, PlanError
from robal.folder import RunFolder
from robal.loop import rounds, run
from robal.measure import Labelled, monitor_of
from robal.oracles.csv_file import read_rows, write_rows
from robal.other_models import initial
from robal.plan import Plan
from robal.plan_checks import check
from robal.plans import read_plan
from robal.pool import NONE_OF_THESE, SKIPPED, UNLABELLED, Pool
from robal.state import State
from robal.training import Trained
from tiny_runs import outcome, rows, tensors, tiny_plan

SHORT = ("rounds=1", "evaluation.at_end=[]")  # enough wherever one choice of the model is looked at


def weights(folder: Path, number: int) -> dict[str, Tensor]:
    """The model's tensors after a round."""
    from safetensors.torch import load_file

    found = load_file(folder / f"rounds/{number:03d}/model.safetensors")
    return {name.removeprefix("model:"): tensor for name, tensor in found.items() if name.startswith("model:")}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any two weights."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def fresh(plan: Plan, data: Data) -> dict[str, Tensor]:
    """The weights before any training."""
    return dict(initial(plan, data).model.state_dict())


def queried(folder: Path) -> Tensor:
    """The positions of all images that were asked about."""
    return torch.tensor([image for _, _, image in outcome(folder)["questions"]])


# Steps


def test_rounds_gives_the_state_as_found_and_one_after_each_round(tmp_path: Path, data: Data) -> None:
    plan = tiny_plan(*SHORT)
    states = list(rounds(plan, data, tmp_path / "run"))
    assert [state.round for state in states] == [0, 1, 2]
    assert [len(state.pool.labelled) for state in states] == [0, 40, 50]
    assert all(state.question is None and state.answers is None for state in states)
    assert [row["round"] for row in states[-1].history] == [0, 1]
    (again,) = rounds(plan, data, tmp_path / "run")
    assert torch.equal(again.pool.labels, states[-1].pool.labels)
    assert list(again.history) == rows(tmp_path / "run")


def test_a_state_is_a_value_that_a_round_leaves_alone(tmp_path: Path, data: Data) -> None:
    first, *_ = rounds(tiny_plan(*SHORT), data, tmp_path / "run")
    assert (first.pool.labels == UNLABELLED).all()
    assert first.history == ()


@dataclass(frozen=True)
class LooksIntoTheFolder:
    """An oracle that finds the question saved and no answer yet, and leaves it at that."""

    folder: str = ""

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        asked = RunFolder(Path(self.folder)).question(0)
        assert asked is not None
        assert asked[0].tolist() == indices.tolist()
        assert RunFolder(Path(self.folder)).answers(0, indices) is None
        raise AwaitingLabels("looked")


def test_a_question_is_saved_before_it_is_asked(tmp_path: Path, data: Data) -> None:
    plan = replace(tiny_plan(*SHORT), oracle=LooksIntoTheFolder(str(tmp_path / "run")))
    with pytest.raises(AwaitingLabels, match="looked"):
        run(plan, data, tmp_path / "run")


def test_equal_plans_give_equal_runs_and_another_seed_another_one(finished: Path, tmp_path: Path, data: Data) -> None:
    run(tiny_plan(), data, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(finished)
    run(tiny_plan("rounds=0", "evaluation.at_end=[]", "seed=1"), data, tmp_path / "other")
    assert set(queried(tmp_path / "other").tolist()) != set(queried(finished)[:40].tolist())


def test_the_global_random_state_neither_matters_nor_moves(finished: Path, tmp_path: Path, data: Data) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    run(tiny_plan(*SHORT), data, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert outcome(tmp_path / "run")["weights"] == outcome(finished)["weights"][:2]


# Labels are counted


def test_of_every_answer_a_share_goes_to_validation_and_is_counted(tmp_path: Path, data: Data) -> None:
    plan = tiny_plan(*SHORT, "validation.bought_share=0.2")
    *_, state = rounds(plan, data, tmp_path / "run")
    expected = [
        {"training": 32, "validation": 8, "bought": 40},
        {"training": 40, "validation": 10, "bought": 50},
    ]
    for row, counts in zip(rows(tmp_path / "run"), expected, strict=True):
        assert row["labels"] == counts | {"meta": 0, "repeated": 0, "skipped": 0, "free_validation": 0}
        assert row["labelled"] == counts["bought"]
        assert row["validation"]["images"] == counts["validation"]
    labelled = Labelled.of(plan, data, state)
    everything = [*labelled.examples.origin.tolist(), *state.validation.tolist()]
    assert sorted(everything) == state.pool.labelled.tolist()
    assert labelled.validation is not None
    assert torch.equal(labelled.validation[1], state.pool.labels[state.validation])


def test_free_validation_labels_are_counted_apart(finished: Path, data: Data) -> None:
    for number, row in enumerate(rows(finished)):
        bought = 40 + 10 * number
        assert row["labels"] == {
            "training": bought,
            "validation": 0,
            "meta": 0,
            "repeated": 0,
            "skipped": 0,
            "bought": bought,
            "free_validation": 20,
        }
    assert data.validation is not None
    assert len(data.validation) > 20


def test_without_validation_none_is_counted_and_none_measured(tmp_path: Path, data: Data) -> None:
    run(tiny_plan("rounds=0", "evaluation.at_end=[]", "validation.images=0"), data, tmp_path / "run")
    (row,) = rows(tmp_path / "run")
    assert row["validation"] is None
    assert row["labels"]["free_validation"] == 0


def answer_in(path: Path, answers: dict[int, str]) -> None:
    """Fill in the open rows of a label file."""
    write_rows(path, [(index, label or answers[index]) for index, label in read_rows(path)])


def test_refused_images_are_paid_for_but_not_trained_on(tmp_path: Path, data: Data) -> None:
    plan, folder = tiny_plan(*SHORT, "oracle=CSVFile", "start.labels=20"), tmp_path / "run"
    assert data.hidden is not None
    with pytest.raises(AwaitingLabels, match="20 of 20 images wait"):
        run(plan, data, folder)
    open_rows = [index for index, _ in read_rows(folder / "labels.csv")]
    words = {index: str(int(data.hidden[index])) for index in open_rows}
    words |= dict.fromkeys(open_rows[:3], "skip") | dict.fromkeys(open_rows[3:5], "none")
    answer_in(folder / "labels.csv", words)
    with pytest.raises(AwaitingLabels, match="10 of 10 images wait"):
        run(plan, data, folder)
    (row,) = rows(folder)
    assert row["labelled"] == row["labels"]["bought"] == 20
    assert (row["labels"]["training"], row["labels"]["skipped"]) == (15, 5)
    assert row["query"]["answers"] == {"skipped": 3, "none_of_these": 2}
    assert sum(row["query"]["classes"]) == 15
    assert row["gradient_evaluations"] == 10 * 15  # epochs · examples
    query = (folder / "rounds/000/query.csv").read_text(encoding="utf-8").splitlines()[1:]
    labels = {int(line.split(",")[1]): int(line.split(",")[2]) for line in query}
    assert [labels[index] for index in open_rows[:5]] == [SKIPPED] * 3 + [NONE_OF_THESE] * 2
    again = [index for index, label in read_rows(folder / "labels.csv") if not label]
    assert len(again) == 10
    assert not set(again) & set(open_rows)  # who was refused once is not asked about again


def test_half_answered_the_run_waits_for_the_rest(tmp_path: Path, data: Data) -> None:
    plan, folder = tiny_plan("rounds=0", "evaluation.at_end=[]", "oracle=CSVFile"), tmp_path / "run"
    with pytest.raises(AwaitingLabels, match="40 of 40"):
        run(plan, data, folder)
    rows_there = read_rows(folder / "labels.csv")
    write_rows(folder / "labels.csv", [(index, "3" if index % 2 else "") for index, _ in rows_there])
    left = sum(index % 2 == 0 for index, _ in rows_there)
    with pytest.raises(AwaitingLabels, match=f"{left} of 40"):
        run(plan, data, folder)
    assert [index for index, _ in read_rows(folder / "labels.csv")] == [index for index, _ in rows_there]
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize("skipped", [0, 3])
def test_of_bought_validation_images_only_the_answered_count(data: Data, skipped: int) -> None:
    pool = Pool.unlabelled(data.images, data.classes)
    asked = torch.arange(20)
    answers = torch.full((20,), 4)
    answers[:skipped] = SKIPPED
    pool = pool.reveal(asked, answers)
    plan = tiny_plan("validation.bought_share=0.2")
    counts = Labelled.of(plan, data, State(pool, validation=torch.tensor([0, 1, 10, 11]))).counts
    of_validation = min(skipped, 2)
    assert counts["validation"] == 4 - of_validation
    assert counts["training"] == 16 - (skipped - of_validation)
    assert counts["skipped"] == skipped
    assert counts["bought"] == counts["training"] + counts["validation"] + counts["skipped"] == 20
    assert counts["free_validation"] == 0


# What may influence what


def test_no_label_is_used_that_was_not_bought(finished: Path, tmp_path: Path, data: Data) -> None:
    assert data.hidden is not None
    asked = queried(finished)
    others = torch.ones(len(data.images), dtype=torch.bool)
    others[asked] = False
    hidden = data.hidden.clone()
    hidden[others] = (hidden[others] + 1 + torch.arange(int(others.sum())) % 9) % 10  # wrong, every one of them
    assert not bool((hidden[others] == data.hidden[others]).any())
    run(tiny_plan(), replace(data, hidden=hidden), tmp_path / "run")
    first, second = outcome(finished), outcome(tmp_path / "run")
    classes = [row["query"]["bias"].pop("true class") for part in (first, second) for row in part["metrics"][1:]]
    assert classes[0] != classes[2]  # the one figure that looks at them, for the reader
    assert second == first


def test_a_label_that_was_bought_is_used(finished: Path, tmp_path: Path, data: Data) -> None:
    assert data.hidden is not None
    hidden = data.hidden.clone()
    first = queried(finished)[0]
    hidden[first] = (hidden[first] + 1) % 10
    run(tiny_plan("rounds=0", "evaluation.at_end=[]"), replace(data, hidden=hidden), tmp_path / "run")
    assert difference(weights(tmp_path / "run", 0), weights(finished, 0)) > 1e-5


@pytest.mark.parametrize("keep", ["last", "best"])
def test_test_images_and_labels_influence_nothing_but_what_is_measured_on_them(
    tmp_path: Path, data: Data, keep: str
) -> None:
    plan = tiny_plan(*SHORT, f"recipe.keep={keep}", f"start.recipe.keep={keep}")
    assert data.test is not None
    order = torch.arange(len(data.test)).flip(0)
    exchanged = replace(data.test, labels=data.test.labels[order])
    run(plan, data, tmp_path / "one")
    run(plan, replace(data, test=exchanged), tmp_path / "other")
    one, other = outcome(tmp_path / "one"), outcome(tmp_path / "other")
    for same in ("questions", "answers", "queries", "pictures", "weights"):
        assert one[same] == other[same]
    assert [row["validation"] for row in one["metrics"]] == [row["validation"] for row in other["metrics"]]
    assert all(
        mine["accuracy"] > theirs["accuracy"] + 0.2
        for mine, theirs in zip(one["metrics"], other["metrics"], strict=True)
    )


def test_without_test_images_the_run_is_the_same_and_nothing_is_measured_on_them(
    finished: Path, tmp_path: Path, data: Data
) -> None:
    run(tiny_plan(), replace(data, test=None), tmp_path / "run")
    one, other = outcome(tmp_path / "run"), outcome(finished)
    assert one["weights"] == other["weights"]
    assert all((row["accuracy"], row["robust_accuracy"]) == (None, {}) for row in one["metrics"])
    assert [row["validation"] for row in one["metrics"]] == [row["validation"] for row in other["metrics"]]


def test_validation_labels_matter_only_where_models_are_chosen_by_them(
    finished: Path, tmp_path: Path, data: Data
) -> None:
    assert data.validation is not None
    wrong = replace(data.validation, labels=(data.validation.labels + 5) % 10)
    run(tiny_plan(), replace(data, validation=wrong), tmp_path / "run")
    assert outcome(tmp_path / "run")["weights"] == outcome(finished)["weights"]
    assert rows(tmp_path / "run")[2]["validation"] != rows(finished)[2]["validation"]


def test_the_kept_epoch_is_the_best_on_validation_images(tmp_path: Path, data: Data) -> None:
    short = ("rounds=0", "evaluation.at_end=[]", "validation.images=100")
    plan = tiny_plan(*short, "start.recipe.keep=best", "start.recipe.epochs=5")
    run(plan, data, tmp_path / "best")
    kept = rows(tmp_path / "best")[0]["epoch_kept"]
    accuracies = {}
    for epochs in range(1, plan.start.recipe.epochs + 1):  # the same training, stopped after each of its epochs
        folder = tmp_path / str(epochs)
        shorter = tiny_plan(
            "rounds=0", "evaluation.at_end=[]", "validation.images=100", f"start.recipe.epochs={epochs}"
        )
        run(shorter, data, folder)
        model = initial(plan, data).model
        labelled = Labelled.of(plan, data, State(Pool.unlabelled(data.images, data.classes)))
        monitor = monitor_of(plan, labelled, 0)
        assert monitor is not None
        accuracies[epochs] = monitor(Trained.load(folder / "rounds/000/model.safetensors", model).model, epochs - 1)
    assert len(set(accuracies.values())) > 2
    assert kept == max(accuracies, key=lambda epoch: (accuracies[epoch], epoch))
    assert difference(weights(tmp_path / "best", 0), weights(tmp_path / str(kept), 0)) == 0


# What a round starts from


def test_round_0_is_trained_by_the_recipe_of_the_start(tmp_path: Path, data: Data) -> None:
    plan = tiny_plan(*SHORT, "start.recipe.optimiser.lr=1e-12")
    run(plan, data, tmp_path / "run")
    assert difference(weights(tmp_path / "run", 0), fresh(plan, data)) < 1e-8
    assert difference(weights(tmp_path / "run", 1), fresh(plan, data)) > 1e-3
    start, first = rows(tmp_path / "run")
    assert (start["epoch_kept"], first["epoch_kept"]) == (10, 2)
    assert start["gradient_evaluations"] == 10 * 40 * 1  # epochs · examples · passes
    assert first["gradient_evaluations"] == 2 * 50 * 3


@pytest.mark.parametrize("warm", [True, False])
def test_a_round_goes_on_from_the_previous_model_or_starts_afresh(tmp_path: Path, data: Data, warm: bool) -> None:
    plan = tiny_plan(*SHORT, "recipe.optimiser.lr=1e-12", f"recipe.warm_start={str(warm).lower()}")
    run(plan, data, tmp_path / "run")
    start, first = weights(tmp_path / "run", 0), weights(tmp_path / "run", 1)
    assert difference(start, fresh(plan, data)) > 1e-2
    assert difference(first, start if warm else fresh(plan, data)) < 1e-8


def test_the_optimiser_goes_on_where_it_was_if_the_plan_says_so(tmp_path: Path, data: Data) -> None:
    kept = ("start.recipe.keep_optimiser=true", "recipe.keep_optimiser=true")
    run(tiny_plan(*SHORT, *kept), data, tmp_path / "kept")
    run(tiny_plan(*SHORT), data, tmp_path / "new")
    states = [
        {name for name in tensors(tmp_path / run_of / "rounds/000/model.safetensors") if name.startswith("optimiser:")}
        for run_of in ("kept", "new")
    ]
    assert "optimiser:0.exp_avg" in states[0]
    assert states[1] == set()
    assert difference(weights(tmp_path / "kept", 0), weights(tmp_path / "new", 0)) == 0
    assert difference(weights(tmp_path / "kept", 1), weights(tmp_path / "new", 1)) > 1e-5


def test_standard_and_robust_active_learning_differ_by_one_word(finished: Path, tmp_path: Path, data: Data) -> None:
    plan = tiny_plan(*SHORT, "recipe.objective=Natural")
    assert replace(plan, recipe=replace(plan.recipe, objective=tiny_plan().recipe.objective)) == tiny_plan(*SHORT)
    run(plan, data, tmp_path / "standard")
    standard, robust = outcome(tmp_path / "standard"), outcome(finished)
    assert standard["weights"][0] == robust["weights"][0]
    assert standard["questions"] == robust["questions"][:50]  # the first model is the same, and so is its choice
    assert standard["weights"][1] != robust["weights"][1]
    assert standard["metrics"][1]["gradient_evaluations"] == 2 * 50


def test_what_a_model_trained_to_choose_by_costs_is_counted(tmp_path: Path, data: Data) -> None:
    run(tiny_plan(*SHORT, "acquisition={name: OfTeacher, inner: Margin}"), data, tmp_path / "run")
    assert rows(tmp_path / "run")[1]["gradient_evaluations"] == 10 * 40 + 2 * 50 * 3  # as the start's, on its labels


def test_the_threat_of_the_plan_holds_in_every_round(tmp_path: Path, data: Data) -> None:
    adversarial = "start.recipe.objective={name: Adversarial, attack: {name: PGD, steps: 2}}"
    settings = ("rounds=0", "evaluation.at_end=[]", adversarial)
    named = "start.recipe.objective.attack.threat={name: Linf, eps: 0.25}"
    run(tiny_plan(*settings, "threat.eps=0.25"), data, tmp_path / "open")
    run(tiny_plan(*settings, "threat.eps=0.25", named), data, tmp_path / "named")
    run(tiny_plan(*settings, "threat.eps=0.03"), data, tmp_path / "weak")
    assert difference(weights(tmp_path / "open", 0), weights(tmp_path / "named", 0)) == 0
    assert difference(weights(tmp_path / "open", 0), weights(tmp_path / "weak", 0)) > 1e-4


def test_robust_training_pays_off_under_attack(tmp_path: Path, data: Data) -> None:
    longer = ("threat.eps=0.15", "rounds=1", "per_round=150", "recipe.epochs=16", "recipe.batch_size=20")
    measured = "evaluation={images: 100, each_round: [{name: PGD, steps: 20}], at_end: []}"
    found = {}
    for name, objective in (("standard", "Natural"), ("robust", "{attack: {steps: 4}}")):
        run(tiny_plan(*longer, measured, f"recipe.objective={objective}"), data, tmp_path / name)
        found[name] = rows(tmp_path / name)[1]["robust_accuracy"]["PGD-20"]
    assert found["standard"] < 0.1  # 0.00 and 0.31 when this was written
    assert found["robust"] > 0.2


# Acquisition functions


def test_an_acquisition_function_of_ones_own_chooses(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_choice.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass LastOnes:\n"
        "    def __call__(self, candidates, n, generator):\n        return candidates.indices[-n:]\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    run(tiny_plan(*SHORT, "acquisition=own_choice:LastOnes"), data, tmp_path / "run")
    start, choice = queried(tmp_path / "run").split([40, 10])
    left = torch.tensor([index for index in range(len(data.images)) if index not in set(start.tolist())])
    assert torch.equal(choice, left[-10:])


def test_the_choice_follows_the_model_of_the_round_before(tmp_path: Path, data: Data) -> None:
    for run_of, lr in (("one", "0.005"), ("other", "0.002")):
        run(tiny_plan(*SHORT, "acquisition=Margin", f"start.recipe.optimiser.lr={lr}"), data, tmp_path / run_of)
    one, other = queried(tmp_path / "one"), queried(tmp_path / "other")
    assert torch.equal(one[:40], other[:40])
    assert set(one[40:].tolist()) != set(other[40:].tolist())


# What cannot be


def test_a_part_that_cannot_be_written_down_is_refused(tmp_path: Path, data: Data) -> None:
    plan = replace(tiny_plan(), acquisition=lambda candidates, generator: torch.zeros(len(candidates)))
    with pytest.raises(PlanError, match="cannot be written down: a component of a plan is a frozen dataclass"):
        run(plan, data, tmp_path / "run")
    assert not (tmp_path / "run/environment.json").exists()


def checked(settings: Sequence[str], data: Data) -> None:
    check(tiny_plan(*settings), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rounds=122"], r"asks for 1260 labels \(40 at the start, 122 rounds of 10\) and the pool holds 1259 images"),
        (["validation.images=0", "recipe.keep=best"], 'recipe.keep="best" chooses by validation images'),
        (["validation.images=0", "start.recipe.keep=best"], 'recipe.keep="best" chooses by validation images'),
        (["validation.bought_share=0.01", "start.recipe.keep=best"], 'recipe.keep="best" chooses by validation'),
        (["network=LeNet5DRE"], "LeNet5DRE takes 32x32 images, got 28x28: add data.resize=32"),
    ],
)
def test_a_plan_that_its_data_cannot_carry_is_refused_before_anything_is_written(
    tmp_path: Path, data: Data, settings: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tiny_plan(*settings), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pool_as_large_as_the_budget_is_enough(data: Data) -> None:
    plan = tiny_plan("rounds=121", "start.labels=49")
    check(plan, data)
    assert plan.budget == len(data.images)


def test_labels_that_are_not_there_cannot_be_simulated(data: Data) -> None:
    assert data.hidden is not None
    some = data.hidden.clone()
    some[3] = UNLABELLED
    with pytest.raises(InputError, match=r"1259 of 1259 images have no held-back label.*oracle=CSVFile"):
        checked([], replace(data, hidden=None))
    with pytest.raises(InputError, match="1 of 1259 images have no held-back label"):
        checked([], replace(data, hidden=some))
    checked(["oracle=CSVFile"], replace(data, hidden=None))


def test_a_loss_that_is_no_number_stops_the_run_and_the_rounds_before_stay(tmp_path: Path, data: Data) -> None:
    plan, folder = tiny_plan(*SHORT, "recipe.optimiser.lr=1e30"), tmp_path / "run"
    for _ in range(2):  # once more: the same sentence, nothing broken
        with pytest.raises(ContractError, match=r"the loss is (nan|inf) in epoch 1: lower the learning rate"):
            run(plan, data, folder)
        assert [row["round"] for row in rows(folder)] == [0]


def test_a_step_out_of_turn_is_a_programming_error(tmp_path: Path, data: Data) -> None:
    from robal.loop import answer

    with pytest.raises(RuntimeError, match="out of turn"):
        answer(
            tiny_plan(),
            data,
            State(Pool.unlabelled(data.images, data.classes)),
            initial(tiny_plan(), data),
            RunFolder(tmp_path),
        )


def test_a_plan_in_python_needs_no_yaml(tmp_path: Path) -> None:
    source = read_plan().data.load()
    images, labels = source.images.at_rest(torch.arange(120)), source.hidden
    assert labels is not None
    own = Data.from_arrays(images.numpy(), labels[:120].numpy())
    state = run(tiny_plan("rounds=0", "evaluation.at_end=[]", "validation.images=0"), own, tmp_path / "run")
    assert len(state.pool.labelled) == 40
