"""EGL: the images that would change the model most, were their label known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.errors import InputError
from robal.networks import check_logits
from robal.scores.gradients import GradientLength, Over


@dataclass(frozen=True)
class EGL:
    """Expected gradient length: Σ_c p(c | x) ‖∇ CE(f(x), c)‖₂, the sum of the lengths, not the length of the sum.

    Args:
        over: what the gradient is taken with respect to. "parameters": all weights of the network. "last_layer": the
            weights and bias of the nn.Linear that it calls last. "inputs": the pixels, as the DRE study's code does it.

    With "parameters" a tile takes one forward pass and, for K classes, K - 1 backward passes; see
    `robal.scores.jacobian.weight_grams` for the networks that take them image by image, some ten times slower. With
    "last_layer" it takes the forward pass alone, where the logits are that layer's output as it is.

    Called: [M] float64, not negative, higher = label me first.

    Raises InputError where there is no gradient to take: the model has no weights (or no nn.Linear) on which the logits
    depend by autograd, or they do not depend on the pixels.

    Differs from the DRE study's code: no image's gradient is divided by the size of the batch it happened to be in.
    Differs from DFAL's code, which takes the length of the gradient's plain average over the classes.

    Source: Settles and Craven, EMNLP 2008, section 3.4 (Settles, Craven, Ray, NeurIPS 2007); "inputs": Guo et al.,
    arXiv 2112.02542, released code.
    """

    over: Over = "parameters"

    def __post_init__(self) -> None:
        if self.over not in get_args(Over):
            raise InputError(f"EGL is over one of {', '.join(get_args(Over))}; not {self.over!r}")

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        rows = candidates.map(GradientLength(self.over))
        check_logits(rows["logits"], len(candidates.pool.classes))
        return rows["length"]
