"""`assess` from end to end on models and images at the edges of what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from robal.assessment import assess
from robal.attacks import FGSM, PGD, Attack, AutoAttack
from robal.report import evaluation_page, evaluation_table
from robal.threats import L2, Linf
from small_models import convnet

SMALL: tuple[Attack, ...] = (FGSM(), PGD(steps=2))


def some(images: int, *shape: int) -> Tensor:
    return torch.rand(images, *shape, generator=torch.Generator().manual_seed(0))


def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs).argmax(1)


def evaluate(
    model: nn.Module, inputs: Tensor, labels: Tensor, classes: int, folder: Path, *attacks: Attack, **more: Any
) -> dict[str, Any]:
    """The outcome; its page and its table can be made of it."""
    names, threat = [f"class {number}" for number in range(classes)], more.pop("threat", Linf(0.05))
    more = {"checks": False} | more
    outcome = assess(model, inputs, labels, names, threat, attacks or SMALL, 0, folder, {"model": "a test"}, **more)
    assert outcome["worst_case"] <= outcome["clean"]
    assert outcome["sandwich"]["holds"]
    assert evaluation_page(folder).stat().st_size > 1000
    assert evaluation_table(outcome)
    return outcome


class Dimmed(nn.Module):
    """No parameters, no buffers: the brightness of the two halves of an image."""

    def forward(self, inputs: Tensor) -> Tensor:
        half = inputs.shape[-1] // 2
        return torch.stack([inputs[..., :half].mean((1, 2, 3)), inputs[..., half:].mean((1, 2, 3))], 1) * 9 - 8


def test_a_model_without_parameters(tmp_path: Path) -> None:
    model, inputs = Dimmed(), some(10, 1, 8, 8)
    outcome = evaluate(model, inputs, answers(model, inputs), 2, tmp_path, checks=True, outside=some(5, 1, 8, 8))
    assert outcome["clean"] == 1.0
    assert outcome["worst_case"] < 1.0
    assert outcome["certified"]["accuracy"] is None


def test_one_image(tmp_path: Path) -> None:
    model, inputs = convnet().eval(), some(1, 1, 8, 8)
    outcome = evaluate(model, inputs, answers(model, inputs), 4, tmp_path, checks=True, also=(L2(0.5),))
    assert outcome["about"]["images"] == 1


def test_all_images_wrong(tmp_path: Path) -> None:
    model, inputs = convnet().eval(), some(10, 1, 8, 8)
    wrong = (answers(model, inputs) + 1) % 4
    outcome = evaluate(model, inputs, wrong, 4, tmp_path, checks=True, also=(L2(0.5),), outside=inputs)
    assert outcome["clean"] == outcome["worst_case"] == max(outcome["curve"]["accuracy"]) == 0.0
    assert outcome["confusion"]["clean"] == outcome["confusion"]["adversarial"]
    assert not (tmp_path / "broken.png").exists()


def test_one_class_among_the_labels(tmp_path: Path) -> None:
    model, inputs = convnet().eval(), some(10, 1, 8, 8)
    outcome = evaluate(model, inputs, torch.full((10,), 2), 4, tmp_path, checks=True)
    assert outcome["per_class"]["images"] == [0, 0, 10, 0]
    assert outcome["per_class"]["robust"]["worst_class"] == 2


def test_a_radius_of_zero_is_clean_accuracy(tmp_path: Path) -> None:
    model, inputs = convnet().eval(), some(10, 1, 8, 8)
    outcome = evaluate(model, inputs, answers(model, inputs), 4, tmp_path, threat=Linf(0.0), checks=True)
    assert outcome["worst_case"] == outcome["clean"] == 1.0
    assert outcome["adversarial_by"]["stood_and_fell"] == 0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    built = pyautoattack.AutoAttack.__init__

    def build(self: pyautoattack.AutoAttack, *arguments: object, **settings: object) -> None:
        built(self, *arguments, **settings)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 5
        self.square.n_queries = 50

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", build)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("classes", [2, 3])
def test_with_two_or_three_classes_autoattack_is_the_reduced_set_and_is_called_so(classes: int, tmp_path: Path) -> None:
    model, inputs = convnet(classes).eval(), some(4, 1, 8, 8)
    outcome = evaluate(model, inputs, answers(model, inputs), classes, tmp_path, *SMALL, AutoAttack())
    assert set(outcome["attacks"]) == {"FGSM", "PGD-2", "AutoAttack-reduced"}
    assert set(outcome["attacks"]["AutoAttack-reduced"]["stages"]) == {"apgd-ce", "fab-t", "square"}
    assert "support no claim" in evaluation_page(tmp_path).read_text(encoding="utf-8")


def test_a_hundred_classes(tmp_path: Path) -> None:
    model, inputs = convnet(100).eval(), some(30, 1, 8, 8)
    outcome = evaluate(model, inputs, answers(model, inputs), 100, tmp_path)
    assert len(outcome["confusion"]["adversarial"]) == 100


def test_colour_images_of_64_pixels(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 5)).eval()
    inputs = (some(8, 3, 64, 64) * 255).round().byte()
    outcome = evaluate(model, inputs, answers(model, inputs.float() / 255), 5, tmp_path, also=(L2(0.5),))
    assert outcome["worst_case"] < 1.0
    assert (tmp_path / "broken.png").exists()


class Overflowing(nn.Module):
    """Says class 1 of dark images, and NaN of bright ones."""

    def forward(self, inputs: Tensor) -> Tensor:
        light = inputs.mean((1, 2, 3))
        lead = torch.where(light > 0.52, torch.nan, 2 - 3 * light)
        return torch.stack([-lead, lead, -lead], 1)


def test_a_model_that_answers_nan_when_attacked_is_wrong_there(tmp_path: Path) -> None:
    model, inputs = Overflowing(), 0.4 + 0.15 * some(10, 1, 8, 8)
    outcome = evaluate(model, inputs, torch.ones(10, dtype=torch.int64), 3, tmp_path)
    assert outcome["clean"] == 1.0
    assert outcome["worst_case"] == 0.0
    assert torch.tensor(outcome["confusion"]["adversarial"])[1, 1] == 0
