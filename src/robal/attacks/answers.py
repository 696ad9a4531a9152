"""What a model's logits say where some of them are NaN or infinite: NaN names no class."""

from __future__ import annotations

from torch import Tensor


def classes_of(logits: Tensor) -> Tensor:
    """[B] int64: the class of the largest logit; -1, which is nobody's label, where a logit is NaN.

    An infinite logit counts as any other: it is the largest, or the smallest.

    Args:
        logits: [B, K] float32.

    >>> import torch
    >>> classes_of(torch.tensor([[1.0, 3.0], [float("nan"), 3.0], [float("inf"), 3.0]]))
    tensor([ 1, -1,  0])
    """
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)
