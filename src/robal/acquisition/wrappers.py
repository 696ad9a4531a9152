"""Wrappers: an acquisition function inside another, which looks at fewer images, shares with a second one, or balances.

What the inner ones add to the training set (DFAL's twins, CEAL's pseudo-labels), the wrapper adds too.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of
from robal.acquisition.dre import DRE
from robal.acquisition.mcp import rank_within
from robal.acquisition.random import Random
from robal.acquisition.uncertainty import MaxEntropy
from robal.candidates import Candidates
from robal.errors import InputError
from robal.pool import Examples


@dataclass(frozen=True)
class Subsample:
    """`inner` on a random part of the pool, for pools too large to look at as a whole.

    Args:
        inner: chooses.
        size: images that it may look at; at least n are drawn.
    """

    inner: Acquisition | Score = MaxEntropy()
    size: int = 10_000

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"Subsample needs size >= 1; {self.size} came")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randperm(len(candidates), generator=generator)[: max(self.size, n)].sort().values
        return choose(self.inner, candidates.only(drawn), n, generator)

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        return examples_of(self.inner, candidates, chosen, labels, generator)


@dataclass(frozen=True)
class Mix:
    """round(share · n) images by `first`, the others by `second` out of what is left.

    Args:
        first, second: choose.
        share: of the first, in [0, 1].
    """

    first: Acquisition | Score = DRE()
    second: Acquisition | Score = Random()
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"Mix needs a share in [0, 1]; {self.share} came")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        count = round(self.share * n)
        chosen = choose(self.first, candidates, count, generator) if count else candidates.indices[:0]
        if count == n:
            return chosen
        left = (~torch.isin(candidates.indices, chosen)).nonzero().flatten()
        return torch.cat([chosen, choose(self.second, candidates.only(left), n - count, generator)])

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        """What both add, each for all of `chosen`; what the first pseudo-labels, the second need not."""
        first, second = (examples_of(part, candidates, chosen, labels, generator) for part in (self.first, self.second))
        others, guesses = second.of_kind("twin", "crafted"), second.of_kind("pseudo")
        new = ~torch.isin(guesses.origin, first.of_kind("pseudo").origin)
        return Examples.join([first, others, guesses.only(new)])


@dataclass(frozen=True)
class BalancedByPrediction:
    """Equal shares of every predicted class, chosen by `inner` within the class.

    A class with fewer candidates than its share gives all it has, and the others make up for it. The order of choice
    goes round the classes: the first choice of each, then the second of each, and so on.

    Args:
        inner: chooses within a class.
    """

    inner: Acquisition | Score = MaxEntropy()

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        predicted = candidates.logits.argmax(1)
        shares = equal_shares(torch.bincount(predicted), n)
        chosen = [
            choose(self.inner, candidates.only((predicted == number).nonzero().flatten()), share, generator)
            for number, share in enumerate(shares.tolist())
            if share
        ]
        group = torch.cat([torch.full((len(part),), number) for number, part in enumerate(chosen)])
        turn = rank_within(group, torch.zeros(n))
        return torch.cat(chosen)[torch.argsort(turn, stable=True)]

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        return examples_of(self.inner, candidates, chosen, labels, generator)


def equal_shares(counts: Tensor, n: int) -> Tensor:
    """Share n as equally as `counts`, [K] int64, allow; what does not divide goes to the first ones.

    >>> equal_shares(torch.tensor([1, 9, 9, 0]), 8)
    tensor([1, 4, 3, 0])
    """
    if not 0 <= n <= int(counts.sum()):
        raise InputError(f"{n} cannot be shared out of {int(counts.sum())}")
    levels = range(int(counts.max()) + 1)
    level = bisect_right(levels, n, key=lambda level: int(counts.clamp_max(level).sum())) - 1
    shares = counts.clamp_max(level)
    shares[(counts > level).nonzero().flatten()[: n - int(shares.sum())]] += 1
    return shares
