"""Optimisers and learning-rate schedules as values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from robal.errors import InputError

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]  # weights, or torch's groups of them


@runtime_checkable
class Optimiser(Protocol):
    """Builds a torch optimiser."""

    @property
    def lr(self) -> float: ...

    def build(self, parameters: Parameters) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class Adam:
    """Adam. Source: Kingma and Ba, ICLR 2015, arXiv 1412.6980."""

    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum and weight decay."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum lies in [0, 1); {self.momentum} came")

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@runtime_checkable
class Schedule(Protocol):
    """The learning rate, as a factor of the optimiser's, at each step."""

    def factor(self, step: int, total: int, before: int) -> float:
        """In [0, 1] at `step` of `total` of this round's training; `before` steps were taken in earlier rounds."""
        ...

    def momentum(self, step: int, total: int, before: int) -> float | None:
        """The momentum to set, or None to leave it."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    def factor(self, step: int, total: int, before: int) -> float:
        return 1.0

    def momentum(self, step: int, total: int, before: int) -> float | None:
        return None


@dataclass(frozen=True)
class Triangular:
    """Up in a straight line to the peak, then down to zero, once a round.

    Args:
        peak: where the peak lies, as a share of the round's steps, in [0, 1].
    """

    peak: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.peak <= 1:
            raise InputError(f"peak is a share of the steps, in [0, 1]; {self.peak} came")

    def factor(self, step: int, total: int, before: int) -> float:
        here, top = (step + 1) / (total + 1), self.peak
        return here / top if here < top else (1 - here) / (1 - top) if top < 1 else 1.0

    def momentum(self, step: int, total: int, before: int) -> float | None:
        return None


@dataclass(frozen=True)
class Cosine:
    """From the full learning rate down to zero along half a cosine, once a round.

    Source: Loshchilov and Hutter, ICLR 2017, arXiv 1608.03983.
    """

    def factor(self, step: int, total: int, before: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / total))

    def momentum(self, step: int, total: int, before: int) -> float | None:
        return None


@dataclass(frozen=True)
class ReleasedCyclic:
    """The triangle wave of DRE's released code, which runs on through all rounds and is never reset.

    It puts every round at another phase of the wave, so curves over rounds carry its trace: for replication only.

    Args:
        half_cycle: steps from zero to the peak; the release has 2,500 for CIFAR-10.
        base_momentum, max_momentum: momentum runs against the learning rate between them.
    """

    half_cycle: int = 2500
    base_momentum: float = 0.8
    max_momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.half_cycle < 1:
            raise InputError(f"half_cycle counts steps, at least 1; {self.half_cycle} came")

    def factor(self, step: int, total: int, before: int) -> float:
        phase = (before + step) / self.half_cycle % 2
        return phase if phase <= 1 else 2 - phase

    def momentum(self, step: int, total: int, before: int) -> float | None:
        return self.max_momentum - (self.max_momentum - self.base_momentum) * self.factor(step, total, before)


def _check(lr: float, weight_decay: float) -> None:
    if not lr > 0 or not weight_decay >= 0:
        raise InputError(f"lr must be positive and weight_decay 0 or more; {lr} and {weight_decay} came")
