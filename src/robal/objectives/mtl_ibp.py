"""MTL-IBP: adversarial training with a little of a certified bound, which leaves no place for masked gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, Attack, perturb
from robal.errors import InputError
from robal.networks import home_of, interval_bounds
from robal.objectives.objective import Batch, check_strengths, cross_entropy
from robal.pool import Examples
from robal.threats import Linf, Threat


@dataclass(frozen=True)
class MTLIBP:
    """(1 - α) · CE(f(x'), y) + α · CE(v, y): x' from an attack, v_k ≥ the most that class k leads y by around x.

    v comes from `robal.networks.interval_bounds`, so no attack can do worse than CE(v, y) says (with BatchNorm: on
    the network with this batch's statistics, which is not yet the one that is kept). Small
    networks under a large eps gain most: adversarial training alone finds models that hide from gradients and fall to
    random search.

    Give the recipe a `ramp`: α grows with eps. The bounds of an untrained network are so loose that beginning with all
    of them kills its units.

    Args:
        attack: crafts x'.
        alpha: weight of the bound, in [0, 1); 0: adversarial training.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1), in the first term.
        threat: an Linf, of the box; None: the plan's; alone, Linf(8/255).

    Raises:
        InputError: for settings out of range, another threat than Linf, of the box or of the attack, and, when training
            begins, a network whose bounds are not known or that uses a BatchNorm twice.

    Images without labels are not used. The bound is of the labels, where there are soft targets too.

    Differs from the paper: no special initial weights or regularisation, α grows instead; x' comes from the
    attack's own ball, which need not be larger. BatchNorm's statistics in the bounds are those of x', with their
    gradient: by the running ones the bound would shrink with the weights before them, without end.

    Source: De Palma, Bunel, Dvijotham, Kumar, Stanforth and Lomuscio, ICLR 2024, arXiv 2305.13991, eq. 7; the bounds:
    Gowal et al., arXiv 1810.12715.
    """

    attack: Attack = PGD(steps=4)
    alpha: float = 0.1
    label_smoothing: float = 0.0
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise InputError(f"MTLIBP's alpha is a share, in [0, 1); {self.alpha} came")
        check_strengths(self.label_smoothing, 0.0)
        for threat in (self.threat, getattr(self.attack, "threat", None)):
            if not isinstance(threat, Linf | None):
                raise InputError(f"MTLIBP is for Linf, not for {threat}; use Adversarial or Trades")

    @property
    def passes(self) -> int:
        return self.attack.passes + 1 + (2 if self.alpha else 0)  # a lower and an upper bound

    def grown(self, share: float) -> MTLIBP:
        """With the weight of the bound that goes with this share of eps."""
        return replace(self, alpha=share * self.alpha)

    def begin(self, model: nn.Module, examples: Examples) -> None:
        """Refuse a network whose bounds are not known, before the first step."""
        if self.alpha:
            one = torch.zeros(1, *examples.images.shape[1:], device=home_of(model))
            with torch.no_grad():
                interval_bounds(model, one, one, torch.zeros(1, dtype=torch.int64, device=one.device))

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        moved = perturb(self.attack, model, batch.inputs, batch.labels, generator, check=False)
        with _moments(model if self.alpha else nn.Identity()) as moments:
            losses = (1 - self.alpha) * cross_entropy(model(moved), batch, self.label_smoothing)
        if self.alpha:
            eps = (self.threat or Linf()).eps
            low, high = (batch.inputs - eps).clamp(0.0, 1.0), (batch.inputs + eps).clamp(0.0, 1.0)
            leads = -interval_bounds(model, low, high, batch.labels, moments).margins
            losses = losses + self.alpha * F.cross_entropy(leads, batch.labels, reduction="none")
        return losses


@contextmanager
def _moments(model: nn.Module) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Mean and variance of what reaches each BatchNorm2d in training mode, per channel, with their gradient.

    Raises:
        InputError: for a layer that is used twice, whose statistics are not one pair.
    """
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def remember(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if layer in found:
            raise InputError("MTLIBP knows no bound of a BatchNorm2d that a network uses twice; give each use its own")
        variance, mean = torch.var_mean(given[0].float(), (0, 2, 3), correction=0)
        found[layer] = (mean, variance)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]
    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
