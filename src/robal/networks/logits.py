"""Logits are checked where they enter, because probabilities in their place give attacks that fail in silence."""

from __future__ import annotations

import torch
from torch import Tensor

from robal.errors import ContractError


def check_logits(logits: Tensor, classes: int | None = None) -> Tensor:
    """The logits themselves, or a ContractError that says how they break the contract.

    Args:
        logits: [B, K] floating point, B >= 1, K >= 2.
        classes: the K that is due; None: any.

    Refused: another shape, one output, NaN and infinity, and rows that are all non-negative and sum to 1 (within
    1e-4 in float32): those are probabilities.

    >>> check_logits(torch.tensor([[2.0, -1.0]])).shape
    torch.Size([1, 2])
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise ContractError(f"a model returns floating-point logits [images, classes], got {came}")
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[0] < 1:
        raise ContractError(f"a model returns logits [images, classes], got the shape {shape}")
    if shape[1] == 1:
        raise ContractError("the model has one output: robal needs one logit a class, also for two classes")
    if classes is not None and shape[1] != classes:
        raise ContractError(f"the model returns {shape[1]} logits an image, but there are {classes} classes")
    values = logits.detach()
    if not bool(torch.isfinite(values).all()):
        rows = int((~torch.isfinite(values)).any(1).sum())
        raise ContractError(f"the model returns NaN or infinite logits for {rows} of {shape[0]} images")
    tolerance = max(1e-4, 4 * torch.finfo(values.dtype).eps)
    if bool((values >= 0).all()) and bool(((values.float().sum(1) - 1).abs() <= tolerance).all()):
        raise ContractError("the model ends in a softmax; remove it, robal needs logits")
    return logits
