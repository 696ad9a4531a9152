"""The classic uncertainty functions: a score each, computed from the model's probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal import scores
from robal.candidates import Candidates


@dataclass(frozen=True)
class MaxEntropy:
    """The n images of highest predictive entropy. See `robal.scores.entropy`.

    Source: Shannon 1948; as an acquisition function, Settles 2009, section 3.1.
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return scores.entropy(candidates.probs)


@dataclass(frozen=True)
class DeepGini:
    """The n images of highest Gini impurity. See `robal.scores.deepgini`.

    Source: Feng et al., ISSTA 2020, arXiv 1903.00661.
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return scores.deepgini(candidates.probs)


@dataclass(frozen=True)
class LeastConfidence:
    """The n images whose most likely class is least likely. See `robal.scores.least_confidence`.

    Source: Lewis and Gale, SIGIR 1994.
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return scores.least_confidence(candidates.probs)


@dataclass(frozen=True)
class Margin:
    """The n images with the smallest gap between the two most likely classes. See `robal.scores.margin`.

    Source: Scheffer et al., IDA 2001.
    """

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return scores.margin(candidates.probs)
