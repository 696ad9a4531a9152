"""One gradient step of full size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks.ascent import ascend
from robal.errors import InputError
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method: one steepest step to the edge of the ball.

    Args:
        step: in units of eps; 1.25 with a random start (Wong et al.), 1 without.
        random_start: begin at a random point of the ball.
        threat: None: the plan's; alone, Linf(8/255).

    Source: Goodfellow et al., ICLR 2015, arXiv 1412.6572; random start: Wong et al., ICLR 2020, arXiv 2001.03994.
    """

    step: float = 1.0
    random_start: bool = False
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise InputError(f"FGSM's step must be positive; {self.step} came")

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return "FGSM"

    @property
    def passes(self) -> int:
        """Gradient evaluations an image costs."""
        return 1

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        eps: Tensor | None = None,
    ) -> Tensor:
        threat = self.threat or Linf()
        return ascend(
            lambda moved: F.cross_entropy(model(moved), labels, reduction="none"),
            inputs,
            threat,
            steps=1,
            step_size=self.step * (threat.eps if eps is None else eps),
            eps=eps,
            generator=generator if self.random_start else None,
        )
