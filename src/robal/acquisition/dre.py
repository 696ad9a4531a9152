"""DRE: choose so that the chosen look like the pool, in the density of their entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robal.acquisition.acquisition import Score, scores_of
from robal.acquisition.mcp import rank_within
from robal.acquisition.uncertainty import MaxEntropy
from robal.candidates import Candidates
from robal.errors import InputError

Allocation = Literal["largest_remainder", "random_trim", "released"]


@dataclass(frozen=True)
class DRE:
    """Density-based robust sampling with entropy: a share of every bin of the pool's entropy histogram.

    Args:
        bins: equal-width bins between the smallest and the largest score of the pool.
        allocation: how many of each bin. "largest_remainder": exactly proportional, to within one image.
            "random_trim": proportional, rounded up, and the surplus dropped at random. "released": as the authors'
            code does it: rounded up, the surplus dropped from the low-entropy end, and the image of highest score
            never chosen.
        score: what the histogram is of.
        stratify: take the shares within each predicted class as well.

    Differs from the paper: it says "randomly sample from each density interval" (algorithm 1) and leaves the rounding
    open; "largest_remainder" is the rounding that keeps the density, "released" tilts to high entropy.

    Source: Guo et al., arXiv 2112.02542, section 7.
    """

    bins: int = 50
    allocation: Allocation = "largest_remainder"
    score: Score = MaxEntropy()
    stratify: bool = False

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise InputError(f"DRE needs at least one bin; {self.bins} came")
        if self.allocation not in get_args(Allocation):
            raise InputError(f"DRE's allocation is one of {', '.join(get_args(Allocation))}; not {self.allocation!r}")
        if self.stratify and self.allocation == "released":
            raise InputError("the released code knows no strata: use stratify with another allocation")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        scores = scores_of(self.score, candidates, generator)
        strata = candidates.logits.argmax(1) if self.stratify else None
        return candidates.indices[dre(scores, n, generator, self.bins, self.allocation, strata)]


def dre(
    scores: Tensor,
    n: int,
    generator: torch.Generator,
    bins: int = 50,
    allocation: Allocation = "largest_remainder",
    strata: Tensor | None = None,
) -> Tensor:
    """Positions of a sample of size n whose histogram follows that of all scores.

    Args:
        scores: [M], finite.
        n: in [0, M].
        generator: draws within the bins.
        bins: see `DRE`.
        allocation: see `DRE`.
        strata: [M] int64, classes within which the shares are taken.

    Returns:
        [n] int64 distinct positions in [0, M), in random order ("released": from low to high bins).
    """
    if n == 0 or len(scores) == 0:
        return torch.empty(0, dtype=torch.int64)
    bin_of = histogram_bins(scores, bins)
    cell = bin_of if strata is None else strata * bins + bin_of
    counts = torch.bincount(cell)
    # A random key, ranked within the cell, draws without replacement from every cell at once.
    rank = rank_within(cell, torch.rand(len(scores), generator=generator))
    if allocation == "released":
        return _released(scores, n, cell, counts, rank, generator)
    exact = allocation == "largest_remainder"
    quota = largest_remainder(counts, n) if exact else -(-n * counts // len(scores))
    chosen = (rank < quota[cell]).nonzero().flatten()
    return chosen[torch.randperm(len(chosen), generator=generator)][:n]


def _released(scores: Tensor, n: int, cell: Tensor, counts: Tensor, rank: Tensor, generator: torch.Generator) -> Tensor:
    quota = -(-n * counts // len(scores))
    eligible = scores < scores.max()  # the code's last bin is half open
    rank = rank_within(torch.where(eligible, cell, -1), -rank.double())
    chosen = (eligible & (rank < quota[cell])).nonzero().flatten()
    # Ordered by chance within a bin, so that chance decides, too, which of a bin's are cut.
    chosen = chosen[torch.argsort(cell[chosen] * len(scores) + rank[chosen])][-n:]
    if len(chosen) < n:  # the code returns fewer; here the rest comes at random, so that n is n
        left = torch.ones(len(scores), dtype=torch.bool)
        left[chosen] = False
        rest = left.nonzero().flatten()
        chosen = torch.cat([chosen, rest[torch.randperm(len(rest), generator=generator)][: n - len(chosen)]])
    return chosen


def histogram_bins(scores: Tensor, bins: int) -> Tensor:
    """[M] int64: the equal-width bin, between the smallest and the largest score, of each; the last bin is closed.

    >>> histogram_bins(torch.tensor([0.0, 0.1, 0.5, 1.0]), 2)
    tensor([0, 0, 1, 1])
    """
    low, high = scores.double().aminmax()
    if low == high:
        return torch.zeros(len(scores), dtype=torch.int64)
    return ((scores.double() - low) / (high - low) * bins).long().clamp_max(bins - 1)


def largest_remainder(counts: Tensor, n: int) -> Tensor:
    """Share n proportionally to `counts` in whole numbers: floors, then one more to the largest remainders.

    Hamilton's method in integer arithmetic; ties by position. No share exceeds its count as long as n <= Σ counts.

    >>> largest_remainder(torch.tensor([5, 3, 2]), 4)
    tensor([2, 1, 1])
    """
    total = int(counts.sum())
    shares, remainders = n * counts // total, n * counts % total
    extra = torch.argsort(remainders, descending=True, stable=True)[: n - int(shares.sum())]
    shares[extra] += 1
    return shares
