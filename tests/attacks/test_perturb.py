"""The gate of attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import FGSM, PGD, perturb
from robal.errors import ContractError
from robal.seeds import generator
from robal.threats import L2, Linf, Threat
from small_models import condition, convnet


@dataclass(frozen=True)
class Rogue:
    """Returns whatever it is told."""

    move: Callable[[Tensor], Tensor]
    threat: Threat | None = Linf(0.1)
    label: str = "Rogue"
    passes: int = 1

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        assert not model.training
        return self.move(inputs)


INPUTS = torch.full((2, 1, 8, 8), 0.95)
LABELS = torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("rogue", "message"),
    [
        (Rogue(lambda x: x - 0.2), r"Rogue left its threat \(Linf, eps = 0.1\): the largest change is 0.2"),
        (Rogue(lambda x: x + 0.08), r"pixels reach from 1.03 to 1.03"),
        (Rogue(lambda x: x - 0.05, L2(0.3)), r"L2, eps = 0.3\): the largest change is 0.4"),
        (Rogue(lambda x: x - 0.2, None), r"Linf, eps = 0.0313725"),
        (Rogue(lambda x: x * float("nan")), "the largest change is nan"),
        (Rogue(lambda x: x[:1]), r"returned \[1, 1, 8, 8\] for inputs of \[2, 1, 8, 8\]"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_an_attack_that_leaves_its_threat_is_refused_with_what_it_did(rogue: Rogue, message: str, check: bool) -> None:
    with pytest.raises(ContractError, match=message):
        perturb(rogue, convnet(), INPUTS, LABELS, generator(0), check=check)


def test_one_image_out_of_many_is_enough_to_be_refused() -> None:
    def move(inputs: Tensor) -> Tensor:
        moved = inputs.clone()
        moved[1, 0, 7, 7] = 0.5
        return moved

    with pytest.raises(ContractError, match=r"the largest change is 0\.45"):
        perturb(Rogue(move), convnet(), INPUTS, LABELS, generator(0))


def test_rounding_is_no_offence() -> None:
    moved = perturb(Rogue(lambda x: x - 0.1 - 1e-7), convnet(), INPUTS, LABELS, generator(0))
    torch.testing.assert_close(moved, INPUTS - 0.1)


def test_the_model_comes_back_as_it_was_when_the_attack_raises() -> None:
    def fail(inputs: Tensor) -> Tensor:
        raise ZeroDivisionError

    model = convnet().train()
    before = condition(model)
    with pytest.raises(ZeroDivisionError):
        perturb(Rogue(fail), model, INPUTS, LABELS, generator(0))
    assert condition(model) == before


@pytest.mark.parametrize(
    "attack",
    [PGD(steps=3, random_start=False, threat=Linf(0.1)), FGSM(threat=L2(0.4))],
    ids=lambda attack: attack.label,
)
def test_every_image_may_have_its_own_radius(attack: PGD | FGSM) -> None:
    inputs, labels = torch.rand(3, 1, 8, 8, generator=generator(0)), torch.tensor([0, 1, 2])
    eps = torch.tensor([0.0, 0.05, 0.7])
    moved = perturb(attack, convnet(), inputs, labels, generator(0), eps=eps)
    assert attack.threat is not None
    assert (attack.threat.size(moved - inputs) <= eps * (1 + 1e-5) + 1e-6).all()
    for number, radius in enumerate(eps.tolist()):
        one, label = inputs[number : number + 1], labels[number : number + 1]
        alone = perturb(replace(attack, threat=type(attack.threat)(radius)), convnet(), one, label, generator(0))
        torch.testing.assert_close(moved[number], alone[0], rtol=0, atol=1e-5)


def test_an_attack_that_keeps_the_threat_and_not_the_radius_of_an_image_is_refused() -> None:
    @dataclass(frozen=True)
    class Deaf(Rogue):
        def __call__(
            self, model: nn.Module, inputs: Tensor, labels: Tensor, draw: torch.Generator, *own: Any
        ) -> Tensor:
            return self.move(inputs)

    deaf = Deaf(lambda x: x - 0.09)
    perturb(deaf, convnet(), INPUTS, LABELS, generator(0), eps=torch.tensor([0.1, 0.1]))
    with pytest.raises(ContractError, match=r"the largest change is 0\.09"):
        perturb(deaf, convnet(), INPUTS, LABELS, generator(0), eps=torch.tensor([0.1, 0.08]))


def test_a_model_that_gives_probabilities_is_refused() -> None:
    with pytest.raises(ContractError, match="ends in a softmax; remove it"):
        perturb(FGSM(), nn.Sequential(convnet(), nn.Softmax(1)), INPUTS, LABELS, generator(0))


def test_checks_left_out_do_not_change_the_result() -> None:
    attack = PGD(steps=3, threat=Linf(0.1))
    checked, unchecked = (
        perturb(attack, convnet(), INPUTS, LABELS, generator(0), check=check) for check in (True, False)
    )
    assert torch.equal(checked, unchecked)
