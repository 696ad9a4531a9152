"""Screened: let a cheap score leave out what an expensive choice would hardly take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of, scores_of
from robal.acquisition.dfal import DFAL, check_candidates_per_query, draw
from robal.acquisition.distance import LinearisedDistance
from robal.candidates import Candidates
from robal.errors import InputError
from robal.pool import Examples


@dataclass(frozen=True)
class Screened:
    """The choice of `inner` among the keep · n candidates that score highest by `by`.

    By default DFAL's choice: Screened() draws the candidates that DFAL() would and finds nearly the same images in a
    fraction of the time; Screened(candidates_per_query=0) screens the whole pool, where DFAL alone would be slow.

    Args:
        inner: chooses; what it adds to the training set (`examples`) is added. Its own subsampling comes after the
            screen, so it should have none.
        by: the score of the screen; of equal scores, the lower index is kept.
        keep: how many candidates an image the screen lets through, at least 1; rounded up.
        candidates_per_query: the screen itself looks at so many times n candidates, drawn at random; 0: at all.
    """

    inner: Acquisition = DFAL(candidates_per_query=0)
    by: Score = LinearisedDistance()
    keep: float = 1.25
    candidates_per_query: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.keep < float("inf"):
            raise InputError(f"Screened keeps at least 1 candidate an image; keep = {self.keep} came")
        check_candidates_per_query("Screened", self.candidates_per_query)

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        drawn = candidates.only(draw(len(candidates), self.candidates_per_query * n, generator))
        count = min(math.ceil(n * self.keep - 1e-9), len(drawn))
        if count < len(drawn):
            scores = scores_of(self.by, drawn, generator)
            # Back in the order of the pool, so that ties of `inner`, too, go to the lower index.
            drawn = drawn.only(torch.argsort(scores, descending=True, stable=True)[:count].sort().values)
        return choose(self.inner, drawn, n, generator)

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        """What `inner` adds; see `examples_of`."""
        return examples_of(self.inner, candidates, chosen, labels, generator)
