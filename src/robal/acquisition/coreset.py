"""Core-set: leave no image of the pool far from a labelled one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.errors import InputError
from robal.progress import track

Space = Literal["embeddings", "probs"]

WINDOW = 512  # rows that are kept up to date; the others have but a bound
PART = 2048  # centres in a product
NUMBERS = 2**20  # in a working array: so memory is bounded, and the array fits a cache


@dataclass(frozen=True)
class CoreSet:
    """k-center greedy: again and again the image farthest from everything labelled or chosen so far.

    Args:
        space: where distance is measured. "embeddings": the input of the last layer. "probs": the softmax output,
            ten numbers for ten classes.

    Differs from the paper: its mixed integer program, which leaves out outliers, is not solved; the greedy choice, at
    most twice as far from the optimum, is what the field compares with. DRE's study uses space="probs".

    Source: Sener and Savarese, ICLR 2018, arXiv 1708.00489, algorithm 1.
    """

    space: Space = "embeddings"

    def __post_init__(self) -> None:
        if self.space not in get_args(Space):
            raise InputError(f"CoreSet's space is one of {', '.join(get_args(Space))}; not {self.space!r}")

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        if self.space == "probs":
            points, centres = candidates.probs, candidates.labelled.probs
        else:
            points, centres = candidates.embeddings, candidates.labelled.embeddings
        return candidates.indices[k_center_greedy(points, centres, n)]


def k_center_greedy(embeddings: Tensor, centres: Tensor, n: int) -> Tensor:
    """n times the row farthest from its nearest centre, which then is a centre, too.

    The next is argmax_i min_c ‖x_i - x_c‖², c over all centres so far, by differences in float64. A row's distance
    to its nearest centre only falls, so what it once was bounds it from above: after one look at all rows, only a
    window of those with the highest bounds is kept up to date, until its farthest row falls below all other bounds.

    Args:
        embeddings: [M, d] floating point of any precision, finite; rows of what is to be chosen from. May lie on disk
            (`torch.from_numpy` of a memmap): read in order, then row by row.
        centres: [L, d], what is labelled already. With L = 0, the first choice is the row nearest to the mean of all.
        n: in [0, M].

    Returns:
        [n] int64 distinct positions in [0, M), in order of choice; of equally far rows the one of lower position.

    Raises:
        InputError: for other shapes, integers, NaN or infinite values, or n beyond M.

    >>> k_center_greedy(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), centres=torch.tensor([[0.0]]), n=2)
    tensor([3, 2])
    """
    check_embeddings(embeddings)
    check_embeddings(centres)
    if embeddings.shape[1] != centres.shape[1]:
        raise InputError(f"the rows have {embeddings.shape[1]} numbers and those of the centres {centres.shape[1]}")
    if not 0 <= n <= len(embeddings):
        raise InputError(f"n lies between 0 and the {len(embeddings)} rows there are; {n} came")
    chosen: list[int] = []
    if n and not len(centres):
        chosen.append(nearest_to_mean(embeddings))
        centres = embeddings[chosen]
    if len(chosen) == n:
        return torch.tensor(chosen, dtype=torch.int64)
    # Of equal centres one will do; many would all have to be told from the nearest.
    centres = centres.unique(dim=0)
    given = centres[: len(centres) - len(chosen)]
    middle = mean_of(centres)
    bounds = upper_bounds(embeddings, centres, middle)
    bounds[chosen] = -1.0  # lower than any: never again
    seen = torch.zeros(len(embeddings), dtype=torch.int64)  # centres that went into a bound; with 0 it is a bound only
    progress = track(range(n), "core-set")
    while len(chosen) < n:
        window, floor, left_out = highest(bounds, WINDOW)
        points, distances = embeddings[window].double(), bounds[window]
        for part in torch.argsort(seen[window]).split(PART // 8):
            later = _centres(embeddings, given, chosen, int(seen[window[part]].min()))
            distances[part] = nearest(points[part], later, distances[part], middle)
        while len(chosen) < n:
            farthest = int(distances.numpy().argmax())  # the first of equals, as torch's, and quicker
            distance, position = float(distances[farthest]), int(window[farthest])
            if distance < floor or (distance == floor and position > left_out):
                break
            chosen.append(position)
            next(progress, None)
            torch.minimum(distances, (points - points[farthest]).square_().sum(1), out=distances)
            distances[farthest] = -1.0
        bounds[window], seen[window] = distances, len(given) + len(chosen)
    return torch.tensor(chosen, dtype=torch.int64)


def highest(bounds: Tensor, count: int) -> tuple[Tensor, float, int]:
    """The positions of the `count` highest bounds, ascending; the lowest of these; the first of its equals left out.

    >>> highest(torch.tensor([2.0, 1.0, 3.0, 1.0, 0.0]), 3)
    (tensor([0, 1, 2]), 1.0, 3)
    """
    count = min(count, len(bounds))
    floor = bounds.topk(count, sorted=False).values.min()
    above, equal = (bounds > floor).nonzero().flatten(), (bounds == floor).nonzero().flatten()
    room = count - len(above)
    left_out = int(equal[room]) if len(equal) > room else len(bounds)
    return torch.cat([above, equal[:room]]).sort().values, float(floor), left_out


def _centres(embeddings: Tensor, given: Tensor, chosen: list[int], start: int) -> Iterator[Tensor]:
    """The centres from number `start` on, those given before those chosen, in parts, as float64."""
    for first in range(start, len(given), PART):
        yield given[first : first + PART].double()
    for first in range(max(start - len(given), 0), len(chosen), PART):
        yield embeddings[chosen[first : first + PART]].double()


def upper_bounds(embeddings: Tensor, centres: Tensor, middle: Tensor) -> Tensor:
    """[M] float64 > 0: squared distances to the nearest centre, by products in float32, and all that may be wrong.

    With y = x - middle, ‖x - c‖² = ‖y‖² + ‖y_c‖² - 2 y·y_c errs by at most (d + 5) u (‖y‖ + ‖y_c‖)², u = 2⁻²⁴ the unit
    roundoff; twice that is added.
    """
    bounds = torch.empty(len(embeddings), dtype=torch.float64)
    origin = middle.float()
    others = (centres - origin).float()
    squares = others.square().sum(1)
    radius = squares.max().double().sqrt()
    start = 0
    for part in embeddings.split(max(64, NUMBERS // max(others.shape))):
        rows = (part - origin).float()
        norms = rows.square().sum(1).double()
        product = torch.addmm(squares, rows, others.T, alpha=-2).amin(1).double()
        slack = 2.0**-23 * (embeddings.shape[1] + 8) * (norms.sqrt() + radius).square() + 1e-30
        # Out of range for float32: no bound at all.
        bounds[start : start + len(rows)] = ((norms + product).clamp_min(0) + slack).nan_to_num(torch.inf, torch.inf)
        start += len(rows)
    return bounds


def nearest(points: Tensor, centres: Iterator[Tensor], known: Tensor, middle: Tensor) -> Tensor:
    """[B] float64: squared distances to the nearest centre, by differences, or what is `known` where that is less.

    Products in float64 rule out nearly all pairs; the differences of the few that are left are taken.

    Args:
        points: [B, d] float64.
        centres: parts [K, d] float64.
        known: [B] float64, distances to other centres, or bounds: more than the distance to one of these.
        middle: [d] float64, near the centres: the origin of the products.
    """
    known = known.clone()
    rows = points - middle
    norms = rows.square().sum(1, keepdim=True)
    for part in centres:
        others = part - middle
        squares = others.square().sum(1)
        product = torch.addmm(squares, rows, others.T, alpha=-2).add_(norms)
        slack = 2.0**-52 * (points.shape[1] + 8) * (norms.sqrt() + squares.max().sqrt()).square()
        best = product.argmin(1)
        known = torch.minimum(known, (points - part[best]).square().sum(1))
        # A distance is never below 0: where 0 is known, no other pair is looked at.
        maybe = product.sub_(slack).clamp_min_(0) < known[:, None]
        maybe[torch.arange(len(points)), best] = False
        for pairs in maybe.nonzero().split(max(1, NUMBERS // points.shape[1])):
            row, other = pairs.unbind(1)
            known.scatter_reduce_(0, row, (points[row] - part[other]).square().sum(1), "amin")
    return known


def nearest_to_mean(embeddings: Tensor) -> int:
    """The position of the row nearest to the mean of all; of equals the first.

    >>> nearest_to_mean(torch.tensor([[0.0], [4.0], [5.0]]))
    1
    """
    mean = mean_of(embeddings)
    parts = embeddings.split(max(1, NUMBERS // embeddings.shape[1]))
    return int(torch.cat([(part.double() - mean).square().sum(1) for part in parts]).numpy().argmin())


def mean_of(rows: Tensor) -> Tensor:
    """[d] float64: the mean of [M, d], without a copy of them."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in rows.split(max(1, NUMBERS // rows.shape[1])):
        total += part.double().sum(0)
    return total / len(rows)


def check_embeddings(embeddings: Tensor) -> Tensor:
    """`embeddings` unchanged, if they are [M, d] finite numbers.

    Raises:
        InputError: for another shape, integers, NaN or infinite values.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] == 0 or not embeddings.is_floating_point():
        kind = str(embeddings.dtype).split(".")[-1]
        raise InputError(
            f"embeddings are floating point, [M, d] with d >= 1; these are {kind} {list(embeddings.shape)}"
        )
    start = 0
    for part in embeddings.split(max(1, NUMBERS // embeddings.shape[1])):
        finite = part.isfinite()
        if not bool(finite.all()):
            row = start + int((~finite).any(1).nonzero()[0])
            raise InputError(f"embeddings must be finite; row {row} is not: look for NaN in the model's weights")
        start += len(part)
    return embeddings
