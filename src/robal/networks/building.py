"""What all networks share: named layers in a row, weights that are a function of the seed, and shapes that fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from robal.errors import InputError, did_you_mean
from robal.networks.normalise import Normalise, check_moments
from robal.seeds import stream

Shape = tuple[int, int, int]


@runtime_checkable
class Architecture(Protocol):
    """Builds a module from float32 [B, C, H, W] in [0, 1] to logits [B, classes]; its weights follow from the seed."""

    def __call__(self, shape: Shape, classes: int, seed: int) -> nn.Module: ...


class Network(nn.Sequential):
    """Named layers in a row.

    `features` names the layer whose input is the embedding ("": the last Linear), `dropout_after` the layers behind
    which Monte Carlo dropout may drop although the network itself does not.
    """

    features: str
    dropout_after: tuple[str, ...]

    def __init__(
        self, layers: Mapping[str, nn.Module], features: str = "", dropout_after: tuple[str, ...] = ()
    ) -> None:
        super().__init__(OrderedDict(layers))
        self.features = features
        self.dropout_after = dropout_after


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, random numbers on the CPU are a function of `seed` alone; the caller's global stream does not move."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream(seed, "network"))
        yield


def check_options(mean: Sequence[float] | None, std: Sequence[float] | None, *dropouts: float) -> None:
    """Refuse normalisation that cannot be and dropout rates outside [0, 1)."""
    check_moments(mean, std)
    for rate in dropouts:
        if not 0 <= rate < 1:
            raise InputError(f"a dropout rate lies in [0, 1), got {rate}")


def check_shape(name: str, shape: Shape, classes: int, *, smallest: int = 16, exactly: int = 0) -> None:
    """Refuse images that the network cannot take, and fewer than two classes, saying what would fit."""
    if len(shape) != 3 or any(size < 1 for size in shape):
        raise InputError(f"{name} needs a shape (channels, height, width) of positive numbers, got {tuple(shape)}")
    if classes < 2:
        raise InputError(f"{name} needs at least two classes, got {classes}")
    _, height, width = shape
    if exactly and (height, width) != (exactly, exactly):
        raise InputError(
            f"{name} takes {exactly}x{exactly} images, got {height}x{width}: add data.resize={exactly} "
            f"(--resize {exactly}), or choose another network"
        )
    if min(height, width) < smallest:
        raise InputError(
            f"{name} takes images of at least {smallest}x{smallest}, got {height}x{width}: add data.resize=32 "
            "(--resize 32), or choose another network"
        )


def drop(rate: float) -> nn.Module | None:
    """A dropout layer, or no layer at all at rate 0; it holds no weights, so saved weights fit either way."""
    return nn.Dropout(rate) if rate else None


def assemble(
    layers: Mapping[str, nn.Module | None],
    shape: Shape,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    features: str = "",
) -> Network:
    """The layers in their order, without the absent ones, behind `Normalise` where it is asked for.

    An absent layer (None) is dropout at rate 0; the network remembers behind which layers it would stand.
    """
    present: dict[str, nn.Module] = {}
    if mean is not None and std is not None:
        if len(mean) != shape[0]:
            raise InputError(f"images of {shape[0]} channels need as many means and deviations, got {len(mean)}")
        present["normalise"] = Normalise(mean, std)
    present |= {name: layer for name, layer in layers.items() if layer is not None}
    dropout_after = tuple(before for before, name in pairwise(layers) if layers[name] is None)
    network = Network(present, features, dropout_after)
    names = [name for name, _ in network.named_modules() if name]
    if features and features not in names:
        raise InputError(f"features={features!r} names no layer of the network; {did_you_mean(features, names)}")
    return network
