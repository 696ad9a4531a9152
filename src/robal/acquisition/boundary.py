"""Boundary-enriched sampling: a fixed share of the choice from near the decision boundary, the rest from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.acquisition.acquisition import Score, scores_of
from robal.acquisition.dre import largest_remainder
from robal.acquisition.mcp import rank_within
from robal.acquisition.uncertainty import Margin
from robal.candidates import Candidates
from robal.errors import InputError


@dataclass(frozen=True)
class BoundaryEnriched:
    """Enrich the choice with images near the boundary, and keep the others and the classes in proportion.

    The round(closest · M) candidates of highest score are the boundary region. round(share · n) images come from it
    and the rest from outside, each at random within the predicted classes, which have their proportional shares. Where
    one side has too few, the other fills up.

    Args:
        share: of the choice, in [0, 1], to come from the boundary region; at share = closest nothing is enriched.
        closest: of the pool, in [0, 1], that is the boundary region.
        score: high near the boundary.

    Differs from the paper, which reduces the data of semi-supervised adversarial training: it finds the images near the
    boundary by k-means on latent representations, and there are no strata. What is kept is its finding: enrich, but
    keep a fixed ratio.

    Source: the idea of SSAT data reduction, arXiv 2501.10466.
    """

    share: float = 0.5
    closest: float = 0.2
    score: Score = Margin()

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("closest", self.closest)):
            if not 0 <= value <= 1:
                raise InputError(f"BoundaryEnriched's {name} is a share in [0, 1]; not {value}")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        scores = scores_of(self.score, candidates, generator)
        classes = candidates.logits.argmax(1)
        return candidates.indices[boundary_enriched(scores, classes, n, generator, self.share, self.closest)]


def boundary_enriched(
    scores: Tensor, classes: Tensor, n: int, generator: torch.Generator, share: float = 0.5, closest: float = 0.2
) -> Tensor:
    """Positions of a sample of size n with a fixed share of high scores, stratified by class.

    Args:
        scores: [M], finite; the highest are the boundary region, of equals those of lower position.
        classes: [M] int64.
        n: in [0, M].
        generator: draws within the strata.
        share: see `BoundaryEnriched`.
        closest: see `BoundaryEnriched`.

    Returns:
        [n] int64 distinct positions in [0, M), in random order.

    >>> scores = torch.tensor([0.9, 0.1, 0.8, 0.2])
    >>> sorted(boundary_enriched(scores, torch.zeros(4).long(), 2, torch.Generator(), share=1.0, closest=0.5).tolist())
    [0, 2]
    """
    region = _nearest_whole(closest * len(scores))
    order = torch.argsort(scores, descending=True, stable=True)
    from_region = min(_nearest_whole(share * n), region)
    from_region = max(from_region, n - (len(scores) - region))
    chosen = torch.cat(
        [
            _stratified(order[:region].sort().values, classes, from_region, generator),
            _stratified(order[region:].sort().values, classes, n - from_region, generator),
        ]
    )
    return chosen[torch.randperm(n, generator=generator)]


def _nearest_whole(value: float) -> int:
    return int(value + 0.5)  # halves upward; Python's round would go to the even neighbour


def _stratified(positions: Tensor, classes: Tensor, n: int, generator: torch.Generator) -> Tensor:
    stratum = classes[positions]
    # A random key, ranked within the class, draws without replacement from every class at once.
    rank = rank_within(stratum, torch.rand(len(positions), generator=generator))
    return positions[rank < largest_remainder(torch.bincount(stratum), n)[stratum]]
