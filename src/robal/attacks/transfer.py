"""Adversaries of one model, tried on another: what an attacker can do who knows the data and not the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks.answers import classes_of
from robal.attacks.perturb import Attack, perturb
from robal.errors import InputError
from robal.networks import frozen
from robal.progress import track


@dataclass(frozen=True, eq=False)
class Transferred:
    """What became of B adversaries.

    Args:
        adversaries: [B, C, H, W] float32, crafted on the source.
        right: [B] bool, the model classifies the image correctly.
        stands: [B] bool, and its adversary too.
    """

    adversaries: Tensor
    right: Tensor
    stands: Tensor

    @property
    def rate(self) -> float:
        """Share of the images that the model has right whose adversary fools it, in [0, 1]; 0 where it has none."""
        return float((self.right & ~self.stands).sum()) / max(int(self.right.sum()), 1)


def transfer(
    attack: Attack,
    source: nn.Module,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    batch_size: int = 250,
) -> Transferred:
    """Craft on `source`, ask `model`.

    A model whose transferred adversaries are stronger than its own white-box ones masks its gradients.

    Args:
        attack: one that climbs to its last step, such as PGD; those that stop when the source errs (APGD, AutoAttack,
            Square) come out just beyond the source's boundary, and fool little else.
        source: any model of the same images and classes, of any architecture.
        model: the one that is judged.
        inputs: [B, C, H, W] float32 in [0, 1].
        labels: [B] int64 in [0, K).
        generator: the attack's randomness.
        batch_size: images attacked together.

    Raises:
        InputError: for models of different numbers of classes, and whatever the gate `perturb` refuses.

    Source: Papernot et al., AsiaCCS 2017, arXiv 1602.02697; as a check of gradients, Athalye et al., ICML 2018,
    arXiv 1802.00420.
    """
    if len(inputs) != len(labels):
        raise InputError(f"{len(inputs)} images came with labels of shape {list(labels.shape)}")
    with frozen(source), frozen(model), torch.no_grad():
        classes = [member(inputs[:2]).shape[1] for member in (source, model)]
        if classes[0] != classes[1]:
            raise InputError(
                f"adversaries go between models of the same classes; the source has {classes[0]}, "
                f"the model {classes[1]}"
            )
    parts = list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))
    moved = torch.cat(
        [
            perturb(attack, source, some, mine, generator)
            for some, mine in track(parts, f"{attack.label}, crafted on another model")
        ]
    )
    with frozen(model), torch.no_grad():
        right, stands = (
            torch.cat([classes_of(model(some)) for some in images.split(batch_size)]) == labels
            for images in (inputs, moved)
        )
    return Transferred(moved, right, right & stands)
