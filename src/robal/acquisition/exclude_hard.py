"""Leave out what the model would hardly learn: dataset maps of the labelled images, carried over to the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of
from robal.acquisition.uncertainty import MaxEntropy
from robal.candidates import Candidates
from robal.errors import InputError
from robal.pool import Examples


@dataclass(frozen=True)
class ExcludeHard:
    """`inner`, on the candidates that are not predicted to be hard to learn.

    How learnable a labelled image (x, y) is, its dataset map says: over the snapshots t of the training, the mean of
    p_t(y | x), its confidence, and the standard deviation, its variability. Hard to learn is what stays low in both,
    so learnability is their sum. A candidate is predicted to be as learnable as the mean of its nearest labelled
    images (in the embeddings of the present model), and the `share` of lowest prediction is left out; never so many
    that fewer than n are left. With nothing labelled nothing is left out. Validation images that were bought count as
    labelled, though the training never saw them.

    Args:
        inner: chooses among the others.
        share: of the candidates that is left out, in [0, 1).
        neighbours: labelled images that predict, at least 1.

    Needs `recipe.snapshots` (and `start.recipe.snapshots`) in a run; alone, `select(..., snapshots=…)`, else the
    present model is the only snapshot.

    Differs from the paper, where a classifier of the hard region is learned; here it is a nearest-neighbour mean.

    Source: dataset maps, Swayamdipta et al., EMNLP 2020, arXiv 2009.10795, section 2; as a filter before
    acquisition, Smart Cuts, arXiv 2506.20444 (2025).
    """

    inner: Acquisition | Score = MaxEntropy()
    share: float = 0.1
    neighbours: int = 10
    needs: ClassVar[frozenset[str]] = frozenset({"snapshots"})

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.neighbours < 1:
            raise InputError(
                f"ExcludeHard needs a share in [0, 1) and neighbours >= 1; {self.share} and {self.neighbours} came"
            )

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        left = max(len(candidates) - int(self.share * len(candidates)), n)
        if left == len(candidates) or not len(candidates.labelled):
            return choose(self.inner, candidates, n, generator)
        from sklearn.neighbors import KNeighborsRegressor  # scikit-learn takes a second to import

        known = candidates.labelled
        labels = known.pool.labels[known.indices]
        over_time = torch.stack([snapshot.probs.gather(1, labels[:, None])[:, 0] for snapshot in known.earlier()])
        near = min(self.neighbours, len(known))
        model = KNeighborsRegressor(near).fit(known.embeddings.numpy(), learnability(over_time).numpy())
        predicted = torch.from_numpy(model.predict(candidates.embeddings.numpy()))
        easy = torch.argsort(predicted, descending=True, stable=True)[:left].sort().values
        return choose(self.inner, candidates.only(easy), n, generator)

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        return examples_of(self.inner, candidates, chosen, labels, generator)


def learnability(probs_TN: Tensor) -> Tensor:
    """[N]: mean plus standard deviation over time of each image's probability of its true class, [T, N]; low = hard.

    >>> learnability(torch.tensor([[0.0, 0.5], [1.0, 0.5]]))
    tensor([1.0000, 0.5000])
    """
    return probs_TN.mean(0) + probs_TN.std(0, correction=0)
