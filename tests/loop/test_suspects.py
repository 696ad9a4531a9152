"""Labels that look wrong: found, asked about again, corrected, counted; and a kill changes nothing of it."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robal.cli import main
from robal.data import Data
from robal.errors import InputError
from robal.folder import RunFolder
from robal.kept import relabelled_too
from robal.labelling import corrected, doubted, exported
from robal.loop import load, rounds, run
from robal.networks import LeNet5
from robal.objectives import CAAT, Learned, Natural
from robal.oracles.csv_file import read_rows
from robal.plan import Relabel
from robal.plan_checks import check
from robal.pool import Examples
from robal.suspects import describe_labels, out_of_fold, quality, queue
from robal.threats import Linf
from robal.training import Adam, Recipe, Trained, fit
from tiny_runs import Apart, carry_out, outcome, rows, tiny_plan

RECIPE = Recipe(Natural(), epochs=20, batch_size=20, optimiser=Adam(4e-3))
AGAIN = "relabel={per_round: 6, folds: 2, recipe: {epochs: 4, batch_size: 10, optimiser: {name: Adam, lr: 0.005}}}"


def noisy(data: Data, count: int = 400, share: float = 0.15) -> tuple[Examples, torch.Tensor]:
    """Digits of which some have the label after theirs; and which."""
    assert data.hidden is not None
    chosen = torch.arange(count)
    wrong = torch.rand(count, generator=torch.Generator().manual_seed(0)) < share
    labels = torch.where(wrong, (data.hidden[chosen] + 1) % 10, data.hidden[chosen])
    return Examples.of(data.images.at_rest(chosen), labels, chosen), wrong


def test_wrong_labels_are_found_by_models_that_never_saw_them(data: Data) -> None:
    examples, wrong = noisy(data)
    probs, spent, _ = out_of_fold(
        RECIPE, examples, lambda: LeNet5()(data.images.shape, 10, 0), folds=4, seed=0, what="test"
    )
    assert spent == 4 * 20 * 300
    torch.testing.assert_close(probs.sum(1), torch.ones(400))
    scores, doubted = quality(probs, examples.labels)
    torch.testing.assert_close(scores.float(), probs.gather(1, examples.labels[:, None]).squeeze(1), atol=1e-5, rtol=0)
    assert float(wrong[doubted].float().mean()) > 0.5  # of all, 0.15
    assert float(doubted[wrong].float().mean()) > 0.6
    worst = queue(probs, examples.labels, 20)
    assert len(worst) == 20
    assert (scores[worst].diff() >= 0).all()
    assert float(wrong[worst].float().mean()) > 0.6
    assert torch.isin(worst, doubted.nonzero().flatten()).all()


def test_a_fold_is_judged_by_a_model_that_was_trained_on_the_others(data: Data) -> None:
    """Labels drawn at random cannot be learned: a model that had seen them would be surer of them than chance."""
    examples, _ = noisy(data, 60)
    drawn = torch.randint(10, (60,), generator=torch.Generator().manual_seed(1))
    recipe = Recipe(Natural(), epochs=40, batch_size=10, optimiser=Adam(4e-3))
    some = Examples.of(examples.images, drawn)
    probs, _, _ = out_of_fold(recipe, some, lambda: LeNet5()(data.images.shape, 10, 0), folds=3, seed=0)
    seen = fit(recipe, some, None, Trained(LeNet5()(data.images.shape, 10, 0)), None, 0)
    with torch.no_grad():
        known = seen.model(some.images.float() / 255).softmax(1)
    right = [float((p.argmax(1) == drawn).float().mean()) for p in (probs, known)]
    assert right[0] < 0.35
    assert right[1] > 0.8


def test_classes_that_are_not_there_are_no_hindrance() -> None:
    probs = torch.tensor([[0.1, 0.0, 0.9], [0.8, 0.1, 0.1], [0.9, 0.1, 0.0], [0.1, 0.1, 0.8]])
    scores, doubted = quality(probs, torch.tensor([2, 0, 0, 2]))
    assert scores.tolist() == pytest.approx([0.9, 8 / 9, 1.0, 8 / 9])
    assert not doubted.any()
    with pytest.raises(InputError, match="all labels are of one class"):
        quality(probs, torch.zeros(4, dtype=torch.int64))


def test_too_few_labels_are_refused(data: Data) -> None:
    examples, _ = noisy(data, 3)
    with pytest.raises(InputError, match="2 folds need at least 4 labels"):
        out_of_fold(RECIPE, examples, lambda: LeNet5()(data.images.shape, 10, 0), folds=2, seed=0)


def test_how_well_wrong_labels_are_told_is_what_a_count_of_pairs_says(data: Data) -> None:
    examples, wrong = noisy(data, 120, 0.3)
    trained = fit(RECIPE, examples, None, Trained(LeNet5()(data.images.shape, 10, 0)), None, 0)
    found = describe_labels(Natural(), trained, examples, data.hidden)
    assert found is not None
    assert (found["labels"], found["wrong"]) == (120, int(wrong.sum()))
    with torch.no_grad():
        logits = trained.model(examples.images.float() / 255)
    loss = torch.nn.functional.cross_entropy(logits, examples.labels, reduction="none").double()
    pairs = (loss[wrong][:, None] - loss[~wrong][None]).sign()
    assert found["auroc"] == {"loss": pytest.approx(float((pairs + 1).mean() / 2), abs=1e-3)}
    assert describe_labels(Natural(), trained, examples.only(~wrong), data.hidden) is None
    assert describe_labels(Natural(), trained, examples, None) is None


def test_in_a_run_suspects_are_asked_about_again_and_paid(tmp_path: Path, data: Data) -> None:
    plan = tiny_plan(AGAIN, "oracle.noise=0.3", "start.labels=100", "per_round=20")
    state = run(plan, data, tmp_path / "run")
    assert data.hidden is not None
    plain = run(tiny_plan("oracle.noise=0.3", "start.labels=100", "per_round=20"), data, tmp_path / "plain")
    again = [row["query"]["again"] for row in rows(tmp_path / "run")]
    assert again[0] == {"images": 0, "changed": 0}
    assert 0 < sum(one["images"] for one in again) == len(state.again) <= 12
    assert len(state.again.unique()) == len(state.again)
    now, first = state.pool.labels[state.again], plain.pool.labels[state.again]
    assert sum(one["changed"] for one in again) == int((now != first).sum()) > 0
    known = now >= 0
    assert float((now == data.hidden[state.again])[known].float().mean()) > 0.8
    labels = rows(tmp_path / "run")[-1]["labels"]
    assert labels["repeated"] == RunFolder(tmp_path / "run").repeated(plan.rounds) >= len(state.again)
    assert labels["bought"] == plan.budget + labels["repeated"]
    wrong = [rows(tmp_path / name)[-1]["wrong_labels"]["wrong"] for name in ("run", "plain")]
    assert wrong[0] < wrong[1]


def test_a_run_that_asks_again_and_is_left_in_the_middle_ends_as_one_that_was_not(tmp_path: Path, data: Data) -> None:
    plan = tiny_plan(AGAIN, "oracle.noise=0.3", "start.labels=60")
    wanted = run(plan, data, tmp_path / "whole")
    for state in (states := rounds(plan, data, tmp_path / "left")):
        if state.round == 2:
            break
    states.close()  # type: ignore[attr-defined]
    found = run(plan, data, tmp_path / "left")
    assert torch.equal(found.again, wanted.again)
    assert torch.equal(found.pool.labels, wanted.pool.labels)
    kept = [(tmp_path / name / "rounds" / "002" / "model.safetensors").read_bytes() for name in ("whole", "left")]
    assert kept[0] == kept[1]


LEARNING = (
    AGAIN,
    "oracle.noise=0.3",
    "start.labels=60",
    "recipe.objective={name: CAAT, steps: 1, weighing: {name: Learned, every: 2}, costs: {steps: 1}}",
)


@pytest.mark.slow
def test_killed_anywhere_in_asking_again_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Within a fold's training; agreed on and not yet saved; saved, and the answers not."""
    whole = Apart(partial(carry_out, LEARNING, tmp_path / "whole"), tmp_path / "log", tmp_path / "calls")
    assert whole.run() == 0, whole.said
    wanted, saves = outcome(tmp_path / "whole"), (tmp_path / "calls").read_text().split()
    assert wanted["relabelled"]
    assert any(name.startswith("companion:") for name in wanted["weights"][2])
    of_folds = [place for place, name in enumerate(saves) if name.endswith("fit.save_tensors")]
    asked = [place for place, name in enumerate(saves) if name.endswith("save_question")]
    moments = [next(place for place in of_folds[::-1] if place < asked[2])]
    moments += [
        [place for place, name in enumerate(saves) if name.endswith(end)][-1] for end in ("relabelled", "answers")
    ]
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        killed = Apart(partial(carry_out, LEARNING, folder), tmp_path / "log", kill_at=moment)
        assert killed.run() == -signal.SIGKILL, killed.said
        again = Apart(partial(carry_out, LEARNING, folder), tmp_path / "log")
        assert again.run() == 0, again.said
        assert outcome(folder) == wanted


def test_the_score_of_the_objective_stands_beside_the_loss(tmp_path: Path, data: Data) -> None:
    plan = tiny_plan("recipe.objective={name: CAAT, steps: 1, costs: null}", "oracle.noise=0.3", "rounds=1")
    assert isinstance(plan.recipe.objective, CAAT)
    run(plan, data, tmp_path / "run")
    first, last = (row["wrong_labels"] for row in rows(tmp_path / "run"))
    assert set(first["auroc"]) == {"loss"}
    assert set(last["auroc"]) == {"loss", "distrust"}
    assert last["auroc"]["distrust"] != last["auroc"]["loss"]


@pytest.mark.slow
def test_at_flipped_labels_caat_weighs_anti_adversaries_more_than_at_clean_ones(data: Data) -> None:
    """Taught by a clean meta set; untaught, its first weights know next to nothing of it."""
    examples, wrong = noisy(data, 600, 0.2)
    assert data.hidden is not None
    meta = torch.arange(600, 700)
    beside = Examples.of(data.images.at_rest(meta), data.hidden[meta], meta, "meta")
    found, shares = [], []
    for lr in (1e-2, 1e-9):
        objective = CAAT(steps=2, weighing=Learned(every=5, lr=lr), costs=None, threat=Linf(0.05))
        recipe = Recipe(objective, epochs=25, batch_size=50, optimiser=Adam(4e-3))
        start = Trained(LeNet5()(data.images.shape, 10, 0))
        trained = fit(recipe, Examples.join([examples, beside]), None, start, None, 0)
        told = describe_labels(objective, trained, examples, data.hidden)
        assert told is not None
        assert trained.companion is not None
        found.append(told["auroc"]["distrust"])
        shares.append(objective.distrust(trained.model, trained.companion, examples.images, examples.labels))
    assert found[0] > 0.9
    assert found[0] > found[1] + 0.1
    assert float(shares[0][wrong].mean()) > float(shares[0][~wrong].mean()) + 0.2


def test_a_person_gets_a_list_and_corrects(tmp_path: Path, data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the run, then the list, then corrections, which hold from the next training on and are paid."""
    assert data.hidden is not None
    plan = tiny_plan("oracle.noise=0.3", "start.labels=80")
    for state in (states := rounds(plan, data, tmp_path / "run")):
        if state.round == 1:
            break
    states.close()  # type: ignore[attr-defined]
    out = tmp_path / "suspects.csv"
    with pytest.raises(SystemExit) as ended:
        main(["labels", "suspects", str(tmp_path / "run"), "--out", str(out), "--folds", "2", "--most", "9"])
    assert ended.value.code == 0
    assert "of 80 labels look wrong" in capsys.readouterr().out.replace("\n", " ")
    assert out.with_suffix(".png").stat().st_size > 1000
    header, *lines = out.read_text().splitlines()
    assert header == "index,label,given,suggested,quality"
    assert 0 < len(lines) <= 9
    assert read_rows(out) == [(int(line.split(",")[0]), "") for line in lines]
    index = int(lines[0].split(",")[0])
    label = (int(state.pool.labels[index]) + 1) % 10
    out.write_text(f"index,label\n{index},{label}\n{lines[1].split(',')[0]},\n")
    assert "1 labels corrected, from round 1 on" in corrected(tmp_path / "run", out, "Ada")
    out.write_text(f"index,label\n{index},{(label + 1) % 10}\n")  # the person errs, and takes it back
    assert "1 labels corrected" in corrected(tmp_path / "run", out, "Ada")
    out.write_text(f"index,label\n{index},{label}\n")
    assert "1 labels corrected" in corrected(tmp_path / "run", out, "Ada")
    assert "0 labels corrected" in corrected(tmp_path / "run", out, "Ada")
    ended_state = run(plan, data, tmp_path / "run")
    exported(tmp_path / "run", tmp_path / "labels.csv")
    lines = [line.split(",") for line in (tmp_path / "labels.csv").read_text().splitlines()[1:]]
    assert {int(line[0]): line[1] for line in lines}[index] == str(label)
    assert int(ended_state.pool.labels[index]) == label
    assert rows(tmp_path / "run")[1]["labels"]["repeated"] == 1
    with pytest.raises(InputError, match="has done all its 2 rounds"):
        corrected(tmp_path / "run", out, "Ada")


@pytest.mark.parametrize(
    ("text", "message"), [("index,label\n{new},3\n", "has no label"), ("index,label\n{old},eleven\n", "eleven")]
)
def test_corrections_that_cannot_be_are_refused(tmp_path: Path, data: Data, text: str, message: str) -> None:
    plan = tiny_plan("start.labels=20")
    for state in (states := rounds(plan, data, tmp_path / "run")):
        if state.round == 1:
            break
    states.close()  # type: ignore[attr-defined]
    old, new = int(state.pool.labelled[0]), int(state.pool.candidates[0])
    source = tmp_path / "corrections.csv"
    source.write_text(text.format(old=old, new=new))
    with pytest.raises(InputError, match=message):
        corrected(tmp_path / "run", source, "Ada")
    with RunFolder(tmp_path / "run").locked() as place:
        assert len(place.relabelled(1)[0]) == 0
        assert torch.equal(load(plan, data, place)[0].pool.labels, state.pool.labels)


def test_the_list_is_a_csv_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a .csv file, such as suspects.csv"):
        doubted(tmp_path, tmp_path / "list.txt")


@pytest.mark.parametrize("settings", [{"per_round": 0}, {"folds": 1}, {"answers": 1}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="relabel needs per_round >= 1, folds >= 2 and answers >= 2"):
        Relabel(**settings)


def test_people_are_not_asked_again_by_themselves(tmp_path: Path, data: Data) -> None:
    with pytest.raises(InputError, match="relabel is for the simulated oracle, not for CSVFile"):
        run(tiny_plan(AGAIN, "oracle=CSVFile"), data, tmp_path / "run")


def test_corrections_in_the_middle_of_a_training_begin_it_anew(tmp_path: Path, data: Data) -> None:
    """What a killed training left behind was trained on the old labels."""
    plan = tiny_plan("start.labels=30", "rounds=1")
    for name in ("early", "late"):
        for state in (states := rounds(plan, data, tmp_path / name)):
            if state.round == 1:
                break
        states.close()  # type: ignore[attr-defined]
    index = int(state.pool.labelled[0])
    source = tmp_path / "corrections.csv"
    source.write_text(f"index,label\n{index},{(int(state.pool.labels[index]) + 1) % 10}\n")
    corrected(tmp_path / "early", source, "Ada")
    run(plan, data, tmp_path / "early")
    left = tmp_path / "late" / "rounds" / "001" / "training.safetensors"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of a training that was begun")
    corrected(tmp_path / "late", source, "Ada")
    assert not left.exists()
    run(plan, data, tmp_path / "late")
    kept = [(tmp_path / name / "rounds" / "001" / "model.safetensors").read_bytes() for name in ("early", "late")]
    assert kept[0] == kept[1]


def test_twins_follow_the_labels_of_their_images() -> None:
    images = torch.zeros(5, 1, 2, 2)
    parts = [
        Examples.of(images[:3], torch.tensor([1, 2, 3]), torch.tensor([7, 8, 9]), "twin"),
        Examples.of(images[3:], torch.tensor([4, 4]), torch.tensor([8, 5]), "pseudo"),
    ]
    now = relabelled_too(Examples.join(parts), torch.tensor([9, 8, 6]), torch.tensor([0, -2, 1]))
    assert now.origin.tolist() == [7, 9, 8, 5]  # the twin of 8, which nobody can name, is gone
    assert now.labels.tolist() == [1, 0, 4, 4]


def test_a_queue_without_two_classes_is_empty() -> None:
    assert len(queue(torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64), 5)) == 0
    assert len(queue(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), 5)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("relabel.folds=30",), "30 folds need at least 60 labels to train on; the start has 40"),
        (("data.name=npz", "oracle.noise=0.1", "oracle.kind=flip2"), "flip2 needs three classes; there are 2"),
    ],
)
def test_what_a_run_would_stop_at_is_said_before_it_starts(
    tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    images, labels = np.random.default_rng(0).integers(0, 255, (400, 16, 16), np.uint8), np.arange(400) % 2
    np.savez(tmp_path / "two.npz", images=images, labels=labels, test_images=images[:40], test_labels=labels[:40])
    said = [one.replace("=npz", f"={tmp_path / 'two.npz'}") for one in settings]
    plan = tiny_plan(AGAIN, "evaluation.at_end=[]", *said)
    with pytest.raises(InputError, match=message):
        check(plan, plan.data.load())


def test_the_search_takes_the_threat_of_the_plan() -> None:
    plan = tiny_plan("relabel.recipe.objective=Adversarial").with_threats()
    assert plan.relabel is not None
    assert plan.relabel.recipe.objective.attack.threat == plan.threat  # type: ignore[attr-defined]
