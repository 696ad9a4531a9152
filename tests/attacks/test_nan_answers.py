"""A model that answers NaN in the ball names no class there: its image is broken, and no attack falls over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import APGD, FGSM, PGD, AutoAttack, DeepFool, Monitor, Square, perturb, transfer
from robal.attacks.answers import classes_of
from robal.attacks.apgd import clearly_wrong
from robal.attacks.square import margins
from robal.evaluation import predict, under_attack
from robal.seeds import generator
from robal.threats import L2, Linf

INPUTS = torch.full((3, 1, 6, 6), 0.5)


class Logarithmic(nn.Module):
    """Takes the logarithm of 0.52 less the first pixel, and is right and sure wherever that is a number."""

    def __init__(self, label: int, classes: int = 4) -> None:
        super().__init__()
        self.lead = nn.Parameter(torch.eye(classes)[label])
        self.others = nn.Parameter(torch.linspace(0.0, 1.0, classes))

    def forward(self, inputs: Tensor) -> Tensor:
        room = (0.52 - inputs.flatten(1)[:, :1]).log()
        return (12 - inputs.flatten(1).mean(1, keepdim=True) + 0.01 * room) * self.lead + self.others


class Dividing(nn.Module):
    """0 / 0 for one class, not the label's, once no pixel is below 0.45; the others go on as they did."""

    def forward(self, inputs: Tensor) -> Tensor:
        below = (0.45 - inputs.flatten(1)).clamp_min(0.0).sum(1)
        steady = torch.stack([5 - inputs.flatten(1).mean(1), *[0 * below] * 2], 1)
        return torch.cat([steady, (below / below).unsqueeze(1)], 1)


class Overflowing(nn.Module):
    """The label's logit is infinite, above or below, where the first pixel is bright."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, inputs: Tensor) -> Tensor:
        logits = linear_lead(inputs)
        bright = inputs.flatten(1)[:, :1] > 0.55
        return torch.where(bright & (torch.arange(4) == 0), self.value, logits)


def linear_lead(inputs: Tensor) -> Tensor:
    """Label 0 leads by 3 minus the mean."""
    return (3 - inputs.flatten(1).mean(1, keepdim=True)) * torch.eye(4)[0]


ATTACKS: list[Any] = [
    FGSM(random_start=True, threat=Linf(0.1)),
    PGD(5, threat=Linf(0.1)),
    PGD(5, threat=L2(2.0)),
    PGD(5, restarts=3, threat=Linf(0.1)),
    PGD(5, targets=2, threat=Linf(0.1)),
    APGD(steps=5, threat=Linf(0.1)),
    APGD("dlr", steps=5, threat=L2(2.0)),
    APGD("targeted-dlr", steps=5, threat=Linf(0.1)),
    APGD("targeted-margin", steps=5, threat=Linf(0.1)),
    Square(30, threat=Linf(0.1)),
    Monitor(5, 2, 30, threat=Linf(0.1)),
    Monitor(5, 2, 30, threat=L2(2.0)),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.label}, {attack.threat}")
@pytest.mark.parametrize("label", [0, 2])
def test_a_point_at_which_the_model_answers_nan_breaks_the_image(attack: Any, label: int) -> None:
    """Of label 0 too, which is what argmax calls a row of NaN."""
    model, labels = Logarithmic(label), torch.full((3,), label)
    assert predict(model, INPUTS).tolist() == labels.tolist()
    moved = perturb(attack, model, INPUTS, labels, generator(0))
    assert moved.isfinite().all()
    assert predict(model, moved).tolist() == [-1] * 3
    assert not under_attack(model, INPUTS, labels, attack, seed=0).correct.any()


@pytest.mark.parametrize("label", [0, 2])
def test_square_within_l2_keeps_the_point_that_gave_nan_also_where_it_is_the_first_guess(label: int) -> None:
    """It cannot seek such a point, only meet it; a first guess raises the first pixel as often as it lowers it."""
    found = []
    for seed in range(8):
        moved = perturb(
            Square(1, threat=L2(2.0)), Logarithmic(label), INPUTS[:1], torch.tensor([label]), generator(seed)
        )
        assert moved.isfinite().all()
        assert predict(Logarithmic(label), moved).item() == (-1 if moved[0, 0, 0, 0] >= 0.52 else label)
        found.append(predict(Logarithmic(label), moved).item() == -1)
    assert any(found)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.label}, {attack.threat}")
def test_a_nan_of_one_class_alone_breaks_the_image_and_is_not_left_again(attack: Any) -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    inputs = torch.full((3, 1, 6, 6), 0.5)
    inputs[:, 0, 0, 0] = 0.43
    moved = perturb(attack, Dividing(), inputs, labels, generator(0))
    assert moved.isfinite().all()
    reached = predict(Dividing(), moved)
    assert torch.equal(reached == -1, (moved >= 0.45).flatten(1).all(1))
    if isinstance(attack, Monitor):
        assert (reached == -1).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.label}, {attack.threat}")
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_logit_makes_no_attack_fall_over(attack: Any, value: float) -> None:
    model, labels = Overflowing(value), torch.zeros(3, dtype=torch.int64)
    moved = perturb(attack, model, INPUTS, labels, generator(0))
    assert moved.isfinite().all()
    bright = moved.flatten(1)[:, 0] > 0.55
    assert torch.equal(predict(model, moved) == 0, ~bright | (value > 0))
    if value < 0 and isinstance(attack, Monitor):
        assert bright.all()


def test_autoattack_returns_no_pixels_of_nan() -> None:
    for threat in (Linf(0.1), L2(0.5)):
        moved = perturb(
            AutoAttack("reduced", threat=threat), Logarithmic(2), INPUTS, torch.tensor([2] * 3), generator(0)
        )
        assert moved.isfinite().all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("clip", [True, False])
def test_deepfool_counts_nan_as_another_class(norm: Any, clip: bool) -> None:
    class Edge(nn.Module):
        """Class 1 would win at 0.6, and beyond 0.55 there is no answer."""

        def forward(self, inputs: Tensor) -> Tensor:
            value = inputs.flatten(1)[:, :1]
            return torch.cat([0.6 - value, 0 * value], 1) + 0 * (0.55 - value).log()

    found = DeepFool(norm, clip=clip, overshoot=0.0)(Edge(), torch.full((2, 1, 1, 1), 0.5))
    assert found.flipped.all()
    assert (found.adversaries > 0.55).all()
    assert predict(Edge(), found.adversaries).tolist() == [-1, -1]
    assert (found.distance <= 0.11).all()


class Patchy(nn.Module):
    """Dark pixels: no answer. Bright ones: right, whatever the attack does."""

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return torch.where(flat < 0.5, torch.nan, torch.tensor([2.0, 0.0, 0.0])) + 0 * flat


def test_of_several_restarts_the_one_that_met_nan_is_kept() -> None:
    inputs, labels = torch.full((20, 1, 1, 1), 0.5), torch.zeros(20, dtype=torch.int64)
    one, ten = (
        predict(Patchy(), perturb(PGD(1, restarts=n, threat=Linf(0.5)), Patchy(), inputs, labels, generator(0)))
        for n in (1, 10)
    )
    assert 0 < (one == -1).sum() < 20
    assert (ten == -1).all()


def test_an_image_without_a_class_has_no_boundary() -> None:
    inputs = torch.cat([INPUTS[:1], INPUTS[:1] + 0.2])
    found = DeepFool()(Logarithmic(0), inputs)
    assert not found.flipped[1]
    assert found.distance[1] == float("inf")
    assert torch.equal(found.adversaries[1], inputs[1])


def test_an_image_without_a_class_is_misclassified_and_comes_back_as_it_is() -> None:
    inputs = torch.cat([INPUTS[:2], INPUTS[:1] + 0.2])
    labels = torch.zeros(3, dtype=torch.int64)
    assert predict(Logarithmic(0), inputs).tolist() == [0, 0, -1]
    for attack in (APGD(steps=3, threat=Linf(0.01)), Square(3, threat=Linf(0.01)), Monitor(3, 2, 3, Linf(0.01))):
        moved = perturb(attack, Logarithmic(0), inputs, labels, generator(0))
        assert torch.equal(moved[2], inputs[2])
    crafted = transfer(PGD(3, threat=Linf(0.1)), Logarithmic(0), Logarithmic(0), inputs, labels, generator(0))
    assert crafted.right.tolist() == [True, True, False]
    assert not crafted.stands.any()


def test_the_verdicts_by_hand() -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[2.0, 1.0], [nan, 1.0], [1.0, nan], [-inf, 1.0], [inf, 1.0]])
    labels = torch.zeros(5, dtype=torch.int64)
    assert classes_of(logits).tolist() == [0, -1, -1, 1, 0]
    assert clearly_wrong(logits, labels).tolist() == [False, True, True, True, False]
    lead, loss = margins(nn.Identity(), torch.cat([logits, torch.zeros(1, 2)]), torch.cat([labels, labels[:1]]))
    assert torch.equal(lead, loss)
    assert (lead > 0).tolist() == [True, False, False, False, True, False]
    assert lead.isfinite().all()
    assert (lead != 0).all()  # where all are 0, pyautoattack asks about nothing, and falls over
