from __future__ import annotations

import pytest
from torch import Tensor

from robal.pool import Examples
from robal.training import Trained
from small_models import convnet


@pytest.fixture
def examples(tiny_digits: tuple[Tensor, Tensor]) -> Examples:
    """41 digits, 8 x 8: with batches of 8, a last batch of one image."""
    return Examples.of(tiny_digits[0][:41], tiny_digits[1][:41])


@pytest.fixture
def start() -> Trained:
    """An untrained network with BatchNorm and dropout."""
    return Trained(convnet(classes=10).eval())
