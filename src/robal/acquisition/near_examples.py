"""NearExamples: what looks like a few examples, for classes that are rare or that nobody has labelled yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from robal.candidates import Candidates
from robal.datasets import load_folder
from robal.errors import InputError
from robal.files import absolute
from robal.images import InMemory
from robal.pool import Pool

_ROWS = 8192


@dataclass(frozen=True)
class NearExamples:
    """Nearest neighbours, by the cosine of embeddings, of examples of each class, the rarest class first.

    Each image goes to the class that has the fewest labels so far, those just chosen for it counted in, and is the
    nearest to any of its examples that is left.

    Args:
        examples: a folder with pictures, one sub-folder a class or none at all, for a cold start; "": the labelled
            images of the pool are the examples, so that classes with few labels get more. Where there are none either,
            images are drawn at random.

    Embeddings are the model's: at a cold start they are worth something where the network is pretrained.

    Cost: M · E · d for E examples; memory M · classes.

    Source: nearest neighbours of rare positives, Coleman et al. (SEALS), AAAI 2022, arXiv 2007.00077.
    """

    examples: str = ""

    def located(self) -> NearExamples:
        """The same with the absolute path of its examples."""
        return replace(self, examples=absolute(self.examples))

    def check(self) -> None:
        """Raises InputError where the folder of examples is not there."""
        if self.examples and not Path(self.examples).expanduser().is_dir():
            raise InputError(f"there is no folder {self.examples} of examples")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        if self.examples:
            shown, labels = self._read(candidates)
            counts = torch.zeros(int(labels.max()) + 1, dtype=torch.int64)
        else:
            shown, labels = candidates.labelled, candidates.pool.labels[candidates.labelled.indices]
            counts = labels.bincount()
        if not len(shown):
            return candidates.indices[torch.randperm(len(candidates), generator=generator)[:n]]
        nearness = near(candidates.embeddings, shown.embeddings, labels)
        return candidates.indices[in_turn(nearness, counts[labels.unique()], n)]

    def _read(self, candidates: Candidates) -> tuple[Candidates, Tensor]:
        root, shape = Path(self.examples).expanduser(), candidates.pool.images.shape
        if shape[1] != shape[2]:
            raise InputError(f"examples are read for square images, and those of the pool are {shape}")
        inside = (
            [path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"] if root.is_dir() else []
        )
        by_class = len(inside) > 1
        found = load_folder(root, resize=shape[1], labelled=by_class)
        pixels = found.images
        if pixels.shape[1] != shape[0]:
            grey = pixels.float().mean(1, keepdim=True).round().to(torch.uint8)
            pixels = grey.expand(-1, shape[0], -1, -1).contiguous()
        pool = Pool.unlabelled(InMemory(pixels), candidates.pool.classes)
        seen = replace(candidates, pool=pool, indices=torch.arange(len(pixels)))
        return seen, found.labels if by_class else torch.zeros(len(pixels), dtype=torch.int64)


def near(embeddings: Tensor, examples: Tensor, labels: Tensor) -> Tensor:
    """[M, K]: the cosine with the nearest example of each of the K classes that `labels` has, ascending.

    Args:
        embeddings: [M, d] float32.
        examples: [E, d] float32, E >= 1.
        labels: [E] int64.

    >>> near(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([4, 7]))
    tensor([[1., 0.]])
    """
    classes, unit_length = labels.unique(), F.normalize(examples)
    found = torch.empty(len(embeddings), len(classes))
    for rows in torch.arange(len(embeddings)).split(_ROWS):
        cosines = F.normalize(embeddings[rows]) @ unit_length.T
        for place, label in enumerate(classes):
            found[rows, place] = cosines[:, labels == label].amax(1)
    return found


def in_turn(nearness: Tensor, counts: Tensor, n: int) -> Tensor:
    """[n] int64, distinct rows: each the nearest one left to the class that has the fewest so far; the first of equals.

    Args:
        nearness: [M, K], higher = nearer.
        counts: [K] int64, how many each class has.
        n: at most M.

    >>> in_turn(torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.1, 0.6]]), torch.tensor([5, 0]), 2)
    tensor([1, 2])
    """
    orders = nearness.argsort(dim=0, descending=True, stable=True).T.tolist()
    places, have, taken, chosen = [0] * len(orders), counts.tolist(), set[int](), list[int]()
    while len(chosen) < n:
        label = min(range(len(have)), key=have.__getitem__)
        while orders[label][places[label]] in taken:
            places[label] += 1
        chosen.append(orders[label][places[label]])
        taken.add(chosen[-1])
        have[label] += 1
    return torch.tensor(chosen, dtype=torch.int64)
