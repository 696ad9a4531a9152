"""`robal retrain`: from a user's weights and folder in one command, before and after, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_model
from small_networks import SMALL
from small_networks import build as small_network

from robal import presets
from robal.acquisition import DRE, KMST, Crafted, Margin, Subsample
from robal.attacks import FGSM, PGD, Monitor
from robal.cli import main
from robal.data import Split
from robal.datasets import Dataset
from robal.datasets import load as load_data
from robal.errors import AwaitingLabels, InputError, RunFolderError
from robal.folder import RunFolder
from robal.kept import trained_on
from robal.loop import load, run
from robal.new_images import beside, in_channels
from robal.objectives import Adversarial, Natural
from robal.oracles import CSVFile, Hidden
from robal.plan import Start
from robal.plan_checks import check
from robal.plans import read_plan, read_yaml
from robal.pool import Examples
from robal.report import report
from robal.retraining import retraining_plan
from robal.source import Source
from robal.studies import Local, Place, compare, study_of
from robal.threats import L2, Linf
from robal.training import Recipe
from tiny_runs import Apart, outcome, tiny_plan

QUICK = (
    "recipe={epochs: 2, batch_size: 32, objective: {attack: {steps: 2}}}",
    "evaluation={images: 40, each_round: [{name: PGD, steps: 2}], at_end: []}",
)


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def retrain(images: str, *further: str, train: str = "old.npz", out: str = "run") -> int:
    """Its exit code."""
    given = ["--model", SMALL, "--weights", "weights.safetensors", "--train", train, "--images", images]
    with pytest.raises(SystemExit) as stop:
        main(["retrain", *given, "--threat", "linf:0.1", "--out", out, *further])
    return int(stop.value.code or 0)


def rows(folder: Path) -> list[dict[str, Any]]:
    return RunFolder(folder).history()


def right_in_both_rounds(split: Split, step: float = 0.0, rounds: tuple[int, int] = (0, 1)) -> list[torch.Tensor]:
    """[T] bool each: on which images the model is right before retraining, and after it; also after a step uphill."""
    found, plan = [], read_plan("run/plan.yaml")
    for number in rounds:
        model = plan.network(split.images.shape, 10, 0)
        weights = load_file(f"run/rounds/00{number}/model.safetensors")
        model.load_state_dict({name.removeprefix("model:"): value for name, value in weights.items()})
        inputs = split.images.batch(torch.arange(len(split)), "cpu").requires_grad_()
        logits = model.eval()(inputs)
        (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, split.labels), inputs)
        moved = model((inputs.detach() + step * slope.sign()).clamp(0, 1))
        found.append((logits.argmax(1) == split.labels) & (moved.argmax(1) == split.labels))
    return found


def changed(was: torch.Tensor, now: torch.Tensor) -> dict[str, float]:
    """Where some were right, and some were wrong."""
    return {
        "right": was.sum().item(),
        "forgotten": (was & ~now).sum().item() / was.sum().item(),
        "wrong": (~was).sum().item(),
        "learned": (~was & now).sum().item() / (~was).sum().item(),
    }


def test_one_command_labels_crafts_trains_and_measures_before_and_after(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain("held.npz", "--budget", "10%", "--attack", "{name: PGD, steps: 2}", *QUICK) == 0
    before, after = rows(here / "run")
    assert [row["labels"]["bought"] for row in (before, after)] == [0, 8]  # 10 % of all 80, half of them are the test
    assert before["labels"]["known"] == after["labels"]["known"] == 600
    assert before["gradient_evaluations"] == 0
    assert after["kept"]["crafted"] == 8
    assert after["gradient_evaluations"] == 2 * (600 + 8 + 8) * 3 + 8 * 2  # two epochs of PGD-2; crafting itself
    assert before["images"] == after["images"] == {"clean": 40, "PGD-2": 40}
    assert set(after["against_before"]) == {"right", "forgotten", "wrong", "learned", "robust"}
    assert set(after["against_before"]["robust"]) == {"PGD-2"}
    given, first = load_file("weights.safetensors"), load_file("run/rounds/000/model.safetensors")
    for name, tensor in given.items():
        assert torch.equal(first[f"model:{name}"], tensor)
    page = report([here / "run"]).read_text(encoding="utf-8")
    assert "Before retraining → after it" in page
    assert "No label is bought at the start: the first model is given." in page
    assert "before retraining" in page
    assert "; under PGD-2 of " in page
    assert "the same model, attacked twice, would differ" in page
    assert "40 of held, drawn at random, are the test" in capsys.readouterr().out


def test_forgetting_is_counted_image_by_image_also_under_attack(here: Path) -> None:
    assert retrain("held.npz", "--budget", "5", *QUICK, "evaluation.images=33", "evaluation.each_round=[FGSM]") == 0
    plan = read_plan("run/plan.yaml")
    data = plan.data.load()
    assert data.test is not None
    right = right_in_both_rounds(data.test)
    told = rows(here / "run")[1]["against_before"]
    robust = told.pop("robust")
    assert told == pytest.approx(changed(*right))
    stood = [each[:33] for each in right_in_both_rounds(data.test, step=0.1)]
    assert 0 < stood[0].sum() < right[0][:33].sum()
    assert not torch.equal(*stood)
    assert robust["FGSM"] == pytest.approx(changed(*stood))


def sorted_by_class(place: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (place / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / str(label) / f"{number:03d}.png")


def test_a_part_of_folders_sorted_by_class_is_of_all_classes(here: Path) -> None:
    old, tests = np.load("old.npz"), np.load("tests.npz")
    sorted_by_class(here / "split" / "train", old["images"][:200], old["labels"][:200])
    np.savez("other.npz", images=tests["images"][60:], labels=tests["labels"][60:])
    sorted_by_class(here / "split" / "test", tests["images"][:60], tests["labels"][:60])
    data = Source("heap.npz", train="split", train_images=50, test_images=20).load()
    assert data.known is not None
    assert data.test is not None
    assert data.known[data.known >= 0].bincount(minlength=10).min() >= 3
    assert (len(data.pool.labelled), len(data.test)) == (50, 20)
    assert len(data.test.labels.unique()) == 10
    held_out = Source("split", train="split", train_images=50, test_images=40, apart=0.25).load()
    assert held_out.test is not None  # test images are what is chosen from as well
    assert (len(held_out.pool.candidates), len(held_out.test)) == (30, 10)
    for name in ("heap.npz", "split"):
        named = Source(name, train="split", test="other.npz", test_images=7).load()
        assert named.test is not None
        assert len(named.test) == 7
    np.savez("partly.npz", images=old["images"], labels=np.where(np.arange(600) < 300, old["labels"], -1))
    partly = Source("heap.npz", train="partly.npz", train_images=200).load()
    assert len(partly.pool.labelled) == 200


@pytest.mark.parametrize("setting", ["data.held_out_images=10", "data.held_out=test", "data.train_images=0"])
def test_settings_that_a_retraining_has_no_use_for_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert retrain("held.npz", "--budget", "5", *QUICK, setting) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err
    assert not (here / "run").exists()


def test_what_is_trained_on_is_the_known_the_bought_and_the_crafted(here: Path) -> None:
    assert retrain("held.npz", "--budget", "5", *QUICK) == 0
    plan = read_plan("run/plan.yaml")
    state, _ = load(plan, plan.data.load(), RunFolder(here / "run"))
    assert len(state.pool.labelled) == 605
    assert state.kept.count("crafted") == 5
    bought = state.pool.labelled[state.pool.labelled < 40]
    assert sorted(state.kept.origin.tolist()) == bought.tolist()


def test_a_folder_without_labels_waits_for_a_person(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("flat", "--budget", "3", "--test", "tests.npz", *QUICK)
    assert retrain(*arguments) == 3
    assert "3 of 3 images wait for a label" in capsys.readouterr().err
    asked = (here / "run" / "labels.csv").read_text().splitlines()
    (here / "run" / "labels.csv").write_text("\n".join([asked[0], *(f"{row}7" for row in asked[1:])]))
    with pytest.raises(SystemExit):
        main(["resume", "run"])
    assert [row["labels"]["bought"] for row in rows(here / "run")] == [0, 3]
    assert rows(here / "run")[1]["query"]["classes"][7] == 3


def test_without_labels_to_test_on_an_audit_shows_what_changed(here: Path) -> None:
    assert retrain("heap.npz", "--budget", "4", "audit=12", *QUICK) == 3
    held = np.load("held.npz")["labels"]
    for _ in range(2):  # the audit, and the question
        asked = (here / "run" / "labels.csv").read_text().splitlines()
        lines = [row if not row.endswith(",") else f"{row}{held[int(row.split(',')[0])]}" for row in asked[1:]]
        (here / "run" / "labels.csv").write_text("\n".join([asked[0], *lines]))
        with pytest.raises(SystemExit):
            main(["resume", "run"])
    before, after = rows(here / "run")
    assert before["accuracy"] is None
    assert before["audit"]["images"] == after["audit"]["images"] == {"clean": 12, "PGD-2": 12}
    told = after["audit"]["against_before"]
    kept = told["right"] - (told["forgotten"] or 0) * told["right"] + (told["learned"] or 0) * told["wrong"]
    assert after["audit"]["accuracy"] == pytest.approx(kept / 12)
    assert before["audit"]["accuracy"] == told["right"] / 12
    page = report([here / "run"]).read_text(encoding="utf-8")
    assert "Before retraining → after it, on the same images" in page


def test_an_audit_whose_answers_were_corrected_is_not_compared(here: Path) -> None:
    """A label that became another would count as learned or forgotten."""
    assert retrain("heap.npz", "--budget", "4", "audit=12", *QUICK) == 3
    held = np.load("held.npz")["labels"]
    for number in range(2):
        asked = (here / "run" / "labels.csv").read_text().splitlines()
        lines = [row if not row.endswith(",") else f"{row}{held[int(row.split(',')[0])]}" for row in asked[1:]]
        if number:
            index, label = lines[0].split(",")
            (here / "other.csv").write_text(f"index,label\n{index},{(int(label) + 1) % 10}\n")
            with pytest.raises(SystemExit) as stop:
                main(["labels", "correct", "run", "other.csv"])
            assert stop.value.code == 0
        (here / "run" / "labels.csv").write_text("\n".join([asked[0], *lines]))
        with pytest.raises(SystemExit):
            main(["resume", "run"])
    after = rows(here / "run")[1]
    assert "right" in after["audit"]
    assert "against_before" not in after["audit"]
    assert "Before retraining → after it" not in report([here / "run"]).read_text(encoding="utf-8")


def test_without_labels_to_test_on_it_says_so_and_trains_all_the_same(here: Path) -> None:
    plan, data = retraining_plan(SMALL, "old.npz", "flat", weights=Path("weights.safetensors"), settings=QUICK)
    assert data.test is None
    assert isinstance(plan.oracle, CSVFile)
    with pytest.raises(AwaitingLabels):
        run(plan, data, here / "run")
    assert rows(here / "run")[0]["accuracy"] is None
    asked = (here / "run" / "labels.csv").read_text().splitlines()
    (here / "run" / "labels.csv").write_text("\n".join([asked[0], *(f"{row}7" for row in asked[1:])]))
    run(plan, data, here / "run")
    assert "Before retraining" not in report([here / "run"]).read_text(encoding="utf-8")  # there is nothing to compare


def test_without_weights_a_model_is_trained_first(here: Path) -> None:
    plan, data = retraining_plan(SMALL, "old.npz", "held.npz", settings=(*QUICK, "start.recipe.epochs=3"))
    state = run(plan, data, here / "run")
    assert [row["labels"]["bought"] for row in state.history] == [0, 1]
    assert state.history[0]["gradient_evaluations"] == 600 * 3 * 11


def _carry_on(folder: Path, home: Path) -> None:
    os.chdir(home)
    plan = read_plan(str(folder.parent / "plan.yaml"))
    run(plan, plan.data.load(), folder)


def test_killed_it_ends_as_if_it_had_not_been_though_the_weights_have_moved(here: Path) -> None:
    """Killed at each of a few saves in turn: before the environment, in round 0, and twice in round 1."""
    plan, data = retraining_plan(SMALL, "old.npz", "held.npz", weights=Path("weights.safetensors"), settings=QUICK)
    run(plan, data, here / "whole")
    shutil.copy("whole/plan.yaml", "plan.yaml")
    for at in (6, 11, 19, 27):
        place = here / f"killed-{at}"
        killed = Apart(partial(_carry_on, place, here), here / f"{at}.log", here / "calls", kill_at=at)
        assert killed.run() == -9, (at, killed.said)
    (here / "weights.safetensors").rename(here / "elsewhere.safetensors")
    for at in (6, 11, 19, 27):
        run(plan, data, here / f"killed-{at}")
        assert outcome(here / f"killed-{at}") == outcome(here / "whole")


def test_over_two_rounds_it_is_compared_with_the_model_before_the_first(here: Path) -> None:
    assert retrain("held.npz", "--budget", "4", "rounds=2", *QUICK) == 0
    plan = read_plan("run/plan.yaml")
    data = plan.data.load()
    assert data.test is not None
    right = right_in_both_rounds(data.test, rounds=(0, 2))
    told = rows(here / "run")[2]["against_before"]
    assert set(told.pop("robust")) == {"PGD-2"}
    assert told == pytest.approx(changed(*right))
    assert "600 labels were known from the beginning" in report([here / "run"]).read_text(encoding="utf-8")


def test_a_folder_sorted_by_class_is_attacked_on_all_classes(here: Path) -> None:
    """The attacks look at the first images of the test."""
    few = "evaluation={images: 12, each_round: [FGSM], at_end: []}"
    assert retrain("new", "--budget", "3", QUICK[0], few) == 0
    seen = rows(here / "run")[0]["per_class"]["robust_accuracy"]["FGSM"]
    assert sum(rate is not None for rate in seen) > 4


def test_new_images_may_lack_classes(here: Path) -> None:
    shutil.copytree(here / "new" / "3", here / "few" / "3")
    assert retrain("few", "--budget", "1", *QUICK) == 0
    labels = [3, 7, 7, 3, 9, 9]
    images = np.load("tests.npz")["images"][:6]
    np.savez(here / "some.npz", images=images, labels=labels)
    shutil.rmtree(here / "run")
    assert retrain("some.npz", "--budget", "1", *QUICK) == 0
    plan = read_plan("run/plan.yaml")
    found = plan.data.load()
    assert found.hidden is not None
    assert found.test is not None
    assert sorted([*found.hidden[:3].tolist(), *found.test.labels.tolist()]) == sorted(labels)


def test_the_options_are_fields_of_the_plan(here: Path) -> None:
    given = {"weights": Path("weights.safetensors"), "threat": "linf:0.1", "budget": "7"}
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", acquisition="Margin", **given)  # type: ignore[arg-type]
    assert isinstance(plan.acquisition, Crafted)
    assert plan.acquisition.inner == Margin()
    assert (plan.per_round, plan.rounds, plan.start.labels, plan.threat) == (7, 1, 0, Linf(0.1))
    assert isinstance(plan.oracle, Hidden)
    assert Path(plan.start.weights).is_absolute()
    assert plan.evaluation.each_round[-1].threat == L2(0.2)  # 0.1 · √64 / 4
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", attack="FGSM", settings=("rounds=7",), **given)  # type: ignore[arg-type]
    assert plan.acquisition == Crafted(DRE(), FGSM())
    assert (plan.rounds, plan.per_round, plan.budget) == (7, 1, 7)
    own = "{name: Crafted, inner: KMST, attack: FGSM}"
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", acquisition=own, settings=("evaluation.images=9",), **given)  # type: ignore[arg-type]
    assert plan.acquisition == Crafted(KMST(), FGSM())
    assert plan.evaluation.each_round[-1].threat == L2(0.2)
    given["threat"] = "l2:0.4"
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", **given)  # type: ignore[arg-type]
    assert plan.evaluation.each_round[-1].threat == Linf(0.2)  # 4 · 0.4 / √64
    given["threat"] = "l1:4"
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", **given)  # type: ignore[arg-type]
    assert plan.evaluation.each_round == (PGD(steps=50),)  # neither Square nor AutoAttack knows L1
    paper = given | {"preset": "dre-retrain-mnist", "resize": 8}
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", **paper)  # type: ignore[arg-type]
    assert plan.evaluation.each_round == (PGD(steps=50),)  # of AutoAttack alone nothing would be left


def test_settings_of_what_crafts_are_kept(here: Path) -> None:
    given = {"weights": Path("weights.safetensors"), "threat": "linf:0.1", "budget": "7"}
    settings = ("acquisition.images=false", "acquisition.attack={name: PGD, steps: 3}")
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", acquisition="Margin", settings=settings, **given)  # type: ignore[arg-type]
    assert isinstance(plan.acquisition, Crafted)
    assert (plan.acquisition.inner, plan.acquisition.images) == (Margin(), False)
    assert plan.acquisition.attack == PGD(steps=3)


def test_beside_the_threat_another_norm_is_attacked_without_gradients_too(here: Path) -> None:
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", budget="7", threat="linf:0.1")
    assert plan.evaluation.each_round[-1] == Monitor(threat=L2(0.2))
    assert Monitor().square > 0


def test_all_attacks_of_the_preset_take_their_steps_from_the_threat(here: Path) -> None:
    """A step of another plan would be too short to reach where a wide threat ends."""
    plan, _ = retraining_plan(SMALL, "old.npz", "held.npz", budget="5", threat="l2:2")
    assert isinstance(plan.recipe.objective, Adversarial)
    assert isinstance(plan.acquisition, Crafted)
    for attack in (plan.recipe.objective.attack, plan.acquisition.attack):
        assert attack == PGD(steps=10, step_size=None)


def test_the_study_of_robals_own_way_is_of_the_preset_as_it_is() -> None:
    study = study_of(yaml.safe_load((Path(__file__).parents[2] / "benchmarks" / "retraining.yaml").read_text()))
    preset = read_plan(base=read_yaml(presets.text("retrain"), "retrain"))
    assert len(study.cells) == 2 * 4 * 3
    for one in study.cells:
        name = {"MNIST": "mnist", "Fashion-MNIST": "fashion-mnist"}[one.labels["images"]]
        assert (one.plan.data.name, one.plan.data.train, one.plan.data.resize) == (name, name, 32)
        if one.labels["method"].startswith("robal's own"):
            assert one.plan.recipe == preset.recipe
            assert one.plan.acquisition == preset.acquisition
        elif one.labels["method"] == "as in DRE":
            assert isinstance(one.plan.recipe.objective, Adversarial)
            assert isinstance(one.plan.acquisition, Crafted)
            assert one.plan.acquisition.attack == one.plan.recipe.objective.attack


def test_as_in_the_paper_the_chosen_images_themselves_are_not_trained_on(here: Path) -> None:
    """600 that it was trained on and 8 crafted examples, two epochs of PGD-2; and 8 images crafted once."""
    crafted = "{name: Crafted, inner: Random, images: false, attack: {name: PGD, steps: 2}}"
    given = ("--budget", "8", "--acquisition", crafted)
    assert retrain("held.npz", *given, *QUICK) == 0
    _, after = rows(here / "run")
    assert (after["labels"]["bought"], after["kept"]["crafted"]) == (8, 8)
    assert after["gradient_evaluations"] == 2 * (600 + 8) * 3 + 8 * 2


def test_of_what_wrapped_functions_crafted_the_images_are_left_out_too() -> None:
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    crafted = Examples.of(images[1:3], labels[1:3], torch.tensor([1, 2]), "crafted")
    examples = Examples.join([Examples.of(images, labels, torch.arange(4)), crafted])
    for acquisition in (Crafted(images=False), Subsample(Crafted(images=False)), Crafted(Crafted(images=False))):
        assert trained_on(acquisition, examples).origin.tolist() == [0, 3, 1, 2]
    assert trained_on(Crafted(), examples) is examples


def test_wrong_labels_are_counted_where_the_images_are_not_trained_on(here: Path) -> None:
    crafted = "{name: Crafted, inner: Random, images: false, attack: {name: PGD, steps: 1}}"
    given = ("--budget", "20", "--acquisition", crafted, "oracle={name: Hidden, noise: 1.0}")
    assert retrain("held.npz", *given, *QUICK) == 0
    _, after = rows(here / "run")
    assert after["kept"]["crafted"] == 20
    assert after["wrong_labels"]["wrong"] == after["wrong_labels"]["labels"] == 20
    assert after["gradient_evaluations"] == 2 * (600 + 20) * 3 + 20 * 1


def test_teachers_want_the_images_that_were_chosen(here: Path) -> None:
    plan, data = retraining_plan(SMALL, "old.npz", "held.npz", budget="5", settings=("recipe.pool={share: 0.5}",))
    plan = replace(plan, acquisition=Crafted(images=False))
    with pytest.raises(InputError, match=r"add recipe\.pool=null, or acquisition\.images=true"):
        check(plan, data)


def test_the_old_test_is_no_second_one_where_it_is_the_test(here: Path) -> None:
    old, tests = np.load("old.npz"), np.load("tests.npz")
    parts = {f"test_{name}": tests[name] for name in ("images", "labels")}
    np.savez("split.npz", **{name: old[name] for name in ("images", "labels")}, **parts)
    _, data = retraining_plan(SMALL, "split.npz", "held.npz", budget="5", test="split.npz")
    assert data.known_test is None
    np.savez("again.npz", **{name: tests[name] for name in ("images", "labels")})
    _, data = retraining_plan(SMALL, "split.npz", "again.npz", budget="5")
    assert data.known_test is None  # half of it may be chosen, the other half is the test


def test_what_is_forgotten_of_the_old_task_is_measured_on_its_own_test_images(here: Path) -> None:
    """Two of the old test images are among the new ones; such are left out where they could be chosen."""
    old, tests, held = (np.load(f"{name}.npz") for name in ("old", "tests", "held"))
    dark = np.concatenate([held["images"] // 3, tests["images"][:2]])
    np.savez("dark.npz", images=dark, labels=np.concatenate([held["labels"], tests["labels"][:2]]))
    parts = {f"test_{name}": tests[name] for name in ("images", "labels")}
    np.savez("split.npz", **{name: old[name] for name in ("images", "labels")}, **parts)
    assert retrain("dark.npz", "--budget", "5", *QUICK, train="split.npz") == 0
    before, after = rows(here / "run")
    assert before["known_test"]["images"] == {"clean": 78, "Monitor": 40}  # but for those two, who are candidates
    data = read_plan("run/plan.yaml").data.load()
    assert data.known_test is not None
    right = right_in_both_rounds(data.known_test)
    assert [before["known_test"]["accuracy"], after["known_test"]["accuracy"]] == [
        pytest.approx(one.double().mean().item()) for one in right
    ]
    told = after["known_test"]["against_before"]
    assert set(told.pop("robust")) == {"Monitor"}
    assert told == pytest.approx(changed(*right))
    page = report([here / "run"]).read_text(encoding="utf-8")
    assert "On test images of what it was trained on before: clean" in page
    assert "under Monitor of " in page
    older = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    for row in older:  # as robal had it before
        row["known_test"]["images"] = 78
        row["known_test"] |= row["known_test"].pop("against_before", {})
        row.pop("against_before", None)
    Path("run/metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in older))
    page = report([here / "run"]).read_text(encoding="utf-8")
    assert "Before retraining → after it, on the same images" in page
    assert "On test images of what it was trained on before: clean" in page


def test_new_images_that_the_model_was_trained_on_are_no_candidates(here: Path) -> None:
    old, held = np.load("old.npz"), np.load("held.npz")
    some = {name: np.concatenate([held[name][:40], old[name][:30]]) for name in ("images", "labels")}
    np.savez("mixed.npz", **some)
    _, data = retraining_plan(SMALL, "old.npz", "mixed.npz", weights=Path("weights.safetensors"), budget="5")
    assert data.test is not None
    assert (len(data.pool.candidates), len(data.test)) == (20, 20)  # of the 40 that are new
    assert "as were 30 more of the new ones, left out" in data.about


def test_a_threat_that_nobody_named_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", SMALL, "--weights", "weights.safetensors", "--train", "old.npz", "--images", "held.npz"]
    with pytest.raises(SystemExit):
        main(["retrain", *given, "--budget", "5", "--out", "run", *QUICK])
    assert "no --threat: Linf, eps = 0.2, of intensities in [0, 1], is the preset's" in capsys.readouterr().err


def test_other_weights_of_the_same_name_are_not_taken_for_the_run_s(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain("held.npz", "--budget", "5", *QUICK) == 0
    before = rows(here / "run")
    shutil.copy("weights.safetensors", "moved.safetensors")
    plan = read_plan("run/plan.yaml")
    moved = replace(plan, start=replace(plan.start, weights=str(here / "moved.safetensors")))
    assert run(moved, moved.data.load(), here / "run").history == tuple(before)  # the same weights elsewhere
    other = small_network((1, 8, 8), 10)
    save_model(other, "weights.safetensors")
    assert retrain("held.npz", "--budget", "5", *QUICK) == 4
    assert "began from other weights than" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["resume", "run"])  # by its own copy
    assert stop.value.code == 0
    save_model(other, "moved.safetensors")
    with pytest.raises(RunFolderError, match="began from other weights than"):
        run(moved, moved.data.load(), here / "run")


def test_the_same_command_goes_on_where_all_its_files_have_moved(here: Path) -> None:
    assert retrain("held.npz", "--budget", "5", "--test", "tests.npz", "rounds=1", *QUICK, out="whole") == 0
    assert retrain("held.npz", "--budget", "5", "--test", "tests.npz", *QUICK) == 0
    shutil.rmtree("run/rounds/001")
    metrics = (here / "run/metrics.jsonl").read_text().splitlines()
    (here / "run/metrics.jsonl").write_text(metrics[0] + "\n")
    (here / "moved").mkdir()
    for name in ("old.npz", "held.npz", "tests.npz"):
        (here / name).rename(here / "moved" / name)
    again = ("--budget", "5", "--test", "moved/tests.npz", *QUICK)
    assert retrain("moved/held.npz", *again, train="moved/old.npz") == 0
    assert rows(here / "run")[1]["accuracy"] == rows(here / "whole")[1]["accuracy"]
    ours, theirs = (load_file(f"{run}/rounds/001/model.safetensors") for run in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    old = np.load("moved/old.npz")
    np.savez(here / "moved/old.npz", images=255 - old["images"], labels=old["labels"])  # other images of that name
    assert retrain("moved/held.npz", *again, train="moved/old.npz") == 4


def test_the_old_test_belongs_to_what_a_run_began_with(here: Path) -> None:
    held, tests = np.load("held.npz"), np.load("tests.npz")
    prints = []
    for count in (20, 30):
        some = {"test_images": tests["images"][:count], "test_labels": tests["labels"][:count]}
        np.savez(here / "with_test.npz", images=held["images"], labels=held["labels"], **some)
        data = Source("old.npz", train="with_test.npz").load()
        assert data.known_test is not None
        prints.append(data.fingerprint())
    assert prints[0] != prints[1]
    assert retrain("old.npz", "--budget", "5", *QUICK, train="with_test.npz") == 0
    record = json.loads(Path("run/environment.json").read_text())
    record["data"]["fingerprint"] = replace(data, known_test=None).fingerprint()  # as robal 0.1 has it
    Path("run/environment.json").write_text(json.dumps(record))
    assert retrain("old.npz", "--budget", "5", *QUICK, train="with_test.npz") == 0
    some["test_labels"] = (some["test_labels"] + 1) % 10
    np.savez(here / "with_test.npz", images=held["images"], labels=held["labels"], **some)
    record["data"]["fingerprint"] = data.fingerprint()
    Path("run/environment.json").write_text(json.dumps(record))
    assert retrain("old.npz", "--budget", "5", *QUICK, train="with_test.npz") == 4


def test_the_order_of_the_outputs_may_be_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders a to j, of a model whose outputs were sorted otherwise."""
    order = "jabcdefghi"  # what the model calls 0 is j
    for label in range(10):
        shutil.copytree(here / "new" / str(label), here / "named" / order[label])
    old = np.load("old.npz")
    for number, (image, label) in enumerate(zip(old["images"], old["labels"], strict=True)):
        (here / "trained" / order[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(here / "trained" / order[label] / f"{number}.png")
    given = ("--budget", "5", *QUICK)
    assert retrain("named", "--classes", ",".join(order), *given, train="trained") == 0
    assert retrain("held.npz", *given, out="alike") == 0
    ours, theirs = rows(here / "run")[0], rows(here / "alike")[0]
    assert ours["accuracy"] > 0.7 < theirs["accuracy"]
    capsys.readouterr()
    assert retrain("named", *given, train="trained", out="sorted") == 2
    assert f"--classes {','.join(order)} says it" in capsys.readouterr().err
    assert retrain("named", "--classes", "a,b", *given, train="trained", out="few") == 2
    assert retrain("held.npz", "--classes", "a,b", *given, train="digits", out="few") == 2
    assert "digits has 0, 1, 2" in capsys.readouterr().err
    for label in range(10):
        (here / "trained" / order[label]).rename(
            here / "trained" / (order[label].upper() if label % 2 else order[label])
        )
    assert retrain("flat", *given, train="trained", out="mixed") == 2
    said = capsys.readouterr().err
    assert "the model's outputs are taken to be" in said
    names = [name.upper() if label % 2 else name for label, name in enumerate(order)]
    assert f"--classes {','.join(names)} says it" in said
    assert retrain("flat", "--classes", ",".join(names), *given, train="trained", out="mixed") == 3


def test_colours_are_made_grey_for_a_grey_model(here: Path) -> None:
    held = np.load("held.npz")
    np.savez(here / "colours.npz", images=np.repeat(held["images"][:, None], 3, 1), labels=held["labels"])
    assert retrain("colours.npz", "--budget", "5", *QUICK) == 0
    assert retrain("held.npz", "--budget", "5", *QUICK, out="grey") == 0
    assert [row["accuracy"] for row in rows(here / "run")] == [row["accuracy"] for row in rows(here / "grey")]
    assert "made grey" in Source("colours.npz", train="old.npz").load().about


def test_a_study_of_weights_is_of_one_file(here: Path) -> None:
    settings = [*QUICK, f"network={{name: Custom, factory: '{SMALL}'}}", "start.weights=weights.safetensors"]
    plan = {"rounds": 0, "validation.images": 0, "data": {"name": "held.npz", "held_out_images": 0}}
    plan |= {"start.labels": 4} | dict(setting.split("=", 1) for setting in settings)
    plan = {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in plan.items()}
    said = {"plan": plan, "grid": {"acquisition": ["Random"], "seed": 1}}
    assert [
        place.status for place in list(compare(Place.begun(here / "st", said), Local(1)))[-1].standings.values()
    ] == ["finished"]
    save_model(small_network((1, 8, 8), 10), "weights.safetensors")
    assert list(compare(Place.begun(here / "st", said), Local(1))) == []  # it is finished, and stays so
    with pytest.raises(RunFolderError, match="began from other weights than"):
        list(compare(Place.begun(here / "st", {**said, "grid": {"acquisition": ["Random"], "seed": 2}}), Local(1)))


def test_images_of_strange_channels_are_said() -> None:
    four = Dataset("four", torch.zeros(20, 4, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
    grey = Dataset("grey", torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
    for old, new in ((four, grey), (grey, four)):
        with pytest.raises(InputError, match=r"channels, and [14] are needed"):
            beside(old, new)


def test_brightness_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), "uint8")
    dataset = Dataset("some", torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([0]), ("a", "b"))
    grey = torch.from_numpy(np.array(Image.fromarray(pixels[0]).convert("L")))
    assert (in_channels(dataset, 1).images[0, 0].int() - grey.int()).abs().max() <= 1
    assert in_channels(in_channels(dataset, 1), 3).images.shape == (1, 3, 9, 9)
    with pytest.raises(InputError, match="some has images of 3 channels, and 4 are needed"):
        in_channels(dataset, 4)


@pytest.mark.parametrize(
    ("images", "further", "said"),
    [
        ("partly", (), "79 of the 80 images of partly have labels and the others, such as loose.png, have none"),
        ("held.npz", ("--budget", "0"), "--budget is a number of images, or a share of them such as 1%; '0' came"),
        ("held.npz", ("--budget", "-3"), "'-3' came"),
        ("held.npz", ("--budget", "2.5"), "'2.5' came"),
        ("held.npz", ("--budget", "a few"), "'a few' came"),
        ("held.npz", ("--budget", "nan%"), "'nan%' came"),
        ("held.npz", ("--budget", "0.1%"), "0.1% of 80 images is less than one; raise --budget"),
        ("held.npz", ("--budget", "100%"), "there are 40 to choose from: with all of them there is nothing to choose"),
        ("held.npz", ("--acquisition", "Dre"), "did you mean"),
        ("held.npz", ("per_round=3",), "per_round is said by --budget, not by a setting"),
        ("held.npz", ("seed=3",), "seed is said by --seed, not by a setting"),
        ("held.npz", ("acquisition.name=DRE",), "acquisition is said by --acquisition"),
        ("held.npz", ("acquisition.imges=true",), "acquisition.imges"),
        ("held.npz", ("--acquisition", "DRE", "acquisition.inner.bins=3"), "--acquisition DRE says acquisition.inner"),
        ("held.npz", ("data={name: digits}",), "data.name is said by --images, not by a setting"),
        ("held.npz", ("start={weights: none.safetensors}",), "start.weights is said by --weights"),
        ("held.npz", ("dataset=digits",), "dataset is said by --images"),
        ("held.npz", ("data=digits",), "data is said by --images"),
        ("held.npz", ("network={width: 2}",), "network is said by --model"),
        ("held.npz", ("--classes", "a,b,c"), "the labels of old must lie in [-1, 3)"),
        ("held.npz", ("threat.eps=0.5",), "--threat linf:0.1 says threat, and so do the settings"),
        ("held.npz", ("--budget", "5", "rounds=2"), "--budget 5 is 5 images, which 2 rounds cannot share evenly"),
        ("held.npz", ("--preset", "dre-mnist"), "a retraining buys no first labels and has a round; dre-mnist is none"),
        ("held.npz", ("--acquisition", "Crafted", "--attack", "FGSM"), "says all itself; leave --attack and settings"),
        ("old.npz", (), "old.npz has no test images, and the model was trained on all others: name new --images"),
        ("./old.npz", (), "old.npz has no test images"),
        ("held.npz", ("--test", "./held.npz"), "most of the test images are among those that are chosen from"),
        (
            "held.npz",
            ("--test", "old.npz"),
            "most of the test images are among those that are chosen from, or that the",
        ),
        ("held.npz", ("--resize", "16"), "is of another network"),
        ("held.npz", ("relabel={}",), "relabel looks at bought labels alone"),
        ("nowhere/", (), "there is no folder nowhere"),
        ("flat", ("oracle=Hidden", "--budget", "3"), "80 of 80 images have no held-back label"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], images: str, further: tuple[str, ...], said: str
) -> None:
    shutil.copytree(here / "new", here / "partly")
    next((here / "partly").rglob("*.png")).rename(here / "partly" / "loose.png")
    assert retrain(images, *further, *QUICK) == 2
    assert said in capsys.readouterr().err
    assert not (here / "run" / "metrics.jsonl").exists()


def test_a_model_that_does_not_fit_the_weights_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "LeNet5", "--weights", "weights.safetensors", "--train", "digits", "--images", "held28.npz"]
    digits = load_data("digits")
    np.savez(here / "held28.npz", images=1 - digits.images[:40].squeeze(1).numpy() / 255, labels=digits.labels[:40])
    with pytest.raises(SystemExit) as stop:
        main(["retrain", *given, "--budget", "3", "--out", "run"])
    assert stop.value.code == 2
    assert "is of another network: it lacks" in capsys.readouterr().err
    assert not (here / "run" / "plan.yaml").exists()  # so that the same folder serves once the weights are right


def test_no_first_labels_need_known_ones() -> None:
    plan = tiny_plan("start.labels=0")
    with pytest.raises(InputError, match=r"start.labels=0 needs labels that are known from the beginning"):
        check(plan, plan.data.load())
    for wrong, said in (
        ("data={test: digits}", "data.test goes with data.train"),
        ("data={train: digits, imbalance: 10}", "leave it out beside data.train"),
        ("data={train: digits, apart: 1}", r"data.apart is a share, in \(0, 1\); 1.0 came"),
        ("start.labels=1", "from at least two labels, or from none; 1 came"),
    ):
        with pytest.raises(Exception, match=said):
            tiny_plan(wrong)


def test_a_run_that_buys_labels_may_begin_from_weights(here: Path) -> None:
    start = Start(4, Recipe(Natural(), epochs=1, batch_size=2), weights="weights.safetensors")
    of_user = f"network={{name: Custom, factory: '{SMALL}'}}"
    plan = read_plan(None, [*QUICK, "rounds=0", "validation.images=0", of_user])
    plan = replace(plan, start=start, data=Source("held.npz", held_out_images=0))
    state = run(plan, plan.data.load(), here / "run")
    assert state.history[0]["labels"]["bought"] == state.history[0]["gradient_evaluations"] == 4
    assert (state.history[0]["accuracy"] or 0) > 0.6  # four labels alone would not teach it that
