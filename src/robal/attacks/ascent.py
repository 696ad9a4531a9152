"""The one crafting loop: projected steepest ascent. PGD, TRADES and everything else that moves pixels calls it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robal.errors import InputError
from robal.threats import Threat


def ascend(
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float | Tensor,
    direction: float | Tensor = 1.0,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Climb a loss inside a threat: x ← project(x + direction · step_size · steepest(∇loss)).

    Args:
        loss: maps [B, C, H, W] to one loss per example, [B]. Examples must not influence each other.
        inputs: [B, C, H, W] float32 in [0, 1], the centres of the balls.
        threat: the ball.
        steps: how many; 0 returns the start.
        step_size: in units of the threat's norm; a number or [B].
        direction: +1 climbs (adversaries), -1 descends (anti-adversaries); a number or [B].
        eps: [B] radii that replace the threat's own.
        generator: start at a random point of the ball drawn from it; None: start at `inputs`.
        start: [B, C, H, W], start there instead.

    Returns:
        [B, C, H, W] float32 in [0, 1], inside the threat; no gradient attached. `inputs` are unchanged. An image that
        meets a loss of NaN stays where it met it.

    Source: Madry et al., ICLR 2018, arXiv 1706.06083, section 2.1 (steps, projection, random start).

    >>> from robal.threats import Linf
    >>> ascend(lambda x: x.flatten(1).sum(1), torch.full((1, 1, 1, 2), 0.5), Linf(0.25), steps=2, step_size=0.1)
    tensor([[[[0.7000, 0.7000]]]])
    """
    if steps < 0:
        raise InputError(f"steps must be 0 or more; {steps} came")
    step = torch.as_tensor(step_size, device=inputs.device) * torch.as_tensor(direction, device=inputs.device)
    step = step.to(inputs.dtype).view(-1, 1, 1, 1)
    if start is not None:
        moved = threat.project(inputs, start, eps)
    elif generator is not None:
        moved = threat.random_start(inputs, generator, eps)
    else:
        moved = inputs
    project = threat.around(inputs, eps)
    for _ in range(steps):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        # Where the loss is NaN its gradient is too: as 0, it leaves the image at the point that the model fails at.
        direction_up = threat.steepest(gradient.nan_to_num())
        # In place: on a CPU, memory for a fresh tensor costs more than the arithmetic.
        moved = project(direction_up.mul_(step).add_(moved.detach()))
    return moved.detach()
