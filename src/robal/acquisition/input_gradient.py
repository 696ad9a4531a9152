"""The easy images first: those whose pixels move the loss least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.networks import check_logits
from robal.scores.gradients import InputGradientNorm


@dataclass(frozen=True)
class LowInputGradient:
    """The n images of lowest input-gradient norm: - mean over the snapshots t of ‖∇_x CE(f_t(x), ŷ)‖₂.

    ŷ is the class that the present model predicts, for every snapshot. Without snapshots (in a run
    `recipe.snapshots` and `start.recipe.snapshots` keep them) the present model alone is asked. Raises InputError where
    the logits do not depend on the pixels by autograd.

    Differs from the paper, which reduces a labelled training set: there y is the true label, and the mean is over all
    epochs.

    Source: EasyCore, arXiv 2510.11018 (2025).
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        total = torch.zeros(len(candidates), dtype=torch.float64)
        count = 0
        for snapshot in candidates.earlier():
            rows = snapshot.map(InputGradientNorm(None if snapshot is candidates else candidates.model))
            check_logits(rows["logits"], len(candidates.pool.classes))
            total += rows["norm"]
            count += 1
        return -total / count
