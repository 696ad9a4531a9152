"""A network of a user's own, named on the command line by `small_networks:build`."""

from __future__ import annotations

from torch import nn

SMALL = "small_networks:build"


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """One hidden layer of 16."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 16), nn.ReLU(), nn.Linear(16, classes))
