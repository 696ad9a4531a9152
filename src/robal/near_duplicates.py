"""Images that show the same, or nearly so, without comparing all with all; and how far new images are from old ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robal.images import unit
from robal.seeds import generator

_SIDE, _BITS = 32, 8  # a hash is of the 8 x 8 lowest frequencies of 32 x 32 pixels
_THUMB = 16
_HAMMING = 10  # bits of 64 in which the hashes of near-duplicates differ, at most
_GREYS = 4.0  # mean difference of their thumbnails, each less its mean, at most, of 255
_TURNS = 8  # orders of the bits in which hashes are sorted
_NEXT = 12  # neighbours in each of these orders that an image is compared with
_FEW = 4_000  # images of each kind that tell drift


def perceived(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What an image looks like from afar.

    Args:
        pixels: [B, C, H, W], uint8, or float32 in [0, 1].

    Returns:
        [B] int64: 64 bits, the signs of the lowest frequencies about their median (the perceptual hash pHash); and
        [B, 256 + C] uint8: a grey thumbnail of 16 x 16, and the mean of each channel.

    Source: Zauner, Implementation and benchmarking of perceptual image hash functions, 2010.
    """
    images = unit(pixels)
    grey = F.interpolate(images.mean(1, keepdim=True), (_SIDE, _SIDE), mode="bilinear", antialias=True)[:, 0]
    basis = _cosines()
    low = (basis @ grey @ basis.T).flatten(1)
    bits = low > low[:, 1:].median(1, keepdim=True).values  # the mean brightness says nothing of what is shown
    hashes = (bits.long() << torch.arange(_BITS * _BITS)).sum(1)
    thumbs = F.interpolate(grey[:, None], (_THUMB, _THUMB), mode="bilinear", antialias=True).flatten(1)
    return hashes, torch.cat([thumbs, images.mean((2, 3))], 1).mul(255).round().to(torch.uint8)


@cache
def _cosines() -> Tensor:
    """[8, 32]: the lowest frequencies of the discrete cosine transform (DCT-II)."""
    place, frequency = torch.arange(_SIDE) + 0.5, torch.arange(_BITS)[:, None]
    return torch.cos(torch.pi / _SIDE * place * frequency)


def alike(hashes: Tensor, thumbs: Tensor) -> Tensor:
    """[P, 2] int64: pairs of images that look alike, positions in [0, N); as few as hold the same groups together.

    The groups of the first n images alone are those of the pairs among them, for any n.

    Two are alike where their hashes differ in at most 10 bits and their grey thumbnails, each less its mean, by at most
    4 levels of 255 on average; a group is what hangs together by such pairs. Hashes are sorted in eight orders of their
    bits, and each image is compared with its next twelve in each, so that the time grows with N and not with its
    square: of pairs nearly all are found. Simple drawings, such as digits, may be alike and yet be different ones.

    Args:
        hashes, thumbs: of `perceived`.

    Source: sorting by turns, Manku, Jain and Das Sarma, WWW 2007.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    codes, ones, others = hashes.numpy().view(np.uint64), list[np.ndarray](), list[np.ndarray]()
    for turn in range(_TURNS):
        by = np.uint64(turn * 64 // _TURNS)
        turned = codes if turn == 0 else (codes << by) | (codes >> np.uint64(64 - int(by)))
        order = np.argsort(turned, kind="stable")
        for step in range(1, min(_NEXT, len(order) - 1) + 1):
            left, right = order[:-step], order[step:]
            near = np.bitwise_count(codes[left] ^ codes[right]) <= _HAMMING
            ones.append(left[near])
            others.append(right[near])
    if not ones:
        return torch.empty(0, 2, dtype=torch.int64)
    pairs = np.unique(np.sort(np.stack([np.concatenate(ones), np.concatenate(others)], 1), 1), axis=0)
    near = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), 2**16):
        part = torch.from_numpy(pairs[start : start + 2**16])
        one, other = (thumbs[part[:, side], : _THUMB**2].float() for side in (0, 1))
        apart = (one - one.mean(1, keepdim=True)) - (other - other.mean(1, keepdim=True))
        near[start : start + 2**16] = (apart.abs().mean(1) <= _GREYS).numpy()
    pairs = pairs[near]
    # a spanning forest by the later image of each pair holds together what the pairs of any first images do
    shape = (len(hashes), len(hashes))
    tree = minimum_spanning_tree(csr_array((pairs[:, 1] + 1.0, (pairs[:, 0], pairs[:, 1])), shape=shape)).tocoo()
    return torch.from_numpy(np.stack([tree.row, tree.col], 1).astype(np.int64))


def groups_of(pairs: Tensor, count: int) -> Tensor:
    """[count] int64: groups that hang together by pairs, by number; -1 for an image in none.

    Args:
        pairs: [P, 2] int64; those with a position beyond `count` do not count.
        count: images.

    >>> groups_of(torch.tensor([[0, 3], [3, 1], [2, 5]]), 5)
    tensor([ 0,  0, -1,  0, -1])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = pairs[(pairs < count).all(1)]
    if not count:
        return torch.empty(0, dtype=torch.int64)
    ones, others = pairs.numpy().T
    _, part_of = connected_components(coo_array((np.ones(len(pairs)), (ones, others)), shape=(count, count)), False)
    members = np.bincount(part_of)
    numbers = np.where(members > 1, np.cumsum(members > 1) - 1, -1)
    return torch.from_numpy(numbers[part_of].astype(np.int64))


def drift(before: Tensor, after: Tensor, seed: int = 0) -> float | None:
    """How well a linear classifier tells new images from earlier ones, by their thumbnails: its AUROC, out of fold.

    0.5: not at all, as where both are drawn alike; 1: always, as where the camera was changed.

    Args:
        before, after: [N, 256 + C] and [M, 256 + C] uint8, of `perceived`; of each, 4,000 are drawn.

    Returns:
        None where there are fewer than 20 of either.

    Source: classifier two-sample tests, Lopez-Paz and Oquab, ICLR 2017, arXiv 1610.06545.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(before), len(after)) < 20:
        return None
    parts = []
    for number, part in enumerate((before, after)):
        drawn = torch.randperm(len(part), generator=generator(seed, "drift", number))[:_FEW]
        grey, means = part[drawn, : _THUMB**2].float().view(-1, 1, _THUMB, _THUMB), part[drawn, _THUMB**2 :].float()
        parts.append(torch.cat([F.avg_pool2d(grey, 2).flatten(1), means], 1).numpy())
    features = np.concatenate(parts)
    is_new = np.repeat([0, 1], [len(part) for part in parts])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1_000))
    scores = cross_val_predict(model, features, is_new, cv=5, method="decision_function")
    return float(roc_auc_score(is_new, scores))


def prints(images: Tensor) -> Iterator[int]:
    """A 64-bit hash of each image's pixels, floats rounded to 8 bits; equal within a process for equal images."""
    for some in images.split(4096):
        eight = some if some.dtype == torch.uint8 else some.mul(255).round().to(torch.uint8)
        yield from (hash(one.tobytes()) for one in eight.numpy())
