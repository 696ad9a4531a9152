"""N-FGSM: adversarial training for the price of two gradients, on points that noise takes out of the ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import crafting
from robal.errors import InputError
from robal.objectives.awp import at_hardest_weights
from robal.objectives.objective import Batch, check_strengths, cross_entropy
from robal.pool import Examples
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class NFGSM:
    """CE(f(x'), y) with x' = clamp(x₀ + step · eps · sign ∇CE(f(x₀), y)), x₀ = clamp(x + η), η uniform in ±noise · eps.

    clamp is to [0, 1]. x' is not projected onto the ball, from which it lies up to (noise + step) · eps away: hence
    an objective and no `Attack`. The noise is what keeps one step from overfitting to itself.

    Args:
        noise: largest noise, in units of eps, ≥ 0.
        step: in units of eps, > 0.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
        threat: an Linf; None: the plan's; alone, Linf(8/255).
        weight_radius: adversarial weight perturbation, see `robal.objectives.awp`; 0: none.

    Raises:
        InputError: for settings out of range, and for another threat than Linf.

    Differs from the paper: the gradient is that of the model in eval mode, as for all crafting here; and x + η is
    clamped before the step is added, as in the released code, which matters where many pixels are black or white.

    Source: de Jorge et al., NeurIPS 2022, arXiv 2202.01181.
    """

    noise: float = 2.0
    step: float = 1.0
    label_smoothing: float = 0.0
    threat: Threat | None = None
    weight_radius: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.noise < float("inf") and 0 < self.step < float("inf")):
            raise InputError(f"NFGSM needs noise >= 0 and step > 0; {self.noise} and {self.step} came")
        check_strengths(self.label_smoothing, self.weight_radius)
        if not isinstance(self.threat, Linf | None):
            raise InputError(f"NFGSM is for Linf, not for {self.threat}; use Adversarial or Trades")

    @property
    def passes(self) -> int:
        return 3 if self.weight_radius else 2

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        moved = self._craft(model, batch, generator)
        return at_hardest_weights(
            model,
            lambda forward: cross_entropy(forward(moved), batch, self.label_smoothing),
            batch.weights,
            self.weight_radius,
        )

    def _craft(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        threat = self.threat or Linf()
        drawn = torch.rand(batch.inputs.shape, generator=generator, device=generator.device).to(batch.inputs.device)
        noisy = (batch.inputs + (2 * drawn - 1) * (self.noise * threat.eps)).clamp_(0.0, 1.0)
        with crafting(model, batch.inputs) as twin, torch.enable_grad():
            start = noisy.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(twin(start), batch.labels, reduction="sum"), start)
        return (noisy + threat.steepest(gradient) * (self.step * threat.eps)).clamp_(0.0, 1.0)
