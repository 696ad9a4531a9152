"""How unsure a model is, and how much of that is about its weights: from the probabilities of several passes."""

from __future__ import annotations

from torch import Tensor, special

from robal.errors import InputError
from robal.scores.uncertainty import check_probs


def bald(probs_NTC: Tensor) -> Tensor:
    """H(mean_t p_t) - mean_t H(p_t) in nats: what the label would tell about the weights. In [0, min(log C, log T)].

    Args:
        probs_NTC: [N, T, C], the probabilities of T >= 1 stochastic passes; each row sums to 1.

    Returns:
        [N], higher where the passes contradict each other; 0 where they agree, however unsure they are.

    Raises:
        InputError: for another shape, and for rows that are not probabilities.

    Source: Houlsby et al. 2011, arXiv 1112.5745; by dropout: Gal, Islam, Ghahramani, ICML 2017, arXiv 1703.02910.

    Two passes that are sure of different classes: log 2. Two that are equally unsure: 0.

    >>> import torch
    >>> bald(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]))
    tensor([0.6931, 0.0000])
    """
    probs_NTC = _check_passes(probs_NTC)
    expected = special.entr(probs_NTC).sum(2).mean(1)
    # By Jensen's inequality it is never negative; rounding need not know that. Adding 0 turns -0.0 into 0.0.
    return (dropout_entropy(probs_NTC) - expected).clamp_min(0.0) + 0.0


def dropout_entropy(probs_NTC: Tensor) -> Tensor:
    """H(mean_t p_t) in nats, the entropy of the mean of T stochastic passes, in [0, log C]. Arguments as `bald`.

    Source: Gal, Islam, Ghahramani, ICML 2017, arXiv 1703.02910, section 4.

    >>> import torch
    >>> dropout_entropy(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]))
    tensor([0.6931, 0.6931])
    """
    return special.entr(_check_passes(probs_NTC).mean(1)).sum(1).clamp_min(0.0) + 0.0


def _check_passes(probs_NTC: Tensor) -> Tensor:
    if probs_NTC.ndim != 3 or probs_NTC.shape[1] < 1:
        raise InputError(
            f"probabilities of several passes have shape [N, T, C] with T >= 1; these have {list(probs_NTC.shape)}"
        )
    check_probs(probs_NTC.flatten(0, 1))
    return probs_NTC
