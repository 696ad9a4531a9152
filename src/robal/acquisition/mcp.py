"""MCP: the uncertain ones, spread over the pairs of classes that are confused."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.scores.uncertainty import check_probs


@dataclass(frozen=True)
class MCP:
    """Multiple-boundary clustering and prioritisation: visit the cells (most likely, second most likely class) in turn.

    Each round takes from every non-empty cell the image of highest priority p₂ / p₁; the last, incomplete round takes
    the best of the cells' best.

    Source: Shen et al., ASE 2020 (MCP), as DRE's study uses it: arXiv 2112.02542.
    """

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return candidates.indices[mcp(candidates.probs, n)]


def mcp(probs: Tensor, n: int) -> Tensor:
    """[n] positions of the rows of `probs`, [M, C], in the order in which MCP takes them; ties by position.

    The round in which a row is taken is its rank within its cell, so one sort by (round, priority) is the whole method.

    >>> mcp(torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [0.9, 0.0, 0.1]]), 2)
    tensor([1, 2])
    """
    classes = check_probs(probs).shape[1]
    # A stable sort and not topk, in which chance decides which of two equal classes comes first.
    (first, second), (one, two) = (part[:, :2].unbind(1) for part in torch.sort(probs, stable=True, descending=True))
    cell, priority = one * classes + two, second / first
    turn = rank_within(cell, priority)
    by_priority = torch.argsort(priority, descending=True, stable=True)
    return by_priority[torch.argsort(turn[by_priority], stable=True)][:n]


def rank_within(group: Tensor, key: Tensor) -> Tensor:
    """[M] int64: 0 for the row of highest `key` in its `group`, 1 for the next, and so on; ties by position.

    >>> rank_within(torch.tensor([7, 7, 3]), torch.tensor([0.1, 0.9, 0.5]))
    tensor([1, 0, 0])
    """
    order = torch.argsort(key, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    grouped = group[order]
    position = torch.arange(len(group))
    starts = torch.ones_like(grouped, dtype=torch.bool)
    starts[1:] = grouped[1:] != grouped[:-1]
    first = torch.where(starts, position, 0).cummax(0).values if len(group) else position
    rank = torch.empty_like(position)
    rank[order] = position - first
    return rank
