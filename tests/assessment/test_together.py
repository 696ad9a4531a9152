"""All attacks together: every image at its worst, the curve, other threats, other images, and the set for headlines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robal.assessment import assess, beyond, evaluate_files
from robal.attacks import FGSM, PGD, Monitor
from robal.errors import InputError
from robal.evaluation import Ledger, clean, evaluate_attack, out_of_distribution, probabilities, under_attack
from robal.evaluation.union import adversaries, curve
from robal.report import evaluation_page, evaluation_table
from robal.report.evaluation import remarks, rows_of
from robal.subjects import HEADLINE, read_attacks, read_outsiders
from robal.threats import L2, Linf, Threat
from small_models import linear

INSIDE = Linf(0.1)
NAMES = tuple("0123456789")
WEAK = (FGSM(threat=INSIDE), PGD(steps=2, threat=INSIDE))


@pytest.fixture(scope="module")
def images(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return digits[0][1000:1024], digits[1][1000:1024]


@pytest.fixture(scope="module")
def ledgers(lenet: nn.Module, images: tuple[Tensor, Tensor]) -> list[Ledger]:
    return [evaluate_attack(lenet, *images, attack, 0, keep=True) for attack in WEAK]


@pytest.fixture(scope="module")
def evaluated(lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FGSM and PGD inside Linf 0.1, PGD of a threat of its own, L2 besides, and noise as other images."""
    folder = tmp_path_factory.mktemp("together")
    noise = torch.randint(0, 256, (25, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    attacks = (*WEAK, PGD(steps=2, threat=Linf(0.2)))
    about = {"model": "a test", "outside": "noise"}
    assess(lenet, *images, NAMES, INSIDE, attacks, 0, folder, about, also=[L2(1.0)], outside=noise, checks=False)
    return folder


def read(folder: Path) -> Any:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


# Every image at its worst


def test_an_image_is_shown_as_its_attack_left_it_or_where_the_loss_is_higher(
    lenet: nn.Module, images: tuple[Tensor, Tensor], ledgers: list[Ledger]
) -> None:
    inputs, labels = images[0].float() / 255, images[1]
    right = clean(lenet, *images).correct
    standing = torch.stack([ledger.verdicts.correct for ledger in ledgers]).all(0)
    moved = adversaries(lenet, *images, ledgers, standing, INSIDE, 0)
    first, second = ledgers
    assert first.adversaries is not None
    assert second.adversaries is not None
    assert torch.equal(moved[first.broken], first.adversaries)
    alone = ~torch.isin(second.broken, first.broken)
    assert torch.equal(moved[second.broken[alone]], second.adversaries[alone])
    assert alone.any()
    assert torch.equal(moved[~right], inputs[~right])
    chances = [probabilities(lenet, part).gather(1, labels[:, None])[:, 0] for part in (inputs, moved)]
    assert (chances[1][standing] <= chances[0][standing]).all()
    assert chances[1][standing].mean() < 0.8 * chances[0][standing].mean()
    assert (INSIDE.size(moved - inputs) <= INSIDE.eps * (1 + 1e-5)).all()


def test_adversarial_figures_are_of_all_attacks_together_and_say_so(evaluated: Path) -> None:
    outcome = read(evaluated)
    fell = outcome["adversarial_by"]["stood_and_fell"]
    assert fell > 0  # two attacks as weak as these leave something to PGD with 20 steps
    right = int(torch.tensor(outcome["confusion"]["adversarial"]).diagonal().sum())
    assert right == round(24 * outcome["worst_case"])
    assert outcome["worst_case"] <= min(one["accuracy"] for one in outcome["attacks"].values()) - fell / 24 + 1e-9
    assert f"PGD-20 on what stood {outcome['worst_case']:.1%}" in outcome["sandwich"]["text"]
    assert f"Too weak: {fell} of the images" in " ".join(remarks(outcome))
    assert "where PGD-20 ends" in outcome["adversarial_by"]["text"]
    assert "where PGD-20 ends" in evaluation_page(evaluated).read_text(encoding="utf-8")


# The curve


def test_the_curve_falls_and_never_lies_above_an_attack_at_its_radius_or_beyond(evaluated: Path) -> None:
    outcome = read(evaluated)
    eps, heights = outcome["curve"]["eps"], outcome["curve"]["accuracy"]
    assert heights == sorted(heights, reverse=True)
    at = eps.index(INSIDE.eps)
    assert max(heights[at:]) <= outcome["worst_case"]
    assert heights[-1] <= outcome["beyond"]["PGD-2 (Linf, eps = 0.2)"]["accuracy"]
    assert "an attack in the same norm" in outcome["curve"]["text"]


def test_where_deepfool_finds_nothing_the_attacks_draw_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pixels, the brighter wins: a lead of 0.2 falls to a change of 0.1 a pixel, and of √0.02 in L2."""
    model = linear([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    image, label = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0])
    monkeypatch.setattr("robal.evaluation.union.DeepFool.__call__", no_change)
    for threat, least in ((Linf(0.2), 0.1), (L2(0.2), 0.02**0.5)):
        ledger = evaluate_attack(model, image, label, PGD(steps=1, random_start=False, threat=threat), 0, keep=True)
        heights = curve(model, image, label, threat, [(threat, ledger.broken, ledger.adversaries)])
        assert heights["accuracy"][20:] == [0.0] * 21
        assert all(
            height == 1.0 for eps, height in zip(heights["eps"], heights["accuracy"], strict=True) if eps < least
        )


def no_change(self: object, model: nn.Module, inputs: Tensor) -> Any:
    from robal.attacks import Fooled

    none = torch.zeros(len(inputs), dtype=torch.bool)
    return Fooled(inputs, torch.full((len(inputs),), torch.inf), none)


def test_deepfool_seeks_the_nearest_point_in_the_threats_norm() -> None:
    """A lead of 0.6 with the gradient (3, -1): 0.6 / 4 in Linf, 0.6 / √10 in L2."""
    model = linear([[3.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    image, label = torch.tensor([[[[0.3, 0.3]]]]), torch.tensor([0])
    for threat, least in ((Linf(0.2), 0.15), (L2(0.2), 0.6 / 10**0.5)):
        heights = curve(model, image, label, threat, [])
        last = max(eps for eps, height in zip(heights["eps"], heights["accuracy"], strict=True) if height == 1.0)
        assert last == pytest.approx(least, abs=0.011)


# Beyond the threat


def test_other_threats_are_attacked_beside_and_leave_the_worst_case_alone(
    evaluated: Path, lenet: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    outcome = read(evaluated)
    expected = {
        "Monitor (L2, eps = 1)": Monitor(square=0, threat=L2(1.0)),
        "PGD-2 (Linf, eps = 0.2)": PGD(steps=2, threat=Linf(0.2)),
    }
    assert outcome["beyond"].keys() == expected.keys()
    for name, attack in expected.items():
        assert outcome["beyond"][name]["accuracy"] == under_attack(lenet, *images, attack, 0).accuracy
    assert set(outcome["attacks"]) == {"FGSM", "PGD-2"}
    assert outcome["sandwich"]["holds"]
    rows = rows_of(outcome)
    start = [row[0] for row in rows].index("beyond the threat:")
    assert [row[0] for row in rows[start + 1 :]] == list(outcome["beyond"])
    assert all("–" in row[2] for row in rows[start + 1 :])  # an interval each
    page = evaluation_page(evaluated).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "beyond the threat" in page
    assert "Monitor (L2, eps = 1)" in page


def test_a_threat_that_monitor_does_not_know_is_met_by_pgd() -> None:
    class Other:
        eps = 1.0

    attack = beyond(Other())  # type: ignore[arg-type]
    assert attack.label == "PGD-50x5"
    assert beyond(L2(2.0)) == Monitor(square=0, threat=L2(2.0))


@pytest.mark.parametrize(
    ("attacks", "also", "sentence"),
    [
        (WEAK, (INSIDE,), "--also names threats beside the evaluation's, which is Linf, eps = 0.1 itself"),
        (WEAK, (L2(1.0), L2(1.0)), "two attacks are called alike"),
        ((PGD(threat=L2(1.0)),), (), "at least one attack inside Linf, eps = 0.1"),
    ],
)
def test_threats_that_make_no_sense_are_refused(
    attacks: tuple[Any, ...],
    also: tuple[Threat, ...],
    sentence: str,
    lenet: nn.Module,
    images: tuple[Tensor, Tensor],
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=sentence):
        assess(lenet, *images, NAMES, INSIDE, attacks, 0, tmp_path, {}, also=also)
    assert not list(tmp_path.iterdir())


def test_attacks_that_name_no_threat_take_the_evaluations(
    lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    outcome = assess(lenet, *images, NAMES, INSIDE, [PGD(steps=2)], 0, tmp_path, {}, checks=False)
    assert outcome["attacks"]["PGD-2"]["accuracy"] == under_attack(lenet, *images, WEAK[1], 0).accuracy


def test_as_many_classes_are_named_as_the_model_tells_apart(
    lenet: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="tells 10 classes apart, and 11 are named; give --classes 10"):
        assess(lenet, *images, (*NAMES, "ten"), INSIDE, WEAK, 0, tmp_path, {})


def test_headline_is_a_ready_set() -> None:
    assert read_attacks("Headline") == HEADLINE
    assert [attack.label for attack in read_attacks("fgsm,headline")] == [
        "FGSM",
        "AutoAttack",
        "PGD-50x20",
        "Square-20000",
    ]
    assert all(attack.threat is None for attack in HEADLINE)  # the evaluation's


# Images of something else


def test_other_images_are_told_by_low_confidence(
    evaluated: Path, lenet: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    outcome = read(evaluated)
    noise = torch.randint(0, 256, (25, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    known, asked = probabilities(lenet, images[0]), probabilities(lenet, noise)
    assert outcome["outside"]["clean"] == out_of_distribution(known, asked)
    assert outcome["outside"]["images"] == 25
    # attacked images are unsure as well, so that noise stands out less
    assert outcome["outside"]["adversarial"]["confidence"] < outcome["outside"]["clean"]["confidence"]
    said = next(sentence for sentence in remarks(outcome) if sentence.startswith("AUROC"))
    assert f"25 images of noise: {outcome['outside']['clean']['confidence']:.3f} by confidence" in said
    assert said in evaluation_page(evaluated).read_text(encoding="utf-8")
    assert evaluation_table(outcome)


def test_the_function_reads_threats_and_other_images_and_resizes_them(weights: Path, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    np.savez(tmp_path / "large.npz", images=draws.integers(0, 256, (12, 32, 32)).astype("uint8"))
    common = {"model": "LeNet5", "weights": weights, "data": "digits", "threat": "linf:0.1", "attacks": "fgsm"}
    more = {"outside": str(tmp_path / "large.npz"), "images": 6, "checks": False, "out": tmp_path / "out"}
    with pytest.raises(InputError, match=r"the shape \(1, 32, 32\), those of the model \(1, 28, 28\).*--resize"):
        evaluate_files(**common, **more)  # type: ignore[arg-type]
    outcome, _ = evaluate_files(**common, **more, resize=28, also="l2:0.5, linf:0.05")  # type: ignore[arg-type]
    assert outcome["outside"]["images"] == 6
    assert outcome["about"]["outside"] == str(tmp_path / "large.npz")
    assert set(outcome["beyond"]) == {"Monitor (L2, eps = 0.5)", "Monitor (Linf, eps = 0.05)"}


def test_other_images_in_files_that_lie_class_by_class_are_mixed(tmp_path: Path) -> None:
    from robal.subjects import of_model

    pixels = np.repeat(np.arange(200, dtype="uint8"), 28 * 28).reshape(200, 28, 28)
    np.savez(tmp_path / "sorted.npz", images=pixels)
    subject = of_model("LeNet5", None, "digits", None, None, None, 0, "cpu")
    first = read_outsiders(str(tmp_path / "sorted.npz"), None, subject, 0)[:20, 0, 0, 0].tolist()
    assert max(first) > 100
    colour = replace(subject, pixels=torch.zeros(1, 3, 28, 28, dtype=torch.uint8))
    with pytest.raises(InputError, match="as many channels"):
        read_outsiders("digits", None, colour, 0)
