"""CEAL: ask about the uncertain ones, and train on the certain ones as the model itself labels them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal import scores
from robal.acquisition.acquisition import Score, choose
from robal.acquisition.uncertainty import MaxEntropy
from robal.candidates import Candidates
from robal.errors import InputError
from robal.pool import Examples


@dataclass(frozen=True)
class CEAL:
    """Cost-effective active learning: the top n of `score`, and pseudo-labels where the entropy H is small.

    In round t = 1, 2, … every image that nobody was asked about and whose entropy H(p) is below

        δₜ = max(threshold - decay · (t - 1), 0)

    joins that round's training set with its most likely class as label; in the next round all are judged afresh. They
    cost no label and count as none.

    Args:
        score: which images to ask about.
        threshold: δ of the first round, nats, above 0.
        decay: how much δ falls each round, nats, 0 or more: the model learns to be sure, also where it errs.

    Differs from DFAL's code, which takes pseudo-labelled images out of the pool and trains on none of them, with a
    fixed δ = 0.002. Defaults are the paper's for CACD.

    Source: Wang, Zhang, Li, Zhang, Lin, IEEE TCSVT 2017, arXiv 1701.03551, equations 4-6.
    """

    score: Score = MaxEntropy()
    threshold: float = 0.05
    decay: float = 0.0033

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.decay >= 0):
            raise InputError(f"CEAL needs threshold > 0 and decay >= 0; {self.threshold} and {self.decay} came")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return choose(self.score, candidates, n, generator)

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        delta = max(self.threshold - self.decay * (max(len(candidates.history), 1) - 1), 0.0)
        sure = scores.entropy(candidates.probs) < delta
        indices = candidates.indices[sure]
        guesses = candidates.logits[sure].argmax(1)
        return Examples.of(candidates.pool.images.at_rest(indices), guesses, indices, "pseudo")
