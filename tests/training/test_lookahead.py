from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from robal.errors import ContractError
from robal.seeds import generator
from robal.training.lookahead import lookahead

OPTIMISERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "plain": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.05),
}


def a_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def take_a_step(model: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> dict[str, torch.Tensor]:
    """A step on inputs of its own; returns the gradients."""
    inputs = torch.randn(5, 3, dtype=torch.float64, generator=generator(number, "inputs"))
    optimiser.zero_grad()
    model(inputs).square().sum().backward()
    optimiser.step()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("earlier", [0, 3])
def test_a_step_ahead_is_the_step_that_the_optimiser_takes(name: str, earlier: int) -> None:
    model = a_model()
    optimiser = OPTIMISERS[name](model)
    for number in range(earlier):
        take_a_step(model, optimiser, number)
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    twin = copy.deepcopy(model)
    other = OPTIMISERS[name](twin)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    gradients = take_a_step(twin, other, 9)
    ahead = lookahead(optimiser, model)(weights, gradients)
    for key, wanted in twin.named_parameters():
        torch.testing.assert_close(ahead[key], wanted.detach())
    assert all(torch.equal(one, weights[key]) for key, one in model.named_parameters())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_its_derivative_is_that_of_finite_differences(name: str) -> None:
    model = a_model()
    optimiser = OPTIMISERS[name](model)
    gradients = take_a_step(model, optimiser, 0)
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    step = lookahead(optimiser, model)
    leaves = [one.requires_grad_() for one in gradients.values()]
    assert torch.autograd.gradcheck(
        lambda *given: tuple(step(weights, dict(zip(gradients, given, strict=True))).values()), leaves
    )


def test_a_weight_without_gradient_stays() -> None:
    model = a_model()
    weights = dict(model.named_parameters())
    ahead = lookahead(OPTIMISERS["Adam"](model), model)(weights, {"0.bias": torch.ones(4)})
    assert not torch.equal(ahead["0.bias"], weights["0.bias"])
    assert torch.equal(ahead["2.weight"], weights["2.weight"])


def test_an_optimiser_that_is_not_known_is_refused() -> None:
    model = a_model()
    step = lookahead(torch.optim.Adagrad(model.parameters()), model)
    with pytest.raises(ContractError, match="known for SGD and Adam, not for Adagrad"):
        step(dict(model.named_parameters()), {"0.bias": torch.ones(4)})
