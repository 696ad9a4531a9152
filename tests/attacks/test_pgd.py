from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, ascend
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L2, Linf, Threat
from small_models import linear, standing

Images = tuple[Tensor, Tensor]


def losses(model: nn.Module, moved: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(moved), labels, reduction="none")


def test_one_step_on_a_linear_model_by_hand() -> None:
    """Logits (x1 - x2, 0): the loss of class 0 rises as x1 falls and x2 rises."""
    moved = PGD(steps=1, random_start=False, threat=Linf(0.25))(
        linear([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[[[0.5, 0.875]]]]), torch.tensor([0]), generator(0)
    )
    assert torch.equal(moved, torch.tensor([[[[0.25, 1.0]]]]))


@pytest.mark.parametrize(("eps", "steps", "step"), [(0.1, 7, 0.02), (0.3, 15, 0.05)])
def test_without_a_random_start_it_is_foolbox_linf_pgd(
    foolbox: Any, lenet: nn.Module, unseen: Images, eps: float, steps: int, step: float
) -> None:
    inputs, labels = unseen[0][:30], unseen[1][:30]
    peer = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
    wanted = peer.run(foolbox.PyTorchModel(lenet, bounds=(0, 1)), inputs, labels, epsilon=eps)
    own = PGD(steps=steps, step_size=step, random_start=False, threat=Linf(eps))
    torch.testing.assert_close(own(lenet, inputs, labels, generator(0)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("eps", "steps", "step"), [(0.5, 7, 0.1), (2.0, 15, 0.3)])
def test_without_a_random_start_it_is_foolbox_l2_pgd(
    foolbox: Any, lenet: nn.Module, unseen: Images, eps: float, steps: int, step: float
) -> None:
    # in float64, for a sum that is rounded the other way would move all later steps
    inputs, labels, model = unseen[0][:30].double(), unseen[1][:30], copy.deepcopy(lenet).double()
    peer = foolbox.attacks.L2PGD(abs_stepsize=step, steps=steps, random_start=False)
    wanted = peer.run(foolbox.PyTorchModel(model, bounds=(0, 1)), inputs, labels, epsilon=eps)
    own = PGD(steps=steps, step_size=step, random_start=False, threat=L2(eps))
    torch.testing.assert_close(own(model, inputs, labels, generator(0)), wanted, rtol=0, atol=1e-5)


def test_the_step_left_open_is_two_and_a_half_radii_over_the_steps(lenet: nn.Module, unseen: Images) -> None:
    inputs, labels = unseen[0][:5], unseen[1][:5]
    default = PGD(steps=10, random_start=False, threat=Linf(0.2))(lenet, inputs, labels, generator(0))
    given = PGD(steps=10, step_size=0.05, random_start=False, threat=Linf(0.2))(lenet, inputs, labels, generator(0))
    torch.testing.assert_close(default, given, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", [Linf(0.12), L2(1.2)], ids=str)
def test_an_image_that_falls_to_one_restart_falls_to_more(lenet: nn.Module, unseen: Images, threat: Threat) -> None:
    def left(restarts: int) -> Tensor:
        attack = PGD(steps=3, restarts=restarts, threat=threat)
        return standing(lenet, attack(lenet, *unseen, generator(0)), unseen[1])

    one, two, five = left(1), left(2), left(5)
    assert not (two & ~one).any()
    assert not (five & ~two).any()
    assert five.sum() < one.sum() < len(one)


def test_of_several_restarts_the_worst_is_kept(lenet: nn.Module, unseen: Images) -> None:
    inputs, labels = unseen
    threat, draw = Linf(0.15), generator(7)
    tries = []
    for _ in range(4):
        moved = ascend(
            lambda x: F.cross_entropy(lenet(x), labels, reduction="none"),
            inputs,
            threat,
            steps=2,
            step_size=0.1,
            generator=draw,
        )
        tries.append((standing(lenet, moved, labels), losses(lenet, moved, labels), moved))
    kept = PGD(steps=2, step_size=0.1, restarts=4, threat=threat)(lenet, inputs, labels, generator(7))
    several = 0
    for number in range(len(inputs)):
        broken = [t for t in tries if not t[0][number]]
        several += len(broken) > 1
        worst = max(broken or tries, key=lambda t: float(t[1][number]))
        assert torch.equal(kept[number], worst[2][number])
    assert several > 10  # else the choice among the broken ones is not tested


class Plateaus(nn.Module):
    """Dark pixels: wrong at a loss of log(1 / 0.45). Bright ones: right at the higher loss of log(1 / 0.4)."""

    def forward(self, inputs: Tensor) -> Tensor:
        dark, bright = torch.tensor([0.45, 0.5, 0.05]).log(), torch.tensor([0.4, 0.3, 0.3]).log()
        return torch.where(inputs.flatten(1) < 0.5, dark, bright) + 0 * inputs.flatten(1)


def test_a_broken_restart_is_worse_than_one_of_higher_loss() -> None:
    inputs, labels = torch.full((20, 1, 1, 1), 0.5), torch.zeros(20, dtype=torch.int64)
    one, ten = (PGD(steps=1, restarts=n, threat=Linf(0.5))(Plateaus(), inputs, labels, generator(0)) for n in (1, 10))
    assert 0 < standing(Plateaus(), one, labels).sum() < 20
    assert not standing(Plateaus(), ten, labels).any()


def test_a_wider_radius_leaves_fewer_standing(lenet: nn.Module, unseen: Images) -> None:
    counts = [
        int(standing(lenet, PGD(threat=Linf(eps))(lenet, *unseen, generator(0)), unseen[1]).sum())
        for eps in (0.0, 0.03, 0.1, 0.2, 0.3)
    ]
    assert counts[0] == len(unseen[1])
    assert all(wide <= narrow + 1 for narrow, wide in pairwise(counts))
    assert counts[-1] < 0.2 * counts[0]


def test_more_steps_leave_fewer_standing_and_raise_the_loss(lenet: nn.Module, unseen: Images) -> None:
    moved = [PGD(steps=n, step_size=0.03, threat=Linf(0.1))(lenet, *unseen, generator(0)) for n in (1, 3, 10, 30)]
    counts = [int(standing(lenet, points, unseen[1]).sum()) for points in moved]
    means = [float(losses(lenet, points, unseen[1]).mean()) for points in moved]
    assert all(more <= fewer + 1 for fewer, more in pairwise(counts))
    assert means == sorted(means)


def test_a_radius_of_zero_moves_nothing(lenet: nn.Module, unseen: Images) -> None:
    moved = PGD(threat=Linf(0.0))(lenet, unseen[0][:3], unseen[1][:3], generator(0))
    assert torch.equal(moved, unseen[0][:3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps >= 1 and restarts >= 1; 0 and 1 came"),
        ({"restarts": 0}, "10 and 0 came"),
        ({"step_size": 0.0}, "step_size must be positive; 0.0 came"),
        ({"restarts": 2, "random_start": False}, "set random_start, or restarts to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGD(**settings)


def test_it_says_what_it_is_and_what_it_costs() -> None:
    assert (PGD(steps=50).label, PGD(steps=50).passes) == ("PGD-50", 50)
    assert (PGD(steps=10, restarts=3).label, PGD(steps=10, restarts=3).passes) == ("PGD-10x3", 30)
