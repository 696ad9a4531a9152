"""What training minimises: one loss per example, from a model, a batch and whatever it learns beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robal.pool import Examples


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch as an objective sees it.

    Args:
        inputs: [B, C, H, W] float32 in [0, 1], augmented.
        labels: [B] int64.
        weights: [B] float32; the trainer multiplies the losses by them.
        unlabelled: [U, C, H, W] images without labels, or None.
        meta: inputs and labels of a meta batch, or None.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor
    unlabelled: Tensor | None = None
    meta: tuple[Tensor, Tensor] | None = None


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass that turns a batch into losses."""

    @property
    def passes(self) -> int:
        """Gradient evaluations (forward and backward passes) an example costs, crafting included."""
        ...

    def begin(self, model: nn.Module, examples: Examples) -> nn.Module | None:
        """A companion that holds everything learned beside the model; None where nothing is."""
        ...

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        """[B], one loss per example, differentiable in the model's parameters. The model is in training mode."""
        ...
