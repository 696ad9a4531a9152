"""Logits are refused where attacks and scores would fail in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robal.errors import ContractError
from robal.networks import check_logits

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.2, 0.3, 0.5]])


def test_logits_pass_unchanged_even_if_one_row_looks_like_probabilities() -> None:
    assert check_logits(LOGITS, 3) is LOGITS
    assert check_logits(LOGITS[:1]).shape == (1, 3)
    check_logits(torch.zeros(4, 3))
    check_logits(LOGITS.log_softmax(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 2])
def test_probabilities_are_refused(dtype: torch.dtype, rows: int) -> None:
    with pytest.raises(ContractError, match="ends in a softmax; remove it, robal needs logits"):
        check_logits(LOGITS[:rows].softmax(1).to(dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_counted(bad: float) -> None:
    logits = LOGITS.clone()
    logits[1, 2] = bad
    with pytest.raises(ContractError, match="for 1 of 2 images"):
        check_logits(logits)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(3), "shape"),
        (torch.zeros(0, 3), "shape"),
        (torch.zeros(2, 3, 1), "shape"),
        (torch.zeros(2, 1), "one output"),
        (torch.zeros(2, 4), "4 logits an image, but there are 3 classes"),
        (torch.zeros(2, 3, dtype=torch.int64), "floating-point"),
        ((LOGITS, LOGITS), "tuple"),
    ],
)
def test_other_shapes_and_types_are_refused(logits: Tensor, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_logits(logits, 3)
