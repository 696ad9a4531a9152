"""Entropy where it matters to an adversary: of the predictions for attacked images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal import scores
from robal.attacks import PGD, Attack, perturb
from robal.candidates import Candidates
from robal.seeds import drawn


@dataclass(frozen=True)
class AdversarialEntropy:
    """The n images of highest entropy after an attack: H(f(x + δ)), δ crafted against the predicted class.

    No label is needed: the attack pushes each image away from what the model says it is. As a DRE score,
    `DRE(score=AdversarialEntropy())`, it gives the density of adversarial entropy.

    Args:
        attack: any attack; its threat, where open, is the plan's (alone: Linf(8/255)). The default starts at the image
            itself, so that scores do not depend on chance.

    Source: ours; the attack is Madry et al.'s, ICLR 2018, arXiv 1706.06083.
    """

    attack: Attack = PGD(steps=10, random_start=False)

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        seed = drawn(generator)
        return scores.entropy(candidates.map(Attacked(self.attack), seed)["logits"].softmax(1))


@dataclass(frozen=True)
class Attacked:
    """Logits of a tile after an attack on what the model takes the images for."""

    attack: Attack

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        moved = perturb(self.attack, model, batch, model(batch).argmax(1), generator, check=False)
        return {"logits": model(moved)}
