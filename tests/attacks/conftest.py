from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_models import convnet


@pytest.fixture(scope="session")
def foolbox() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports are deprecated ones
        return pytest.importorskip("foolbox")


@pytest.fixture(scope="session")
def tiny_model(tiny_digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A network with BatchNorm that knows the 8 x 8 digits, in eval mode; small enough for AutoAttack in a test."""
    images, labels = tiny_digits[0][:1000].float() / 255, tiny_digits[1][:1000]
    model = convnet(classes=10, dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval()
