"""ACT: a robust and a natural network train together, each towards the labels and towards the other's output."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import ascend, crafting
from robal.errors import InputError
from robal.networks import frozen
from robal.objectives.objective import Batch, cross_entropy
from robal.objectives.trades import kl_divergence
from robal.pool import Examples
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class ACT:
    """L_R + L_N: the robust network R on adversaries x', the natural network N, its companion, on the images x.

        L_R = (1 − a) CE(R(x'), y) + a T² KL(N(x) ‖ R(x'))    at temperature T, N's output a constant,
        L_N = (1 − a) CE(N(x), y) + a T² KL(R(x') ‖ N(x))     R's output a constant.

    x' climbs (1 − a) CE(R(x'), y) + a KL(N(x) ‖ R(x')) from x + 0.001 · N(0, 1), both in eval mode. N starts as a copy
    of R, goes on from round to round where R does, and is trained by the same optimiser.

    Args:
        share: a, of the other network's part, in [0, 1].
        temperature: T, > 0.
        steps: gradient steps of the crafting.
        step_size: in units of the threat's norm; None: 2.5 · eps / steps.
        threat: None: the plan's; alone, Linf(8/255).

    Source: Arani, Sarfraz and Zonooz, BMVC 2020, arXiv 2008.07015.

    Differs from the released code: crafting climbs both terms for each example; there the first is a mean over the
    batch and the second a sum, which drowns it. One `share` for both networks.
    """

    share: float = 0.9
    temperature: float = 4.0
    steps: int = 10
    step_size: float | None = None
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not self.temperature > 0 or self.steps < 1:
            raise InputError(
                "ACT needs share in [0, 1], temperature > 0 and steps >= 1; "
                f"{self.share}, {self.temperature} and {self.steps} came"
            )

    @property
    def trains_beside(self) -> bool:
        """It trains a network of its own beside the model."""
        return True

    @property
    def passes(self) -> int:
        return self.steps + 2

    def begin(self, model: nn.Module, examples: Examples) -> nn.Module:
        return copy.deepcopy(model).train()

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        assert companion is not None
        moved = self._craft(model, companion, batch, generator)
        robust, natural = model(moved), companion.train()(batch.inputs).float()  # as the model's, under autocast
        return self._loss(robust, natural.detach(), batch) + self._loss(natural, robust.detach(), batch)

    def _loss(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        taught = kl_divergence(other / self.temperature, logits / self.temperature)
        return (1 - self.share) * cross_entropy(logits, batch) + self.share * self.temperature**2 * taught

    def _craft(self, model: nn.Module, companion: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        threat, inputs = self.threat or Linf(), batch.inputs
        noise = torch.randn(inputs.shape, generator=generator, device=generator.device).to(inputs.device)
        with frozen(companion), torch.no_grad():
            natural = companion(inputs).float()
        with crafting(model, inputs) as twin:

            def climbed(moved: Tensor) -> Tensor:
                logits = twin(moved)
                wrong = F.cross_entropy(logits, batch.labels, reduction="none")
                return (1 - self.share) * wrong + self.share * kl_divergence(natural, logits)

            return ascend(
                climbed,
                inputs,
                threat,
                steps=self.steps,
                step_size=2.5 * threat.eps / self.steps if self.step_size is None else self.step_size,
                start=inputs + 0.001 * noise,
            )
