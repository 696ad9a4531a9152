"""TypiClust: from each of many clusters, the least labelled first, the image in the densest place."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from robal.candidates import Candidates
from robal.errors import InputError

_CELLS = 2**22  # numbers in a block of distances: 16 MB


@dataclass(frozen=True)
class TypiClust:
    """Typical clustering: as many clusters as there will be labels, and from each uncovered one its most typical image.

    Embeddings are scaled to length 1, as the authors scale theirs. Of n + L clusters, for L labelled images, n at least
    hold no label.

    Args:
        neighbours: nearest neighbours within the cluster that say how typical an image is; at most half the cluster.
        most_clusters: no more clusters than this; where n is larger, the clusters are visited in turn.
        smallest: clusters of this size or less are left out, until the others are used up.

    Differs from the paper: the embeddings are the classifier's, not self-supervised. Differs from the released code,
    which takes squared distances where the paper has distances, and weighs a cluster anew, without the image just
    taken, when it visits it again; here each visit takes the next of one order. Clusters and settings of k-means are
    those of the release; they are scikit-learn's, and another version of it, or another processor, may round and so
    cluster differently.

    Cost: M · d · clusters for the clusters, and the sum of the squares of those visited, times d, for the neighbours;
    memory M · d. On one core, 60,000 of 84-d and 1,000 labelled: 2 s for n = 200; 15 s for n = 1 with nothing labelled,
    where one cluster is the whole pool.

    Source: Hacohen, Dekel and Weinshall, ICML 2022, arXiv 2202.02794.
    """

    neighbours: int = 20
    most_clusters: int = 500
    smallest: int = 5

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InputError(f"TypiClust needs at least one neighbour; {self.neighbours} came")
        if self.most_clusters < 1:
            raise InputError(f"TypiClust needs at least one cluster; {self.most_clusters} came")
        if self.smallest < 0:
            raise InputError(f"a cluster has no fewer than 0 images: smallest = {self.smallest} came; 0 keeps them all")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        embeddings, labelled = on_the_sphere(candidates)
        positions = typiclust(embeddings, labelled, n, generator, self.neighbours, self.most_clusters, self.smallest)
        return candidates.indices[positions]


def on_the_sphere(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Embeddings of the candidates, [M, d], and of the labelled images, [L, d], of length 1 and then centred.

    Centring changes no distance, and float32 products of rows that lie close together keep their digits.
    """
    embeddings, labelled = F.normalize(candidates.embeddings), F.normalize(candidates.labelled.embeddings)
    middle = embeddings.mean(0, dtype=torch.float64).float()
    return embeddings - middle, labelled - middle


def typiclust(
    embeddings: Tensor,
    labelled_embeddings: Tensor,
    n: int,
    generator: torch.Generator,
    neighbours: int = 20,
    most_clusters: int = 500,
    smallest: int = 5,
) -> Tensor:
    """The n candidates that TypiClust asks about.

    Args:
        embeddings: [M, d] float32, of the candidates.
        labelled_embeddings: [L, d] float32, of the labelled images; L may be 0.
        n: in [0, M].
        generator: starts k-means.
        neighbours: see `TypiClust`.
        most_clusters: see `TypiClust`.
        smallest: see `TypiClust`.

    Returns:
        [n] int64 distinct positions in [0, M), in order of choice.
    """
    if n == 0:
        return torch.empty(0, dtype=torch.int64)
    together = torch.cat([embeddings, labelled_embeddings])
    cluster = clusters_of(together, min(len(labelled_embeddings) + n, most_clusters), generator)
    of_candidates, of_labelled = cluster.split([len(embeddings), len(labelled_embeddings)])
    return most_typical(embeddings, of_candidates, of_labelled, n, neighbours, smallest)


def clusters_of(embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[M] int64: the cluster of each embedding by k-means; by mini-batches of 5,000 beyond 50 clusters.

    Args:
        embeddings: [M, d] float32.
        count: clusters, in [1, M]; fewer have members where fewer embeddings differ.
        generator: gives the seed; k-means++ starts once.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # scikit-learn takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    settings = {"n_clusters": count, "n_init": 1, "random_state": seed}
    means = KMeans(**settings) if count <= 50 else MiniBatchKMeans(batch_size=5000, **settings)
    # One thread: the same clusters on any machine's number of cores, and no waiting where others use them.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct embeddings than clusters: no harm
        return torch.from_numpy(means.fit_predict(embeddings.numpy())).long()


def most_typical(
    embeddings: Tensor, cluster: Tensor, labelled_cluster: Tensor, n: int, neighbours: int = 20, smallest: int = 5
) -> Tensor:
    """[n] int64 positions: visit the clusters in turn, each time taking the next most typical candidate.

    Clusters with few labelled images come first, then large ones, then those of lower number; clusters of `smallest`
    or fewer images, when no candidate is left in the others. Of equally typical candidates, the lower position.

    Args:
        embeddings: [M, d] float32, of the candidates.
        cluster: [M] int64, the cluster of each candidate.
        labelled_cluster: [L] int64, the cluster of each labelled image.
        n: in [0, M].
        neighbours: see `TypiClust`.
        smallest: see `TypiClust`.

    >>> places = torch.tensor([[0.0], [1.0], [3.0], [9.0], [9.1]])
    >>> most_typical(places, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0]), 3, smallest=0)
    tensor([3, 0, 4])
    """
    number = int(torch.cat([cluster, labelled_cluster]).max()) + 1
    left, held = (torch.bincount(which, minlength=number).tolist() for which in (cluster, labelled_cluster))
    order = sorted((c for c in range(number) if left[c]), key=lambda c: (held[c], -left[c] - held[c], c))
    chosen: list[int] = []
    for group in (
        [c for c in order if left[c] + held[c] > smallest],
        [c for c in order if left[c] + held[c] <= smallest],
    ):
        missing = n - len(chosen)
        members = [(cluster == c).nonzero().flatten() for c in group[:missing]]
        queues = [_by_typicality(embeddings, positions, neighbours) for positions in members]
        in_turn = (position for turn in zip_longest(*queues) for position in turn if position is not None)
        chosen += islice(in_turn, missing)
    return torch.tensor(chosen, dtype=torch.int64)


def _by_typicality(embeddings: Tensor, positions: Tensor, neighbours: int) -> list[int]:
    typical = typicality(embeddings[positions], min(neighbours, len(positions) // 2))
    return positions[torch.argsort(typical, descending=True, stable=True)].tolist()


def typicality(embeddings: Tensor, neighbours: int) -> Tensor:
    """1 / (mean distance to the nearest neighbours + 1e-5), [M] float64, in (0, 1e5]: higher = in a denser place.

    Args:
        embeddings: [M, d] float32.
        neighbours: how many, in [0, M - 1], the image itself not counted; of none, the mean distance is 0.

    >>> typicality(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    count, dimension = embeddings.shape
    result = torch.full((count,), 1e5, dtype=torch.float64)
    if neighbours == 0:
        return result
    half_squares = embeddings.square().sum(1) / 2
    rows = max(1, _CELLS // max(count, neighbours * dimension))
    for start in range(0, count, rows):
        part = embeddings[start : start + rows]
        closeness = torch.addmm(-half_squares, part, embeddings.T)
        closeness[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        nearest = embeddings[closeness.topk(neighbours).indices]
        # The product finds the neighbours but loses small distances to cancellation; the differences keep them.
        distances = (nearest - part[:, None]).square().sum(2).double().sqrt()
        result[start : start + rows] = 1 / (distances.sort(1).values.mean(1) + 1e-5)
    return result
