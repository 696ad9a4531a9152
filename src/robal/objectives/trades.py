"""TRADES: accuracy on the images, and stability of the output around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import ascend, crafting
from robal.errors import InputError
from robal.objectives.awp import Forward, at_hardest_weights
from robal.objectives.objective import Batch, check_strengths, cross_entropy
from robal.pool import Examples
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class Trades:
    """CE(f(x), y) + β · KL(f(x) ‖ f(x')), with x' climbing that KL from x + 0.001 · N(0, 1).

    The stability term asks for no label, so with `on_unlabelled` U images without labels take part: each of the B
    losses gets the B-th part of their β · KL, and the mean loss is (Σ CE + β · Σ KL over all B + U images) / B.
    They are forwarded together with the others. Where examples have weights, theirs is the mean one.

    Args:
        beta: weight of the stability term, ≥ 0; with 0 nothing is crafted and this is natural training.
        steps: gradient steps of the crafting.
        step_size: in units of the threat's norm; None: 2.5 · eps / steps.
        threat: None: the plan's; alone, Linf(8/255).
        weight_radius: adversarial weight perturbation, see `robal.objectives.awp`; 0: none.
        on_unlabelled: whether images without labels take part.

    Source: Zhang et al., ICML 2019, arXiv 1901.08573, eq. 5; the model is in eval mode while x' is crafted, as in
    the released code. Images without labels: Carmon et al., NeurIPS 2019, arXiv 1905.13736 (there with pseudo-labels
    too); Alayrac et al., NeurIPS 2019, arXiv 1905.13725.
    """

    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None
    threat: Threat | None = None
    weight_radius: float = 0.0
    on_unlabelled: bool = False

    def __post_init__(self) -> None:
        if not self.beta >= 0 or self.steps < 1:
            raise InputError(f"Trades needs beta >= 0 and steps >= 1; {self.beta} and {self.steps} came")
        check_strengths(0.0, self.weight_radius)

    @property
    def passes(self) -> int:
        losses = 2 if self.beta else 1
        return (self.steps if self.beta else 0) + losses * (2 if self.weight_radius else 1)

    @property
    def unlabelled_passes(self) -> int:
        """Gradient evaluations an image without label costs, as any other image does; 0 where none takes part."""
        return self.passes if self.on_unlabelled and self.beta else 0

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        images = moved = batch.inputs
        if self.beta:
            moved = self._craft(model, images, generator)
            if self.on_unlabelled and batch.unlabelled is not None:
                moved = torch.cat([moved, self._craft(model, batch.unlabelled, generator)])
                images = torch.cat([images, batch.unlabelled])
        return at_hardest_weights(
            model, lambda forward: self._losses(forward, batch, images, moved), batch.weights, self.weight_radius
        )

    def _craft(self, model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        return against(model, images, self.threat or Linf(), self.steps, self.step_size, generator)

    def _losses(self, forward: Forward, batch: Batch, images: Tensor, moved: Tensor) -> Tensor:
        """[B]: of all images, those without labels at the end, and where they were moved."""
        count, logits = len(batch.labels), forward(images)
        natural = cross_entropy(logits[:count], batch)
        if self.beta == 0:
            return natural
        moved_logits = forward(moved)  # apart: BatchNorm sees one kind of image at a time
        divergence = kl_divergence(logits, moved_logits)
        return natural + self.beta * (divergence[:count] + divergence[count:].sum() / count)


def against(
    model: nn.Module,
    inputs: Tensor,
    threat: Threat,
    steps: int,
    step_size: float | None,
    generator: torch.Generator,
    eps: Tensor | None = None,
) -> Tensor:
    """[B, C, H, W]: x' that climbs KL(f(x) ‖ f(x')) from x + 0.001 · N(0, 1), the model in eval mode.

    Args:
        step_size: None: 2.5 · eps / steps.
        eps: [B] radii that replace the threat's own; the steps grow with them.
    """
    step = 2.5 * threat.eps / steps if step_size is None else step_size
    noise = torch.randn(inputs.shape, generator=generator, device=generator.device).to(inputs.device)
    with crafting(model, inputs) as twin:
        with torch.no_grad():
            logits = twin(inputs)
        return ascend(
            lambda x: kl_divergence(logits, twin(x)),
            inputs,
            threat,
            steps=steps,
            step_size=step if eps is None or threat.eps == 0 else step * eps / threat.eps,
            eps=eps,
            start=inputs + 0.001 * noise,
        )


def kl_divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """[B]: KL(softmax(logits) ‖ softmax(other_logits)) in nats, differentiable in both.

    >>> kl_divergence(torch.zeros(1, 2), torch.tensor([[0.0, 1.0986123]]))  # (½, ½) against (¼, ¾)
    tensor([0.1438])
    """
    log_probs, other = F.log_softmax(logits, 1), F.log_softmax(other_logits, 1)
    return (log_probs.exp() * (log_probs - other)).sum(1)
