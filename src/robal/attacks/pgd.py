"""Projected gradient descent on the cross-entropy, the attack that adversarial training crafts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks.answers import classes_of
from robal.attacks.apgd import likely_targets
from robal.attacks.ascent import ascend
from robal.errors import InputError
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class PGD:
    """Climb the cross-entropy for `steps` steps inside the threat; of several restarts keep each image's worst.

    The worst is a point that is misclassified, and among those, or where there is none, the one of highest loss. A
    point at which the model answers NaN is misclassified; the climb ends there.

    Args:
        steps: gradient steps of each restart.
        step_size: in units of the threat's norm; None: 2.5 · eps / steps (Madry et al.'s rule of thumb).
        random_start: begin at a random point of the ball; else at the image.
        restarts: how often; more restarts never raise robust accuracy.
        threat: None: the plan's; alone, Linf(8/255).
        targets: n: each restart descends, one after the other, the cross-entropy of the n most likely wrong classes
            (at most K - 1) instead of climbing the label's; 0: not targeted.

    Source: Madry et al., ICLR 2018, arXiv 1706.06083. DRE trains with 40 steps of 0.01
    at Linf 0.3 and evaluates with 50.
    """

    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    threat: Threat | None = None
    targets: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"PGD needs steps >= 1 and restarts >= 1; {self.steps} and {self.restarts} came")
        if self.targets < 0:
            raise InputError(f"PGD's targets are a number of wrong classes, 0 for none; {self.targets} came")
        if self.step_size is not None and self.step_size <= 0:
            raise InputError(f"PGD's step_size must be positive; {self.step_size} came")
        if self.restarts > 1 and not self.random_start:
            raise InputError("PGD's restarts differ only by their random start: set random_start, or restarts to 1")

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return f"PGD-{'T-' if self.targets else ''}{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        """Gradient evaluations an image costs."""
        return self.steps * self.restarts * max(self.targets, 1)

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        eps: Tensor | None = None,
    ) -> Tensor:
        threat = self.threat or Linf()
        step_size = self.step_size or 2.5 * (threat.eps if eps is None else eps) / self.steps
        goals: list[Tensor | None] = [None]
        if self.targets:
            with torch.no_grad():
                goals = list(likely_targets(model(inputs), labels, self.targets))
        worst, score = inputs, None
        for goal in goals * self.restarts:
            moved = ascend(
                _loss(model, labels, goal),
                inputs,
                threat,
                steps=self.steps,
                step_size=step_size,
                eps=eps,
                generator=generator if self.random_start else None,
            )
            if len(goals) * self.restarts == 1:
                return moved
            logits = model(moved)
            # In double precision: beside 1e9, float32 cannot tell one loss from another.
            loss = F.cross_entropy(logits, labels, reduction="none").double().nan_to_num(0.0)
            reached = loss + 1e9 * (classes_of(logits) != labels)
            better = torch.ones_like(reached, dtype=torch.bool) if score is None else reached > score
            worst = torch.where(better.view(-1, 1, 1, 1), moved, worst)
            score = reached if score is None else torch.maximum(score, reached)
        return worst.detach()


def _loss(model: nn.Module, labels: Tensor, goal: Tensor | None) -> Callable[[Tensor], Tensor]:
    if goal is None:
        return lambda moved: F.cross_entropy(model(moved), labels, reduction="none")
    return lambda moved: -F.cross_entropy(model(moved), goal, reduction="none")
