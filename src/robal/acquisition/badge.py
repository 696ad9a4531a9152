"""BADGE: images that would change the last layer much, each in its own way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.acquisition.coreset import NUMBERS, check_embeddings
from robal.candidates import Candidates
from robal.errors import InputError
from robal.progress import track
from robal.scores.uncertainty import check_probs

NEAR = 1e-2  # squared distances below this share of the squared lengths are taken in float64


@dataclass(frozen=True)
class BADGE:
    """k-means++ on gradients: of the loss, for the predicted class as label, by the weights of the last layer.

    The gradient of an image is (p - e_ŷ) ⊗ h: as long as the model is unsure, pointing where its embedding h does. The
    longest is chosen first; then, again and again, one at random in proportion to its squared distance to the nearest
    chosen one.

    Source: Ash et al., ICLR 2020, arXiv 1906.03671, algorithm 1; the longest first, as their code has it.
    """

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return candidates.indices[badge(candidates.probs, candidates.embeddings, n, generator)]


def badge(probs: Tensor, embeddings: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n rows by k-means++ on (p - e_ŷ) ⊗ h, [C, d] each, of which only the factors are held.

    ŷ is the most likely class (of equals the first). The first choice is argmax |p - e_ŷ|²|h|²; each other one is
    drawn with P(i) ∝ min_c ‖gradient_i - gradient_c‖², c over those chosen.

    Args:
        probs: [M, C] rows that sum to 1.
        embeddings: [M, d] floating point, finite: the input of the last layer.
        n: in [0, M].
        generator: one number in float64 for each choice but the first.

    Returns:
        [n] int64 distinct positions in [0, M), in order of choice. The first has the longest gradient (of equals the
        lower position). Where every row left is the double of a chosen one, the lowest position.

    Raises:
        InputError: for rows that are no probabilities, embeddings that are not finite or not as many, or n beyond M.

    >>> probs = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5]])
    >>> badge(probs, torch.ones(3, 1), n=3, generator=torch.Generator())
    tensor([1, 0, 2])
    """
    if len(probs) != len(embeddings):
        raise InputError(f"each row of probabilities needs its embedding; {len(probs)} and {len(embeddings)} came")
    if not 0 <= n <= len(probs):
        raise InputError(f"n lies between 0 and the {len(probs)} rows there are; {n} came")
    gradients = Gradients.of(probs, embeddings)
    if n == 0:
        return torch.empty(0, dtype=torch.int64)
    chosen = [int(gradients.squared_lengths.numpy().argmax())]
    weights = gradients.squared_distances(chosen[0])
    for _ in track(range(n - 1), "BADGE"):
        position = draw(weights, generator)
        if position is None:  # only doubles are left
            left = torch.ones(len(probs), dtype=torch.bool)
            left[chosen] = False
            chosen += left.nonzero().flatten()[: n - len(chosen)].tolist()
            break
        chosen.append(position)
        torch.minimum(weights, gradients.squared_distances(position), out=weights)
    return torch.tensor(chosen, dtype=torch.int64)


def draw(weights: Tensor, generator: torch.Generator) -> int | None:
    """A position at random in proportion to its weight, [M] float64 >= 0, never one of weight 0; None if all are 0.

    >>> draw(torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64), torch.Generator())
    1
    """
    cumulative = weights.cumsum(0)
    total = cumulative[-1]
    if total == 0:
        return None
    aim = torch.rand((), dtype=torch.float64, generator=generator) * total
    # The first whose sum exceeds the aim has a weight of its own; the product may have been rounded up to the total.
    aim = torch.minimum(aim, torch.nextafter(total, torch.zeros_like(total)))
    return int(torch.searchsorted(cumulative, aim, right=True))


@dataclass(frozen=True, eq=False)
class Gradients:
    """M matrices g ⊗ h, g = p - e_ŷ, by their factors: ‖g ⊗ h - g' ⊗ h'‖² = |g|²|h|² + |g'|²|h'|² - 2 (g·g')(h·h').

    Args:
        probs: [M, C].
        embeddings: [M, d] float32, h.
        directions: [M, C] float32, g / |g|: however certain the model, no product of two underflows.
        sizes: [M] float64, |g|.
        squared_lengths: [M] float64, |g|²|h|².
    """

    probs: Tensor
    embeddings: Tensor
    directions: Tensor
    sizes: Tensor
    squared_lengths: Tensor

    @classmethod
    def of(cls, probs: Tensor, embeddings: Tensor) -> Gradients:
        """The gradients of [M, C] probabilities and [M, d] embeddings; those of another precision are copied."""
        check_probs(probs)
        embeddings = check_embeddings(embeddings).float().contiguous()
        directions = torch.empty_like(probs, dtype=torch.float32)
        sizes = torch.empty(len(probs), dtype=torch.float64)
        squares = torch.empty(len(probs), dtype=torch.float64)
        step = max(1, NUMBERS // max(probs.shape[1], embeddings.shape[1]))
        for start in range(0, len(probs), step):
            part = slice(start, start + step)
            residuals = residual(probs[part])
            squared_sizes = residuals.square().sum(1)
            sizes[part] = squared_sizes.sqrt()
            directions[part] = (residuals / sizes[part, None]).nan_to_num(0.0).float()
            squares[part] = squared_sizes * embeddings[part].double().square().sum(1)
        return cls(probs, embeddings, directions, sizes, squares)

    def squared_distances(self, position: int) -> Tensor:
        """[M] float64: squared distances to the gradient at `position`; exactly 0 to itself and its doubles."""
        other = self.embeddings[position].double()
        length = float(other.norm())
        products = torch.mv(self.embeddings, (other / (length or 1.0)).float())
        products *= torch.mv(self.directions, self.directions[position])
        sums = self.squared_lengths + self.squared_lengths[position]
        distances = torch.addcmul(sums, products.double(), self.sizes, value=-2 * length * float(self.sizes[position]))
        # Where the difference is small beside what it is of, float32 has too few digits for it.
        near = (distances < NEAR * sums).nonzero().flatten()
        for rows in near.split(max(1, NUMBERS // max(self.probs.shape[1], self.embeddings.shape[1]))):
            distances[rows] = self.near(rows, position)
        return distances

    def near(self, rows: Tensor, position: int) -> Tensor:
        """[K] float64: squared distances of `rows` to `position`, from the differences Δg and Δh of the factors.

        g ⊗ h - g' ⊗ h' = g ⊗ Δh + Δg ⊗ h', squared: |g|²|Δh|² + |Δg|²|h'|² + 2 (g·Δg)(Δh·h').
        """
        g, h = residual(self.probs[rows]), self.embeddings[rows].double()
        g_there, h_there = residual(self.probs[position, None]), self.embeddings[position, None].double()
        dg, dh = g - g_there, h - h_there
        squares = g.square().sum(1) * dh.square().sum(1) + dg.square().sum(1) * h_there.square().sum(1)
        return (squares + 2 * (g * dg).sum(1) * (dh * h_there).sum(1)).clamp_min(0)


def residual(probs: Tensor) -> Tensor:
    """[M, C] float64: p - e_ŷ; of p_ŷ - 1 no digit is lost, as it is the sum of the others.

    >>> residual(torch.tensor([[0.75, 0.25], [1.0, 1e-9]]))
    tensor([[-2.5000e-01,  2.5000e-01],
            [-1.0000e-09,  1.0000e-09]], dtype=torch.float64)
    """
    likely = probs.argmax(1, keepdim=True)
    others = probs.double().scatter(1, likely, 0.0)
    return others.scatter(1, likely, -others.sum(1, keepdim=True))
