"""Surprise adequacy as a score: the images that look least like what the model was trained on, the labelled ones.

Where nothing is labelled, the candidates are compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.errors import InputError
from robal.scores.surprise import distance_surprise, likelihood_surprise


@dataclass(frozen=True)
class LikelihoodSurprise:
    """The n images of lowest density among the labelled ones of their predicted class. See `likelihood_surprise`.

    Args:
        least_variance: coordinates of the embedding that vary less within a class are left out.

    Source: Kim, Feldt and Yoo, ICSE 2019, arXiv 1808.08444 (LSA).
    """

    least_variance: float = 1e-5

    def __post_init__(self) -> None:
        if not self.least_variance >= 0:
            raise InputError(f"LikelihoodSurprise's least_variance is 0 or more; {self.least_variance} came")

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return likelihood_surprise(*_of(candidates), self.least_variance)


@dataclass(frozen=True)
class DistanceSurprise:
    """The n images farthest from the labelled ones of their predicted class, for how near another class is.

    See `robal.scores.surprise.distance_surprise`.

    Source: Kim, Feldt and Yoo, ICSE 2019, arXiv 1808.08444 (DSA).
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return distance_surprise(*_of(candidates))


def _of(candidates: Candidates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings and predicted classes of the candidates, and of the labelled images, or else of the candidates."""
    known = candidates.labelled if len(candidates.labelled) else candidates
    return candidates.embeddings, candidates.logits.argmax(1), known.embeddings, known.logits.argmax(1)
