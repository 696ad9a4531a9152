"""FRL: TRADES whose terms weigh more, and whose radius is larger, for classes that fare worse than the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.errors import InputError
from robal.objectives.class_costs import ClassCosts, Multipliers, multipliers_of
from robal.objectives.objective import Batch, Lesson, cross_entropy
from robal.objectives.trades import against, kl_divergence
from robal.pool import Examples
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class FRL:
    """w₀ CE(f(x), y) + β · w₁ KL(f(x) ‖ f(x')), x' within eps · r: weights and r of the class y by `ClassCosts`.

    "Re-weight" is `ClassCosts(remargin=False)`, "re-margin" is `ClassCosts(reweight=False)`.

    Args:
        beta: weight of the stability term, > 0.
        steps: gradient steps of the crafting.
        step_size: in units of the threat's norm; None: 2.5 · eps / steps. Where eps grows, it does.
        costs: how weights and radii follow from the errors on the meta set.
        threat: None: the plan's; alone, Linf(8/255).

    Source: Xu, Liu, Li, Jain and Tang, ICML 2021, arXiv 2010.06121.

    Differs from the paper: it starts from any model, not only from a robust one; steps grow with the radius. What an
    untrained model gets wrong is chance, and the first weights follow from it: better begin as the paper does, by
    `start.recipe` with TRADES and `recipe.warm_start`.
    """

    beta: float = 1.5
    steps: int = 10
    step_size: float | None = None
    costs: ClassCosts = ClassCosts()
    threat: Threat | None = None

    needs_meta = True

    def __post_init__(self) -> None:
        if not self.beta > 0 or self.steps < 1:
            raise InputError(f"FRL needs beta > 0 and steps >= 1; {self.beta} and {self.steps} came")

    @property
    def passes(self) -> int:
        return self.steps + 2

    @property
    def meta_passes(self) -> int:
        return self.costs.meta_passes

    def begin(self, model: nn.Module, examples: Examples) -> Multipliers:
        return multipliers_of(model, examples)

    def learn(
        self, model: nn.Module, companion: nn.Module, batch: Batch, lesson: Lesson, generator: torch.Generator
    ) -> None:
        """Once an epoch, weights and radii anew."""
        assert isinstance(companion, Multipliers)
        if lesson.place == 0:
            self.costs.update(companion, model, self.threat or Linf(), lesson.images, lesson.labels, generator)

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        assert isinstance(companion, Multipliers)
        threat = self.threat or Linf()
        natural, stable = self.costs.weights(companion, batch.labels)
        eps = threat.eps * self.costs.radii(companion, batch.labels)
        moved = against(model, batch.inputs, threat, self.steps, self.step_size, generator, eps)
        logits = model(batch.inputs)
        return natural * cross_entropy(logits, batch) + self.beta * stable * kl_divergence(logits, model(moved))
