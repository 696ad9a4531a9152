"""Surprise adequacy: how unlike the training images of its predicted class an image looks to the network.

Source: Kim, Feldt and Yoo, ICSE 2019, arXiv 1808.08444, equations 3 to 8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robal.errors import InputError

_TILE = (2048, 1024)  # points and centres in a matrix of distances at a time: small enough for memory to be reused
_ROWS = 2**16  # of embeddings in float64 at once
_RANK = 1e-10  # directions of less than this share of the largest variance are none


def likelihood_surprise(
    embeddings: Tensor, predicted: Tensor, known: Tensor, known_predicted: Tensor, least_variance: float = 1e-5
) -> Tensor:
    """-log of the density at each embedding, estimated by Gaussian kernels at the known ones of the same class.

    The kernel's covariance is that of the class's known embeddings times L^(-2/(r + 4)), Scott's rule, with L of them
    that vary in r directions.

    Args:
        embeddings: [M, d] float32.
        predicted: [M] int64, the class that the model gives each of them.
        known: [L, d] float32, of the images that the model was trained on.
        known_predicted: [L] int64, the classes that it gives those.
        least_variance: coordinates that vary less within the class are left out.

    Returns:
        [M] float64, higher = more surprising. What lies beside the directions in which a class varies counts
        nothing. A class without two known images that differ is compared with all known images; where not even these
        differ, nothing surprises: 0.

    >>> far = likelihood_surprise(torch.tensor([[0.0], [3.0]]), torch.zeros(2).long(), torch.tensor([[-1.0], [1.0]]),
    ...                           torch.zeros(2).long())
    >>> bool(far[1] > far[0])
    True
    """
    _check(embeddings, predicted, known, known_predicted)
    surprise = torch.zeros(len(embeddings), dtype=torch.float64)
    for label in predicted.unique():
        mine = predicted == label
        for some in (known[known_predicted == label], known):
            varying = _varying(some, least_variance)
            if bool(varying.any()):
                surprise[mine] = -_log_density(embeddings[mine][:, varying], some[:, varying])
                break
    return surprise


def _varying(known: Tensor, least_variance: float) -> Tensor:
    """[d] bool: the coordinates in which these differ enough; none of fewer than two."""
    if len(known) < 2:
        return torch.zeros(known.shape[1], dtype=torch.bool)
    variance = known.double().var(0)
    return (variance >= least_variance) & (variance > 0)


def _log_density(points: Tensor, known: Tensor) -> Tensor:
    """[M] float64; see `likelihood_surprise`."""
    exact, count = known.double(), len(known)
    values, vectors = torch.linalg.eigh(exact.T.cov().view(exact.shape[1], -1))
    directions = values > _RANK * values[-1]
    values, vectors = values[directions], vectors[:, directions]
    rank = len(values)
    width = count ** (-1 / (rank + 4))  # of the kernel, in standard deviations
    whiten = vectors / (values.sqrt() * width)
    mean = exact.mean(0)
    centres = (exact - mean) @ whiten
    norm = math.log(count) + rank * math.log(width * math.sqrt(2 * math.pi)) + values.log().sum() / 2
    rows, columns = _TILE
    found = []
    for part in points.split(rows):
        moved = (part.double() - mean) @ whiten
        halves = [torch.addmm(-some.square().sum(1) / 2, moved, some.T).logsumexp(1) for some in centres.split(columns)]
        found.append(torch.stack(halves).logsumexp(0) - moved.square().sum(1) / 2 - norm)
    return torch.cat(found)


def distance_surprise(embeddings: Tensor, predicted: Tensor, known: Tensor, known_predicted: Tensor) -> Tensor:
    """|z - a| / |a - b|: a is the nearest known embedding of the same class, b the nearest to a of any other class.

    Args:
        embeddings, predicted, known, known_predicted: as for `likelihood_surprise`.

    Returns:
        [M] float64, 0 or more, higher = more surprising. Where no known image has the class, a is the nearest of all
        and b the nearest to a of any class but a's. Where there is no other class, |a - b| counts as 1. Of known
        embeddings of two classes that are equal, the quotient is 10¹² at most.

    >>> z, known = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 4.0]])
    >>> distance_surprise(z, torch.tensor([0]), known, torch.tensor([0, 0, 1]))  # 2 to (1, 0), and 4 on from there
    tensor([0.5000], dtype=torch.float64)
    """
    _check(embeddings, predicted, known, known_predicted)
    nearest = torch.empty(len(embeddings), dtype=torch.int64)
    for label in predicted.unique():
        mine, theirs = predicted == label, (known_predicted == label).nonzero().flatten()
        theirs = theirs if len(theirs) else torch.arange(len(known))
        nearest[mine] = theirs[_nearest(embeddings[mine], known[theirs])]
    parts = zip(embeddings.split(_ROWS), nearest.split(_ROWS), strict=True)
    to_own = torch.cat([(part.double() - known[near].double()).norm(dim=1) for part, near in parts])
    used, back = nearest.unique(return_inverse=True)
    gap = torch.ones(len(used), dtype=torch.float64)
    for label in known_predicted[used].unique():
        mine, others = known_predicted[used] == label, (known_predicted != label).nonzero().flatten()
        if len(others):
            across = others[_nearest(known[used[mine]], known[others])]
            gap[mine] = (known[used[mine]].double() - known[across].double()).norm(dim=1)
    return to_own / gap[back].clamp_min(1e-12 * to_own.clamp_min(1e-300))


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """[M] int64, the nearest centre of each point, in tiles of bounded memory."""
    shift = centres.mean(0)
    moved = (centres - shift).double()
    squares = moved.square().sum(1)
    rows, columns = _TILE
    found = []
    for part in points.split(rows):
        mine = (part - shift).double()
        tiles = zip(moved.split(columns), squares.split(columns), strict=True)
        least = [torch.addmm(of, mine, some.T, alpha=-2).min(1) for some, of in tiles]
        block = torch.stack([one.values for one in least]).argmin(0)
        within = torch.stack([one.indices for one in least])[block, torch.arange(len(part))]
        found.append(block * columns + within)
    return torch.cat(found)


def _check(embeddings: Tensor, predicted: Tensor, known: Tensor, known_predicted: Tensor) -> None:
    if not len(known):
        raise InputError("surprise is measured against known images, and there is none")
    if embeddings.ndim != 2 or known.ndim != 2 or embeddings.shape[1] != known.shape[1]:
        raise InputError(f"embeddings {list(embeddings.shape)} came with known ones {list(known.shape)}")
    if len(predicted) != len(embeddings) or len(known_predicted) != len(known):
        raise InputError(
            f"{len(embeddings)} and {len(known)} embeddings came with {len(predicted)} and "
            f"{len(known_predicted)} classes"
        )
