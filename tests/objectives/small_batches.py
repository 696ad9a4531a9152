"""A batch that objectives are tried on."""

from __future__ import annotations

import torch

from robal.objectives import Batch
from robal.seeds import generator


def a_batch(count: int = 6, seed: int = 0) -> Batch:
    """Images of 8 x 8 drawn at random, of four classes in turn."""
    inputs = torch.rand(count, 1, 8, 8, generator=generator(seed, "batch"))
    return Batch(inputs, torch.arange(count) % 4, torch.ones(count))
