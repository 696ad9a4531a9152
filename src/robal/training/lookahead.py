"""One step of a torch optimiser as a function: from weights and gradients to weights, differentiable in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robal.errors import ContractError

_TINY = 1e-30  # below it a second moment counts as none, where the root has no derivative


def lookahead(
    optimiser: torch.optim.Optimizer, model: nn.Module
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]:
    """What `optimiser.step()` would make of the model's weights, as a function of weights and gradients by name.

    Learning rate, weight decay, momentum and moments are those of the optimiser at the time of the call of that
    function; neither it nor the model is changed. A weight that has no gradient stays.

    Raises:
        ContractError: when it is called, for another optimiser than torch's SGD and Adam.
    """
    groups = {parameter: group for group in optimiser.param_groups for parameter in group["params"]}

    def step(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        after = dict(weights)
        for name, parameter in model.named_parameters():
            if gradients.get(name) is not None:
                one = _steps.get(type(optimiser))
                if one is None:
                    raise ContractError(
                        f"looking one step ahead is known for SGD and Adam, not for {type(optimiser).__name__}"
                    )
                after[name] = one(weights[name], gradients[name], groups[parameter], optimiser.state.get(parameter, {}))
        return after

    return step


def _sgd(weight: Tensor, gradient: Tensor, group: dict[str, Any], state: Mapping[str, Any]) -> Tensor:
    gradient = gradient + group["weight_decay"] * weight
    if group["momentum"]:
        before = state.get("momentum_buffer")
        moved = gradient if before is None else group["momentum"] * before + (1 - group["dampening"]) * gradient
        gradient = gradient + group["momentum"] * moved if group["nesterov"] else moved
    return weight - group["lr"] * gradient


def _adam(weight: Tensor, gradient: Tensor, group: dict[str, Any], state: Mapping[str, Any]) -> Tensor:
    first, second = group["betas"]
    gradient = gradient + group["weight_decay"] * weight
    steps = float(state.get("step", 0)) + 1
    mean = (1 - first) * gradient + first * state.get("exp_avg", 0.0)
    square = (1 - second) * gradient.square() + second * state.get("exp_avg_sq", 0.0)
    length = (square / (1 - second**steps)).clamp_min(_TINY).sqrt() + group["eps"]
    return weight - group["lr"] / (1 - first**steps) * mean / length


_steps: dict[type, Callable[..., Tensor]] = {torch.optim.SGD: _sgd, torch.optim.Adam: _adam}
