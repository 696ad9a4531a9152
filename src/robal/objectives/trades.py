"""TRADES: accuracy on the images, and stability of the output around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import ascend, crafting
from robal.errors import InputError
from robal.objectives.objective import Batch
from robal.pool import Examples
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class Trades:
    """CE(f(x), y) + β · KL(f(x) ‖ f(x')), with x' climbing that KL from x + 0.001 · N(0, 1).

    Args:
        beta: weight of the stability term, ≥ 0; with 0 nothing is crafted and this is natural training.
        steps: gradient steps of the crafting.
        step_size: in units of the threat's norm; None: 2.5 · eps / steps.
        threat: None: the plan's; alone, Linf(8/255).

    Source: Zhang et al., ICML 2019, arXiv 1901.08573, eq. 5; the model is in eval mode while x' is crafted, as in
    the released code.
    """

    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if self.beta < 0 or self.steps < 1:
            raise InputError(f"Trades needs beta >= 0 and steps >= 1; {self.beta} and {self.steps} came")

    @property
    def passes(self) -> int:
        return self.steps + 2 if self.beta else 1

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        if self.beta == 0:
            return F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        moved = self._craft(model, batch.inputs, generator)
        logits, moved_logits = model(batch.inputs), model(moved)  # apart: BatchNorm sees one kind of image at a time
        natural = F.cross_entropy(logits, batch.labels, reduction="none")
        return natural + self.beta * kl_divergence(logits, moved_logits)

    def _craft(self, model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        threat = self.threat or Linf()
        step_size = 2.5 * threat.eps / self.steps if self.step_size is None else self.step_size
        noise = torch.randn(inputs.shape, generator=generator, device=generator.device).to(inputs.device)
        with crafting(model, inputs) as twin:
            with torch.no_grad():
                logits = twin(inputs)
            return ascend(
                lambda x: kl_divergence(logits, twin(x)),
                inputs,
                threat,
                steps=self.steps,
                step_size=step_size,
                start=inputs + 0.001 * noise,
            )


def kl_divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """[B]: KL(softmax(logits) ‖ softmax(other_logits)) in nats, differentiable in both.

    >>> kl_divergence(torch.zeros(1, 2), torch.tensor([[0.0, 1.0986123]]))  # (½, ½) against (¼, ¾)
    tensor([0.1438])
    """
    log_probs, other = F.log_softmax(logits, 1), F.log_softmax(other_logits, 1)
    return (log_probs.exp() * (log_probs - other)).sum(1)
