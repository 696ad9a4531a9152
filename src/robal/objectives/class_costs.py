"""What each class costs: weights and radii by class, raised where a class fares worse than the others (FRL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks import PGD, perturb
from robal.errors import InputError
from robal.images import unit
from robal.networks import frozen, home_of
from robal.pool import Examples
from robal.threats import Threat

_TILE = 500


class Multipliers(nn.Module):
    """The Lagrange multipliers of K classes: of their natural error, their boundary error, and their radius.

    Args:
        classes: K.
        proportions: [K], the share of each class among the examples; they follow from the examples and are not saved.
    """

    natural: Tensor
    boundary: Tensor
    radius: Tensor
    epochs: Tensor
    proportions: Tensor

    def __init__(self, classes: int, proportions: Tensor) -> None:
        super().__init__()
        for name in ("natural", "boundary", "radius"):
            self.register_buffer(name, torch.zeros(classes))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("proportions", proportions, persistent=False)


@dataclass(frozen=True)
class ClassCosts:
    """FRL's constraints: no class's natural or boundary error lies more than so much above the mean of all.

    Once an epoch, before its first step, a class's natural error e and its boundary error b (natural accuracy less
    robust accuracy under PGD) are measured on the meta set, and with E and B of all images

        λ₀ ← λ₀ + rate · (e − E − natural_gap),  λ₁ ← λ₁ + 2 · rate · (b − B − boundary_gap),
        λ₂ ← λ₂ + radius_rate · (b − B − boundary_gap).

    λ₀ and λ₁ are cut off at 0 and scaled so that each sums to `limit` at most. The weights of class c in the natural
    and in the stability term are 1/K + λ_c − mean(λ), so that they sum to 1, and its radius is
    eps · clip(exp(2 λ₂), least, most). `rate` halves every 40 epochs. A class without meta images stays as it is.

    Args:
        reweight: whether classes get weights, FRL's "re-weight".
        remargin: whether they get radii, FRL's "re-margin".
        natural_gap, boundary_gap: by how much a class may lie above the mean, in [0, 1].
        rate, radius_rate: of the multipliers, > 0.
        limit: of the sum of λ₀, and of λ₁, in [0, 1).
        least, most: of the radius, in units of eps.
        steps: of the PGD that measures the robust errors.

    Raises:
        InputError: for settings out of range, or where neither weights nor radii are asked for.

    Source: Xu, Liu, Li, Jain and Tang, ICML 2021, arXiv 2010.06121, and its released code, which CAAT's repeats.

    Differs from the released code: weights are divided by their mean over all examples, not over the batch, so that the
    images of a batch do not weigh on each other.
    """

    reweight: bool = True
    remargin: bool = True
    natural_gap: float = 0.07
    boundary_gap: float = 0.07
    rate: float = 0.05
    radius_rate: float = 0.2
    limit: float = 0.5
    least: float = 0.98
    most: float = 2.5
    steps: int = 20

    def __post_init__(self) -> None:
        if not (self.reweight or self.remargin):
            raise InputError("class costs without weights and radii do nothing: set costs=null")
        if not 0 <= self.natural_gap <= 1 or not 0 <= self.boundary_gap <= 1 or not 0 <= self.limit < 1:
            raise InputError(
                f"the gaps lie in [0, 1] and the limit in [0, 1); "
                f"{self.natural_gap}, {self.boundary_gap} and {self.limit} came"
            )
        if not self.rate > 0 or not self.radius_rate > 0 or not 0 < self.least <= self.most or self.steps < 1:
            raise InputError(
                "class costs need rates > 0, 0 < least <= most and steps >= 1; "
                f"{self.rate}, {self.radius_rate}, {self.least}, {self.most} and {self.steps} came"
            )

    @property
    def meta_passes(self) -> int:
        return self.steps + 1

    def update(
        self,
        multipliers: Multipliers,
        model: nn.Module,
        threat: Threat,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Change the multipliers by the errors of the model, which is left as it is, on [M] images at rest."""
        natural, robust = self._right(model, threat, images, labels, generator)
        classes = len(multipliers.natural)
        counts = labels.bincount(minlength=classes)
        there = (counts > 0).to(multipliers.natural.device)

        def by_class(claims: Tensor) -> Tensor:
            rates = labels.bincount(claims.double(), minlength=classes) / counts.clamp_min(1)
            return rates.to(multipliers.natural)

        failing, falling = ~natural, natural & ~robust
        above = torch.where(there, by_class(failing) - failing.double().mean() - self.natural_gap, 0.0)
        beyond = torch.where(there, by_class(falling) - falling.double().mean() - self.boundary_gap, 0.0)
        rate = self.rate * 0.5 ** (int(multipliers.epochs) // 40)
        multipliers.natural.copy_(self._limited(multipliers.natural + rate * above))
        multipliers.boundary.copy_(self._limited(multipliers.boundary + 2 * rate * beyond))
        multipliers.radius += self.radius_rate * beyond
        multipliers.epochs += 1

    def weights(self, multipliers: Multipliers, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[B] each: the weights of the natural and of the stability term, of mean 1 over all examples."""
        found = []
        for of_class in (multipliers.natural, multipliers.boundary):
            weight = 1 / len(of_class) + (of_class - of_class.mean() if self.reweight else torch.zeros_like(of_class))
            found.append((weight / (weight * multipliers.proportions).sum())[labels])
        return found[0], found[1]

    def radii(self, multipliers: Multipliers, labels: Tensor) -> Tensor:
        """[B]: by how much the radius around each image differs from eps, as a factor."""
        factor = (2 * multipliers.radius).exp().clamp(self.least, self.most)
        return factor[labels] if self.remargin else torch.ones_like(factor)[labels]

    def _limited(self, multiplier: Tensor) -> Tensor:
        kept = multiplier.clamp_min(0.0)
        return kept * (self.limit / kept.sum().clamp_min(self.limit)) if self.limit else torch.zeros_like(kept)

    def _right(
        self, model: nn.Module, threat: Threat, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """[M] bool each, on the CPU: whether the model is right about an image, and about its adversary."""
        attack, device = PGD(steps=self.steps, threat=threat), home_of(model)
        found: list[tuple[Tensor, Tensor]] = []
        for tile in torch.arange(len(labels)).split(_TILE):
            inputs, wanted = unit(images[tile].to(device)), labels[tile].to(device)
            moved = perturb(attack, model, inputs, wanted, generator, check=False)
            with frozen(model), torch.no_grad():
                said = [model(shown).argmax(1) == wanted for shown in (inputs, moved)]
            found.append((said[0].cpu(), said[1].cpu()))
        natural, robust = (torch.cat(part) for part in zip(*found, strict=True))
        return natural, robust


def multipliers_of(model: nn.Module, examples: Examples) -> Multipliers:
    """Those of a training that begins, on the model's device; the model says how many classes there are."""
    device = home_of(model)
    with frozen(model), torch.no_grad():
        classes = model(torch.zeros(1, *examples.images.shape[1:], device=device)).shape[1]
    counts = examples.labels.bincount(minlength=classes).float()
    return Multipliers(classes, counts / counts.sum().clamp_min(1)).to(device)
