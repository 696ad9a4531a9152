"""The one crafting loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import ascend
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L2, Linf, Threat

THREATS: list[Threat] = [Linf(0.1), L2(0.5)]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=str)


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 3, 4, generator=generator(0, "images"))


def weights(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 3, 4, generator=generator(1, "weights"))


def bumpy(moved: Tensor) -> Tensor:
    """A loss with a curved surface, one an example."""
    return (torch.sin(3 * moved) * weights(len(moved))).flatten(1).sum(1)


def test_on_a_linear_loss_it_reaches_the_corner_of_the_cube() -> None:
    inputs, slope = images(), weights()
    moved = ascend(lambda x: (x * slope).flatten(1).sum(1), inputs, Linf(0.1), steps=6, step_size=0.03)
    torch.testing.assert_close(moved, (inputs + 0.1 * slope.sign()).clamp(0, 1))


def test_on_a_linear_loss_it_reaches_the_far_side_of_the_ball() -> None:
    inputs, slope = torch.full((4, 1, 3, 4), 0.5), weights()
    moved = ascend(lambda x: (x * slope).flatten(1).sum(1), inputs, L2(0.2), steps=6, step_size=0.05)
    torch.testing.assert_close(moved, inputs + 0.2 * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


@each_threat
def test_it_equals_a_loop_written_out_bit_for_bit(threat: Threat) -> None:
    inputs = images()
    wanted = inputs
    for _ in range(5):
        variable = wanted.clone().requires_grad_()
        bumpy(variable).sum().backward()
        assert variable.grad is not None
        if isinstance(threat, Linf):
            wanted = wanted + 0.03 * variable.grad.sign()
            wanted = torch.min(torch.max(wanted, (inputs - 0.1).clamp(min=0)), (inputs + 0.1).clamp(max=1))
        else:
            wanted = threat.project(inputs, wanted + 0.03 * threat.steepest(variable.grad))
    assert torch.equal(ascend(bumpy, inputs, threat, steps=5, step_size=0.03), wanted)


@each_threat
def test_each_example_climbs_or_descends_as_it_is_told(threat: Threat) -> None:
    inputs, direction = images(), torch.tensor([1.0, -1.0, -1.0, 1.0])
    moved = ascend(bumpy, inputs, threat, steps=5, step_size=0.02, direction=direction)
    change = bumpy(moved) - bumpy(inputs)
    assert (change * direction > 0.01).all()
    up = ascend(bumpy, inputs, threat, steps=5, step_size=0.02)
    down = ascend(bumpy, inputs, threat, steps=5, step_size=0.02, direction=-1)
    assert torch.equal(moved, torch.where(direction.view(-1, 1, 1, 1) > 0, up, down))


@each_threat
def test_each_example_may_have_its_own_radius_and_step(threat: Threat) -> None:
    inputs, eps, step = images(), torch.tensor([0.0, 0.02, 0.05, 0.2]), torch.tensor([0.01, 0.01, 0.02, 0.04])
    moved = ascend(bumpy, inputs, threat, steps=7, step_size=step, eps=eps)
    assert (threat.size(moved - inputs) <= eps * (1 + 1e-5) + 1e-7).all()
    for number in range(4):
        alone = type(threat)(float(eps[number]))

        def mine(x: Tensor, number: int = number) -> Tensor:
            return (torch.sin(3 * x) * weights()[number]).flatten(1).sum(1)

        one = ascend(mine, inputs[number : number + 1], alone, steps=7, step_size=float(step[number]))
        torch.testing.assert_close(one[0], moved[number])


@each_threat
def test_no_step_returns_the_start(threat: Threat) -> None:
    inputs = images()
    assert torch.equal(ascend(bumpy, inputs, threat, steps=0, step_size=1.0), inputs)
    begun = ascend(bumpy, inputs, threat, steps=0, step_size=1.0, generator=generator(5))
    assert torch.equal(begun, threat.random_start(inputs, generator(5)))
    far = inputs + weights()
    begun = ascend(bumpy, inputs, threat, steps=0, step_size=1.0, start=far)
    assert torch.equal(begun, threat.project(inputs, far))


@each_threat
def test_the_callers_inputs_stay_as_they_are_and_no_gradient_hangs_on_the_result(threat: Threat) -> None:
    inputs = images().requires_grad_()
    kept = inputs.detach().clone()
    start = (kept + 0.01).clamp(0, 1)
    start_kept = start.clone()
    moved = ascend(bumpy, inputs, threat, steps=3, step_size=0.05, start=start)
    assert torch.equal(inputs.detach(), kept)
    assert torch.equal(start, start_kept)
    assert inputs.grad is None
    assert inputs.requires_grad
    assert not moved.requires_grad


def test_it_climbs_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        moved = ascend(bumpy, images(), Linf(0.1), steps=2, step_size=0.05)
    assert torch.equal(moved, ascend(bumpy, images(), Linf(0.1), steps=2, step_size=0.05))
    assert (bumpy(moved) > bumpy(images())).all()


def test_examples_do_not_influence_each_other(lenet: nn.Module, unseen: tuple[Tensor, Tensor]) -> None:
    inputs, labels = unseen[0][:6], unseen[1][:6]

    def craft(some: slice) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            return F.cross_entropy(lenet(x), labels[some], reduction="none")

        return ascend(loss, inputs[some], L2(0.5), steps=3, step_size=0.2)

    together = craft(slice(0, 6))
    torch.testing.assert_close(torch.cat([craft(slice(0, 2)), craft(slice(2, 6))]), together, rtol=0, atol=1e-5)


def test_steps_below_zero_are_refused() -> None:
    with pytest.raises(InputError, match="steps must be 0 or more; -1 came"):
        ascend(bumpy, images(), Linf(0.1), steps=-1, step_size=0.1)
