"""Query by a committee of two: the teacher and the robust model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robal import scores
from robal.candidates import Candidates


@dataclass(frozen=True)
class Disagreement:
    """The n images on which the teacher's probabilities p and the robust model's q differ most.

    score = H((p + q) / 2) - (H(p) + H(q)) / 2, the Jensen-Shannon divergence in nats, in [0, log 2]: `scores.bald` of
    the two. 0 where they say the same, however unsure both are; log 2 where each is certain and of another class.

    In a run the teacher is that of the round before; without `recipe.pool`, or where that teacher collapsed, a standard
    model trained on what was bought. Alone, give `select(..., teacher=model)`.

    Called: [M] float64, higher = label me first.

    Differs from the papers: their committee is drawn from one family, consistent with the labels; this one has two
    members, trained for different ends, so that they differ too where the robust model alone has to give way.

    Source: query by committee, Freund, Seung, Shamir, Tishby, Machine Learning 28, 1997; by the mean divergence from
    the members' mean, which for two is this one: McCallum and Nigam, ICML 1998.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        both = torch.stack([candidates.standard.probs, candidates.probs], 1)
        return scores.bald(both.double())  # a difference of entropies: in float32 small ones drown in rounding
