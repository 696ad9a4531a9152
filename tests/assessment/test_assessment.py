"""`robal evaluate`: every figure against the part it comes from, and what must be refused."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from robal.assessment import assess, evaluate_files
from robal.attacks import FGSM, PGD, AutoAttack
from robal.cli import evaluate_command, main
from robal.errors import InputError, RunFolderError
from robal.evaluation import clean, under_attack
from robal.loop import run
from robal.pool_files import build_pool
from robal.report import evaluation, evaluation_page
from robal.subjects import split_list
from robal.threats import L2, Linf
from tiny_runs import tiny_plan

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def images(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return digits[0][1000:1060], digits[1][1000:1060]


def outcome_of(lenet: nn.Module, images: tuple[Tensor, Tensor], folder: Path, *attacks: Any, **more: Any) -> Any:
    threat = more.pop("threat", Linf(0.1))
    return assess(lenet, *images, NAMES, threat, attacks, 0, folder, {"model": "a test"}, **more)


@pytest.fixture(scope="module")
def evaluated(lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    outcome_of(lenet, images, folder, FGSM(threat=Linf(0.1)), PGD(steps=5, threat=Linf(0.1)))
    return folder


def read(folder: Path) -> Any:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def test_accuracies_are_those_of_the_parts(evaluated: Path, lenet: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    outcome = read(evaluated)
    assert outcome["clean"] == clean(lenet, *images).accuracy
    for attack in (FGSM(threat=Linf(0.1)), PGD(steps=5, threat=Linf(0.1))):
        alone = under_attack(lenet, *images, attack, 0)
        assert outcome["attacks"][attack.label]["accuracy"] == alone.accuracy
    assert outcome["worst_case"] <= min(one["accuracy"] for one in outcome["attacks"].values()) <= outcome["clean"]
    assert outcome["strongest"] == "PGD-5"
    assert outcome["sandwich"]["holds"]
    assert outcome["certified"]["accuracy"] == 0.0  # nothing can be proved of a network trained naturally


def test_classes_confusion_and_reliability_speak_of_the_same_images(evaluated: Path) -> None:
    outcome = read(evaluated)
    matrix = torch.tensor(outcome["confusion"]["clean"])
    assert int(matrix.sum()) == 60
    assert float(matrix.diagonal().sum()) / 60 == outcome["clean"] == outcome["reliability"]["clean"]["accuracy"]
    attacked = torch.tensor(outcome["confusion"]["adversarial"])
    assert int(attacked.diagonal().sum()) == round(60 * outcome["worst_case"])
    assert outcome["reliability"]["adversarial"]["accuracy"] == float(attacked.diagonal().sum()) / 60
    assert matrix.sum(1).tolist() == attacked.sum(1).tolist() == outcome["per_class"]["images"]


def test_the_curve_begins_at_the_clean_accuracy_and_falls(evaluated: Path) -> None:
    curve = read(evaluated)["curve"]
    assert curve["accuracy"][0] == read(evaluated)["clean"]
    assert curve["accuracy"] == sorted(curve["accuracy"], reverse=True)
    assert curve["eps"][-1] == pytest.approx(0.2)


def test_the_picture_has_three_rows_and_the_page_shows_all(evaluated: Path) -> None:
    with Image.open(evaluated / "broken.png") as picture:
        assert picture.height > 150
    page = evaluation_page(evaluated).read_text(encoding="utf-8")
    for words in ("under all attacks together", "PGD-5", "data:image/png", "Signs of masked gradients", "jpeg"):
        assert words in page.lower() or words in page, words
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("confusion", "classes", "curve"):
        assert (evaluated / f"{name}.png").stat().st_size > 1000


def test_an_honest_model_is_not_flagged_and_a_masked_one_is(
    evaluated: Path, lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    assert all(one["passed"] for one in read(evaluated)["checks"])

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = lenet

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner((inputs * 3).round() / 3)

    flagged = [
        one["name"]
        for one in outcome_of(Masked(), images, tmp_path, FGSM(threat=Linf(0.1)))["checks"]
        if not one["passed"]
    ]
    assert flagged


def test_autoattack_goes_on_with_its_ledger(lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    few = (images[0][:6], images[1][:6])
    attack = AutoAttack(threat=Linf(0.4))  # breaks them all at once
    first = outcome_of(lenet, few, tmp_path, attack, threat=Linf(0.4), checks=False)
    assert set(first["attacks"]["AutoAttack"]["stages"]) == {"apgd-ce", "apgd-t", "fab-t", "square"}
    again = outcome_of(lenet, few, tmp_path, attack, threat=Linf(0.4), checks=False)
    assert first["attacks"]["AutoAttack"] == again["attacks"]["AutoAttack"]  # the seconds too: nothing was run again
    assert "corruptions" not in again


def test_in_l2_nothing_is_certified_and_the_reason_is_said(
    lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    outcome = outcome_of(lenet, images, tmp_path, PGD(steps=3, threat=L2(1.0)), threat=L2(1.0), checks=False)
    assert outcome["certified"]["accuracy"] is None
    assert "interval bounds are for Linf" in outcome["certified"]["note"]
    assert evaluation_page(tmp_path).exists()


def test_attacks_are_split_at_the_commas_between_them() -> None:
    assert split_list("pgd,{name: PGD, steps: 3}, fgsm") == ["pgd", "{name: PGD, steps: 3}", "fgsm"]
    assert split_list(" , ") == []


def test_what_is_no_evaluation_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no whole evaluation"):
        evaluation_page(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"about": {}}', encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds no whole evaluation"):
        evaluation_page(tmp_path)


def test_without_an_attack_there_is_nothing_to_say(
    lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="needs at least one attack"):
        outcome_of(lenet, images, tmp_path)


def test_images_that_lie_class_by_class_are_drawn_from_all(weights: Path, tmp_path: Path) -> None:
    import numpy as np

    labels = np.repeat(np.arange(10), 20)
    pixels = np.random.default_rng(0).integers(0, 255, (200, 28, 28)).astype("uint8")
    np.savez(tmp_path / "sorted.npz", images=pixels, labels=labels)
    outcome, _ = evaluate_files(
        model="LeNet5", weights=weights, data=str(tmp_path / "sorted.npz"), threat="linf:0.1", attacks="fgsm",
        images=60, out=tmp_path / "out", checks=False,
    )  # fmt: skip
    assert min(outcome["per_class"]["images"]) > 0
    assert any("no test split" in sentence for sentence in evaluation.remarks(outcome))


def test_classes_named_in_another_order_keep_their_images(
    weights: Path, lenet: nn.Module, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """The first class named is the model's class 0, wherever it stands in the data set's own order."""
    import numpy as np

    letters = np.array(list("jihgfedcba"))[digits[1][:200].numpy()]  # digit 0 is called j
    np.savez(tmp_path / "named.npz", images=digits[0][:200, 0].numpy(), labels=letters)
    outcome, _ = evaluate_files(
        model="LeNet5", weights=weights, data=str(tmp_path / "named.npz"), threat="linf:0.1", attacks="fgsm",
        classes="j,i,h,g,f,e,d,c,b,a", out=tmp_path / "out", checks=False,
    )  # fmt: skip
    assert outcome["clean"] == clean(lenet, digits[0][:200], digits[1][:200]).accuracy > 0.8


def test_a_pool_on_disk_is_evaluated_as_the_folder_it_was_built_from(
    weights: Path, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    for number in range(60):
        place = tmp_path / "digits" / str(int(digits[1][number]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][number, 0].numpy()).save(place / f"{number}.png")
    build_pool(str(tmp_path / "digits"), tmp_path / "digits.parquet")
    folder, pool = (
        evaluate_files(
            model="LeNet5", weights=weights, data=str(tmp_path / name), threat="linf:0.1", attacks="fgsm",
            outside=str(tmp_path / name), out=tmp_path / f"{name}-out", checks=False,
        )[0]
        for name in ("digits", "digits.parquet")
    )  # fmt: skip
    assert folder["about"]["images"] == pool["about"]["images"] == 60
    assert folder["clean"] == pool["clean"] > 0.8
    assert folder["per_class"] == pool["per_class"]
    assert folder["attacks"]["FGSM"]["accuracy"] == pool["attacks"]["FGSM"]["accuracy"]
    assert folder["outside"]["images"] == pool["outside"]["images"] == 60


def test_two_attacks_of_one_name_are_refused(lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two attacks are called alike"):
        outcome_of(lenet, images, tmp_path, PGD(threat=Linf(0.1)), PGD(step_size=0.1, threat=Linf(0.1)))


# The command


def test_the_command_prints_a_table_and_writes_a_page(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["evaluate", "--model", "LeNet5", "--weights", str(weights), "--data", "digits", "--threat", "linf:0.1"]
    common += ["--attacks", "fgsm", "--images", "20", "--no-checks"]
    with pytest.raises(SystemExit) as ended:
        main(common)
    assert ended.value.code in (0, None)
    said = capsys.readouterr().out
    assert "FGSM" in said
    assert "these figures support no claim" in said
    assert (tmp_path / "evaluation/index.html").exists()
    with pytest.raises(SystemExit):
        main([*common, "--also", "l2:0.3", "--outside", "digits", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["attacks"].keys() == {"FGSM"}
    assert printed["about"]["images"] == printed["outside"]["images"] == 20
    assert printed["beyond"].keys() == {"Monitor (L2, eps = 0.3)"}


def test_every_option_of_the_command_has_an_example() -> None:
    said = evaluate_command.__doc__ or ""
    for name in inspect.signature(evaluate_command).parameters:
        assert f"`--{name}" in said or f"`--no-{name}" in said, name


def test_of_a_run_the_last_model_is_evaluated_on_its_test_images_inside_its_threat(tmp_path: Path) -> None:
    plan = tiny_plan("rounds=1", "evaluation.at_end=[]")
    data = plan.data.load()
    run(plan, data, tmp_path / "run")
    outcome, place = evaluate_files(run=tmp_path / "run", attacks="{name: PGD, steps: 2}", images=999, checks=False)
    assert place == tmp_path / "run/rounds/001/evaluation"
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert outcome["clean"] == last["accuracy"]
    assert outcome["about"]["eps"] == plan.threat.eps == 0.05
    assert outcome["about"]["images"] == len(data.test.labels)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a run (--run runs/mine) or a model"),
        (["--model", "LeNet5"], "say what to evaluate on"),
        (["--model", "LeNet5", "--data", "digits"], "say what the adversary may do"),
        (["--model", "LeNet5", "--data", "digits", "--threat", "linf:0.1", "--attacks", "fgms"], "'fgms' is unknown"),
        (["--model", "LeNet5", "--data", "digits", "--threat", "linf:0.1", "--images", "0"], "at least one image"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--run", "nowhere", "--data", "digits"], "--run has its own data and weights"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    assert ended.value.code in (2, 4)
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("robal: ")
    assert "Traceback" not in said
