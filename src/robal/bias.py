"""How unlike the pool a choice is: by how unsure the model is of the images, and by their classes.

Guo et al., arXiv 2112.02542, section 6 and figure 3. Differs from the paper: the divergence that a random choice of the
same size has anyway stands beside each, since of 200 images in 50 bins it is 0.04 bits already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from robal.candidates import Candidates
from robal.scores import deepgini, entropy, least_confidence, margin

SCORES = {"entropy": entropy, "gini": deepgini, "least confidence": least_confidence, "margin": margin}
MEASURES = (*SCORES, "true class")
_BINS, _DRAWS = 50, 200


def divergence(chosen: Any, pool: Any) -> Any:
    """Jensen-Shannon divergence of histograms [..., bins], in bits, in [0, 1]; SciPy's function gives its square root.

    >>> float(divergence([1, 0], [0, 5])), float(divergence([1, 3], [2, 6]))
    (1.0, 0.0)
    """
    return scipy.spatial.distance.jensenshannon(chosen, pool, base=2, axis=-1) ** 2


def floor(chosen: int, pool: Any) -> float:
    """What `divergence` is, on average, for so many images drawn from the pool at random (200 draws, a fixed seed)."""
    pool = np.asarray(pool)
    draws = np.random.default_rng(0).multivariate_hypergeometric(pool, chosen, size=_DRAWS)
    return float(divergence(draws, np.broadcast_to(pool, draws.shape)).mean())


def describe_bias(candidates: Candidates, question: Tensor) -> dict[str, dict[str, float]]:
    """By score, the divergence of the chosen images from the pool, and its floor, in bits.

    Args:
        candidates: the pool that was chosen from, in the eyes of the model at hand.
        question: [n] int64, what was chosen.

    Scores are counted in 50 bins over the pool's own range.
    """
    chosen, found = torch.isin(candidates.indices, question), {}
    for name, score in SCORES.items():
        values = score(candidates.probs).double()
        low, high = (float(end) for end in values.aminmax())
        found[name] = _described(*(torch.histc(some, _BINS, low, high).long() for some in (values[chosen], values)))
    return found


def bias_of_classes(hidden: Tensor | None, question: Tensor, candidates: Tensor) -> dict[str, dict[str, float]]:
    """The same by true class, for the reader of a simulation; nothing where they are not all known.

    Args:
        hidden: [N] int64, the true classes, or None.
        question: [n] int64, what was chosen.
        candidates: [M] int64, what it was chosen from.
    """
    if hidden is None or bool((classes := hidden[candidates]).min() < 0):
        return {}
    counts = [some.bincount(minlength=int(classes.max()) + 1) for some in (hidden[question], classes)]
    return {"true class": _described(*counts)}


def _described(chosen: Tensor, pool: Tensor) -> dict[str, float]:
    counts = chosen.numpy(), pool.numpy()
    return {"divergence": float(divergence(*counts)), "floor": floor(int(chosen.sum()), counts[1])}
