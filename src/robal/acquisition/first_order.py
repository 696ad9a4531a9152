"""RobOT: the first-order loss, how far an attack is from having converged, and the two choices made by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.acquisition.acquisition import Score, scores_of
from robal.attacks import PGD, Attack, perturb
from robal.attacks.crafting import crafting
from robal.candidates import Candidates
from robal.errors import InputError
from robal.seeds import drawn
from robal.threats import L1, Linf


@dataclass(frozen=True)
class FirstOrderLoss:
    """ε ‖g‖* - ⟨g, x' - x⟩ with g = ∇CE(f(x'), ŷ) at an adversarial example x' of x: 0 where the attack has converged.

    ‖·‖* is the dual of the threat's norm. ŷ is the predicted class, so that no label is needed. Higher = the loss
    would still rise most, to first order; within pixels of [0, 1] it may stay above 0 at the worst point there is.

    Args:
        attack: makes x'; its threat, where open, is the plan's (alone: Linf(8/255)).

    Called: [M] float32, 0 or more.

    Differs from the paper: there, x' are test cases that come with their labels.

    Source: Wang et al., ICSE 2021, arXiv 2102.05913, equation 6 (RobOT); Wang et al., ICML 2019 (FOSC).
    """

    attack: Attack = PGD(steps=10, random_start=False)

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        seed = drawn(generator)
        return candidates.map(_Stationarity(self.attack), seed)["loss"]


@dataclass(frozen=True)
class KMST:
    """KM-ST: n / sections images at random from each of equal ranges of the score, as far as they go.

    Where a range has fewer, the rest is drawn from all others at random.

    Args:
        score: what is cut into ranges.
        sections: how many, at least 1.

    Source: Wang et al., ICSE 2021, arXiv 2102.05913 (k-multisection strategy).
    """

    score: Score = FirstOrderLoss()
    sections: int = 4

    def __post_init__(self) -> None:
        if self.sections < 1:
            raise InputError(f"KMST cuts the score into at least one range; sections={self.sections} came")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        scores = scores_of(self.score, candidates, generator).double()
        low, high = scores.aminmax()
        place = ((scores - low) / (high - low).clamp_min(1e-300) * self.sections).long().clamp_max(self.sections - 1)
        drawn = torch.randperm(len(scores), generator=generator)
        parts = [drawn[place[drawn] == section] for section in range(self.sections)]
        shares = [n // self.sections + (section < n % self.sections) for section in range(self.sections)]
        chosen = torch.cat([part[:share] for part, share in zip(parts, shares, strict=True)])
        rest = drawn[~torch.isin(drawn, chosen)]
        return candidates.indices[torch.cat([chosen, rest[: n - len(chosen)]])]


@dataclass(frozen=True)
class BEST:
    """BE-ST: the n / 2 images of highest score, then the n / 2 of lowest; of an odd n, one more of the highest.

    Args:
        score: what has two ends.

    Source: Wang et al., ICSE 2021, arXiv 2102.05913 (bi-end strategy).
    """

    score: Score = FirstOrderLoss()

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        scores = scores_of(self.score, candidates, generator)
        high = torch.argsort(scores, descending=True, stable=True)[: n - n // 2]
        low = torch.argsort(scores, stable=True)
        low = low[~torch.isin(low, high)][: n // 2]
        return candidates.indices[torch.cat([high, low])]


@dataclass(frozen=True)
class _Stationarity:
    attack: Attack

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if len(batch) == 0:
            return {"loss": torch.empty(0, device=batch.device)}
        labels = model(batch).argmax(1)
        moved = perturb(self.attack, model, batch, labels, generator, check=False)
        return {"loss": first_order_loss(model, batch, moved, labels, self.attack)}


def first_order_loss(model: nn.Module, inputs: Tensor, moved: Tensor, labels: Tensor, attack: Attack) -> Tensor:
    """[B] float32, 0 or more; see `FirstOrderLoss`.

    Args:
        model: in eval mode; returns logits [B, K].
        inputs, moved: [B, C, H, W] float32 in [0, 1], x and x'.
        labels: [B] int64.
        attack: its threat counts.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[4.0, 0.0], [0.0, 4.0]]))
    >>> x = torch.full((1, 1, 1, 2), 0.5)  # both classes ½, so g = (-2, 2): 0.1 · 4, and at the corner nothing is left
    >>> attack = PGD(threat=Linf(0.1))
    >>> first_order_loss(model, x, x, torch.tensor([0]), attack)
    tensor([0.4000])
    >>> corner = x + torch.tensor([-0.1, 0.1])
    >>> first_order_loss(model, x, corner, torch.tensor([0]), attack).abs() < 1e-6
    tensor([True])
    """
    threat = attack.threat or Linf()
    with crafting(model, moved) as twin, torch.enable_grad():
        at = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(twin(at), labels, reduction="sum"), at)
    gradient = gradient.nan_to_num(0.0)
    if isinstance(threat, L1):  # its `steepest` is spread over several pixels, on purpose
        most = threat.eps * gradient.flatten(1).abs().amax(1)
    else:
        most = threat.eps * (gradient * threat.steepest(gradient)).flatten(1).sum(1)
    return (most - (gradient * (moved - inputs)).flatten(1).sum(1)).clamp_min(0.0)
