"""How near a decision boundary is, for less than DeepFool costs. All scores: higher = nearer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks.crafting import crafting
from robal.attacks.deepfool import Norm, check_norm, most_likely, nearest_boundary
from robal.candidates import Candidates
from robal.errors import InputError

# Stands for "no boundary in sight": beyond any distance between images, and finite.
FAR = 1e6


@dataclass(frozen=True)
class LinearisedDistance:
    """The first step of DeepFool as a score: -min_k (z_y - z_k) / ‖∇(z_y - z_k)‖*, over the likeliest rivals k.

    One forward pass and one backward pass a rival. Where no rival has a gradient, the score is -1e6, the least.

    Args:
        norm: of the distance, "l2" or "linf"; ‖·‖* is its dual.
        classes: the predicted class and its classes - 1 likeliest rivals.

    Source: Moosavi-Dezfooli et al., CVPR 2016, arXiv 1511.04599, section 3; as a margin, Elsayed et al., NeurIPS 2018,
    arXiv 1803.05598.
    """

    norm: Norm = "l2"
    classes: int = 2

    def __post_init__(self) -> None:
        check_norm("LinearisedDistance", self.norm)
        if self.classes < 2:
            raise InputError(
                f"LinearisedDistance needs classes >= 2, the predicted one and a rival; {self.classes} came"
            )

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return -candidates.map(_Linearised(self.norm, self.classes))["distance"]


@dataclass(frozen=True)
class LogitMargin:
    """Minus the gap between the two largest logits, -(z₁ - z₂), at most 0. See `logit_margin`.

    In robust networks, its authors find, this gap ranks images much as their distance to the boundary does; it costs
    nothing more than the forward pass.

    Source: Ngnawé et al., NeurIPS 2024 (margin consistency), arXiv 2406.18451.
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return logit_margin(candidates.logits)


@dataclass(frozen=True)
class FGSMBisection:
    """Minus the smallest ε at which one signed gradient step changes the prediction.

    The step is x + ε · sign(∇CE(x, ŷ)), clipped to [0, 1], away from the predicted class ŷ. Bisection finds ε, as if
    whatever flips at one ε flipped at every larger one. An image that flips at none of the ε tried has -2 · largest,
    which puts it last.

    Args:
        steps: halvings; ε is found to within largest / 2^steps, so some images tie.
        largest: the largest ε, in (0, 1].

    Source: the cheap margin of FVAAL, arXiv 2512.14170.
    """

    steps: int = 10
    largest: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"FGSMBisection needs at least one step; {self.steps} came")
        if not 0 < self.largest <= 1:
            raise InputError(f"FGSMBisection's largest ε lies in (0, 1], in units of pixels; {self.largest} came")

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        eps = candidates.map(_Bisected(self.steps, self.largest))["eps"]
        return -torch.where(eps.isfinite(), eps, 2 * self.largest)


def logit_margin(logits: Tensor) -> Tensor:
    """-(z₁ - z₂) of the two largest logits of each row of [M, C]; [M], at most 0.

    >>> logit_margin(torch.tensor([[1.0, 4.0, 3.5], [2.0, 0.0, 2.0]]))
    tensor([-0.5000, -0.0000])
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return -(first - second)


def linearised_distance(model: nn.Module, inputs: Tensor, norm: Norm = "l2", classes: int = 2) -> Tensor:
    """[B]: the distance to the nearest boundary of the linearised model, at most 1e6.

    Args:
        model: in eval mode; returns logits [B, K].
        inputs: [B, C, H, W] float32 in [0, 1].
        norm, classes: see `LinearisedDistance`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> linearised_distance(model, torch.tensor([[[[0.75, 0.25]]]]))  # (2.25 - 1) / ‖(3, -4)‖ = 1.25 / 5
    tensor([0.2500])
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = model(inputs)
    gap, _, dual = nearest_boundary(logits, inputs, most_likely(logits, classes), norm)
    return torch.where(dual > 0, gap / dual, FAR).clamp_max(FAR)


def smallest_flip(model: nn.Module, inputs: Tensor, steps: int = 10, largest: float = 1.0) -> Tensor:
    """[B] float32: the smallest ε in (0, largest) found at which the signed gradient step flips; infinity for none.

    Args:
        model: in eval mode; returns logits [B, K].
        inputs: [B, C, H, W] float32 in [0, 1].
        steps, largest: see `FGSMBisection`.
    """
    with torch.enable_grad():
        moved = inputs.detach().requires_grad_()
        logits = model(moved)
        own = most_likely(logits, 1)
        # log Σ_{k≠y} exp z_k - z_y has the gradient of the cross-entropy over 1 - p_y: the same sign, and it does not
        # vanish where the model is so sure that p_y rounds to 1.
        others = logits.scatter(1, own, -torch.inf).logsumexp(1)
        (gradient,) = torch.autograd.grad((others - logits.gather(1, own).squeeze(1)).sum(), moved)
    direction = gradient.nan_to_num(0.0).sign_()
    low = torch.zeros(len(inputs), device=inputs.device)
    high = torch.full_like(low, largest)
    found = torch.full_like(low, torch.inf)
    for _ in range(steps):
        middle = (low + high) / 2
        stepped = (inputs + middle.view(-1, 1, 1, 1) * direction).clamp_(0.0, 1.0)
        flips = model(stepped).argmax(1) != own.squeeze(1)
        low, high = torch.where(flips, low, middle), torch.where(flips, middle, high)
        found = torch.where(flips, middle, found)
    return found


@dataclass(frozen=True)
class _Linearised:
    norm: Norm
    classes: int

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if len(batch) == 0:
            return {"distance": torch.empty(0, device=batch.device)}
        with crafting(model, batch) as twin:
            return {"distance": linearised_distance(twin, batch, self.norm, self.classes)}


@dataclass(frozen=True)
class _Bisected:
    steps: int
    largest: float

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if len(batch) == 0:
            return {"eps": torch.empty(0, device=batch.device)}
        with crafting(model, batch) as twin:
            return {"eps": smallest_flip(twin, batch, self.steps, self.largest)}
