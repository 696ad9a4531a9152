"""Feature novelty: how much of an embedding none of the known classes explains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.errors import InputError

_ROWS = 4096  # embeddings in float64 at a time
_ROUNDING = 1e-7  # of float32


@dataclass(frozen=True)
class FeatureNovelty:
    """Deep feature modelling: the images whose embedding lies farthest from every class's principal subspace.

    score = min over classes c of |r_c|, r_c = z - V_cᵀ V_c z, z = embedding - mean of class c; the rows of V_c are the
    leading principal axes of the labelled images of class c. Higher = label me first.

    Args:
        variance: the share of a class's variance that its axes keep, in (0, 1].

    A class with one labelled image, or with equal ones, is its mean; one without any is left out. Where nothing is
    labelled yet, the classes are those that the model predicts for the candidates themselves.

    Differs from the paper: it offers the likelihood of the features under class-wise Gaussians beside this
    reconstruction error; taking the nearest class's error, rather than the predicted class's, is a choice made here.

    Source: Krishnan et al., arXiv 2109.06321 (DFM in active learning), after Ahuja et al., arXiv 1909.11786.
    """

    variance: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.variance <= 1:
            raise InputError(f"FeatureNovelty's variance is a share in (0, 1]; not {self.variance}")

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        known, embeddings = candidates.labelled, candidates.embeddings
        if len(known) == 0:
            return feature_novelty(embeddings, embeddings, candidates.logits.argmax(1), self.variance)
        return feature_novelty(embeddings, known.embeddings, candidates.pool.labels[known.indices], self.variance)


def feature_novelty(embeddings: Tensor, known_embeddings: Tensor, labels: Tensor, variance: float = 0.995) -> Tensor:
    """The smallest reconstruction error over the classes.

    Args:
        embeddings: [M, d] float32.
        known_embeddings: [L, d] float32, L >= 1.
        labels: [L] int64, their classes.
        variance: see `FeatureNovelty`.

    Returns:
        [M] float64, >= 0: higher = more novel.

    >>> known = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    >>> feature_novelty(torch.tensor([[7.0, 3.0], [9.0, 8.0]]), known, torch.tensor([0, 0, 1]))
    tensor([3., 1.], dtype=torch.float64)
    """
    smallest = torch.full((len(embeddings),), torch.inf, dtype=torch.float64)
    for label in labels.unique():
        mean, axes = principal_subspace(known_embeddings[labels == label], variance)
        smallest = smallest.minimum(reconstruction_error(embeddings, mean, axes))
    return smallest


def principal_subspace(embeddings: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Mean, [d], and the fewest principal axes, [k, d] orthonormal, that keep that share of the variance; float64.

    Args:
        embeddings: [L, d] float32, L >= 1. Equal ones have no axis.
        variance: in (0, 1].

    >>> mean, axes = principal_subspace(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 0.9)
    >>> mean, axes.abs()
    (tensor([2., 5.], dtype=torch.float64), tensor([[1., 0.]], dtype=torch.float64))
    """
    exact = embeddings.double()
    mean = exact.mean(0)
    centred = exact - mean
    if centred.norm() <= _ROUNDING * exact.norm():  # no spread beyond rounding
        return mean, centred[:0]
    wide = centred.shape[1] > len(centred)
    # The smaller of the two products of the matrix with itself has the same eigenvalues.
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    share = values.cumsum(0) / values.sum()
    count = int((share < variance * (1 - 1e-12)).sum()) + 1  # the factor: sums that rounding keeps below 1
    if variance < 1:
        count = min(count, max(exact.shape[1] - 1, 1))  # with all d axes nothing would be novel
    axes = (vectors[:, :count] / values[:count].sqrt()).T @ centred if wide else vectors[:, :count].T
    return mean, axes


def reconstruction_error(embeddings: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """The distance of each embedding from the subspace through `mean`: |z - Vᵀ V z|, z = embedding - mean.

    Args:
        embeddings: [M, d] float32.
        mean: [d] float64.
        axes: [k, d] float64, orthonormal rows; k may be 0.

    Returns:
        [M] float64, >= 0; what rounding leaves of a point in the subspace counts as 0.

    >>> reconstruction_error(torch.tensor([[3.0, 4.0]]), torch.zeros(2).double(), torch.tensor([[1.0, 0.0]]).double())
    tensor([4.], dtype=torch.float64)
    """
    errors = []
    for part in embeddings.split(_ROWS):
        centred = part.double() - mean
        error = (centred - centred @ axes.T @ axes).norm(dim=1)
        errors.append(error.where(error > _ROUNDING * part.double().norm(dim=1), 0.0))
    return torch.cat(errors)
