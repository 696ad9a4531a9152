"""How unsure a model is, from its probabilities alone. All take [M, C] rows that sum to 1 and return [M]."""

from __future__ import annotations

import torch
from torch import Tensor

from robal.errors import InputError


def entropy(probs: Tensor) -> Tensor:
    """H(p) = -Σ p log p in nats, in [0, log C].

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    # Rounding may put a probability a hair above 1 and the sum below 0; adding 0 turns -0.0 into 0.0.
    return -torch.xlogy(check_probs(probs), probs).sum(1).clamp_max(0.0) + 0.0


def deepgini(probs: Tensor) -> Tensor:
    """1 - Σ p², in [0, 1 - 1/C]: the chance that two draws from p differ.

    Source: Feng et al., ISSTA 2020 (DeepGini), arXiv 1903.00661.

    >>> deepgini(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    return 1.0 - check_probs(probs).square().sum(1)


def least_confidence(probs: Tensor) -> Tensor:
    """1 - max p, in [0, 1 - 1/C].

    >>> least_confidence(torch.tensor([[0.75, 0.25]]))
    tensor([0.2500])
    """
    return 1.0 - check_probs(probs).amax(1)


def margin(probs: Tensor) -> Tensor:
    """-(p₁ - p₂), the two largest, in [-1, 0]: negative, so that a small margin scores high.

    >>> margin(torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    tensor([-0.5000, -0.0000])
    """
    first, second = check_probs(probs).topk(2, dim=1).values.unbind(1)
    return -(first - second)


def check_probs(probs: Tensor) -> Tensor:
    """`probs` unchanged, if its rows are probabilities.

    Raises:
        InputError: for another shape, NaN, values outside [0, 1], or rows that do not sum to 1 (within 1e-3).
    """
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise InputError(f"probabilities have shape [M, C] with C >= 2; these have {list(probs.shape)}")
    if len(probs) and not (
        bool((probs >= 0).all()) and bool((probs <= 1 + 1e-4).all()) and bool(((probs.sum(1) - 1).abs() < 1e-3).all())
    ):
        raise InputError("these rows are not probabilities (in [0, 1], summing to 1); apply softmax to logits first")
    return probs
