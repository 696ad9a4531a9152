"""Any acquisition function in the eyes of the teacher instead of the robust model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robal.acquisition.acquisition import Acquisition, Score, choose, needs_of
from robal.acquisition.uncertainty import Margin
from robal.candidates import Candidates
from robal.errors import InputError


@dataclass(frozen=True)
class OfTeacher:
    """The choice of `inner` where logits, probabilities and embeddings are the teacher's, a standard model's.

    Where the teacher's labels of the pool train the robust model (`PoolTraining`), an image that the teacher is unsure
    of may be wrong in that training, whatever the robust model thinks of it. `OfTeacher(Margin())` asks about those;
    `OfTeacher(Screened(TypiClust(), by=Margin(), keep=10, candidates_per_query=0))` about the most typical ones of
    many groups among the 10 n least sure, so that a label may right the teacher on a whole neighbourhood.

    In a run the teacher is that of the round before; without `recipe.pool`, or where that teacher collapsed, a standard
    model trained on what was bought. Alone, give `select(..., teacher=model)`.

    Args:
        inner: chooses. What it would add to the training set (twins, pseudo-labels) is not added: the teacher may be
            gone when the answers come, and it labels the pool anyhow.

    Raises:
        InputError: for an `inner` that needs a teacher or snapshots itself: the teacher has neither.

    Source: ours; the least sure of pseudo-labels are asked about, and the others trained on, in Wang et al. (CEAL),
    IEEE TCSVT 2017, arXiv 1701.03551, where one model does both.
    """

    inner: Acquisition | Score = Margin()
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def __post_init__(self) -> None:
        if needs_of(self.inner):
            raise InputError(
                f"OfTeacher looks by the teacher alone, which has no teacher and no snapshots; "
                f"{type(self.inner).__name__} needs {' and '.join(sorted(needs_of(self.inner)))}"
            )

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return choose(self.inner, candidates.standard, n, generator)
