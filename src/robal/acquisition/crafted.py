"""Crafted: what another function chose, and adversarial examples of it to train on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of, parts_of
from robal.acquisition.dre import DRE
from robal.attacks import PGD, Attack, perturb
from robal.candidates import Candidates
from robal.images import unit
from robal.networks import home_of
from robal.pool import Examples

_TILE = 256


@dataclass(frozen=True)
class Crafted:
    """The choice of `inner`; of each chosen image an adversarial example joins the training set and stays there.

    It is crafted once, against the model that chose, with the label that was given, whether or not that model errs on
    it. `Adversarial` does not attack it again; other objectives do, and so move it by up to twice the threat.

    Args:
        inner: chooses; what it adds to the training set is added too.
        attack: crafts; its threat, where open, is the plan's.
        images: whether the chosen images themselves are trained on too, where they have an adversarial example.

    Source: test selection and retraining in Guo et al., arXiv 2112.02542, section 8: its training data are those of
    before and the crafted examples, images=False. The paper does not say by which attack.
    """

    inner: Acquisition | Score = DRE()
    attack: Attack = PGD()
    images: bool = True

    @property
    def example_passes(self) -> int:
        """Gradient evaluations that each crafted example costs; a run counts them."""
        return self.attack.passes

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return choose(self.inner, candidates, n, generator)

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        """What `inner` adds, and [k] examples of the kind "crafted", float32 in [0, 1]; see `examples_of`."""
        device, moved = home_of(candidates.model), []
        for some, named in zip(chosen.split(_TILE), labels.split(_TILE), strict=True):
            inputs = unit(candidates.pool.images.at_rest(some)).to(device)
            moved.append(perturb(self.attack, candidates.model, inputs, named.to(device), generator).cpu())
        inner = examples_of(self.inner, candidates, chosen, labels, generator)
        return Examples.join([inner, Examples.of(torch.cat(moved), labels, chosen, kind="crafted")])


def leaves_images_out(acquisition: object) -> bool:
    """Whether a `Crafted(images=False)` is in it."""
    return any(isinstance(part, Crafted) and not part.images for part in parts_of(acquisition))
