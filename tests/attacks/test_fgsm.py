from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import FGSM, PGD
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L2, Linf
from small_models import linear


def test_one_step_on_a_linear_model_by_hand() -> None:
    moved = FGSM(threat=Linf(0.25))(
        linear([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[[[0.5, 0.125]]]]), torch.tensor([1]), generator(0)
    )
    assert torch.equal(moved, torch.tensor([[[[0.75, 0.0]]]]))


@pytest.mark.parametrize(("peer", "threat"), [("LinfFastGradientAttack", Linf(0.1)), ("L2FastGradientAttack", L2(1.0))])
def test_it_is_the_fast_gradient_attack_of_foolbox(
    foolbox: Any, lenet: nn.Module, unseen: tuple[Tensor, Tensor], peer: str, threat: Any
) -> None:
    attack = getattr(foolbox.attacks, peer)(random_start=False)
    wanted = attack.run(foolbox.PyTorchModel(lenet, bounds=(0, 1)), *unseen, epsilon=threat.eps)
    torch.testing.assert_close(FGSM(threat=threat)(lenet, *unseen, generator(0)), wanted, rtol=0, atol=1e-5)


def test_it_is_one_step_of_pgd_to_the_edge(lenet: nn.Module, unseen: tuple[Tensor, Tensor]) -> None:
    fast = FGSM(step=1.25, random_start=True, threat=Linf(0.1))(lenet, *unseen, generator(3))
    slow = PGD(steps=1, step_size=0.125, threat=Linf(0.1))(lenet, *unseen, generator(3))
    assert torch.equal(fast, slow)
    assert not torch.equal(fast, FGSM(step=1.25, random_start=True, threat=Linf(0.1))(lenet, *unseen, generator(4)))


def test_a_radius_of_zero_moves_nothing(lenet: nn.Module, unseen: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(FGSM(threat=Linf(0.0))(lenet, *unseen, generator(0)), unseen[0])


def test_a_step_that_goes_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match="step must be positive; 0 came"):
        FGSM(step=0)


def test_it_says_what_it_is_and_what_it_costs() -> None:
    assert (FGSM().label, FGSM().passes) == ("FGSM", 1)
