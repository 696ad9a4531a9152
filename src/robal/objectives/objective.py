"""What training minimises: one loss per example, from a model, a batch and whatever it learns beside the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.errors import InputError
from robal.pool import Examples


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch as an objective sees it.

    Args:
        inputs: [B, C, H, W] float32 in [0, 1], augmented.
        labels: [B] int64.
        weights: [B] float32; the trainer multiplies the losses by them.
        unlabelled: [U, C, H, W] images without labels, or None.
        targets: [B, K] float32, probabilities of the classes that take the place of `labels`, or None.
        crafted: [B] bool, examples of the kind "crafted": adversarial examples, which `Adversarial` does not attack
            again; or None where there is none.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor
    unlabelled: Tensor | None = None
    targets: Tensor | None = None
    crafted: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Lesson:
    """What an objective that learns beside the model learns from, before a step.

    Args:
        images: [M, C, H, W] at rest, the meta set: bought images that are not trained on.
        labels: [M] int64.
        place: the number of the step in its epoch, from 0.
        step: (weights by name, gradients by name) -> the weights after a step of the trainer's optimiser, which itself
            stays as it is; differentiable in both.
    """

    images: Tensor
    labels: Tensor
    place: int
    step: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass that turns a batch into losses.

    One that learns beside the model has `learn(model, companion, batch, lesson, generator)`, which the trainer calls
    before each step and which changes the companion alone; `needs_meta`, whether it learns from a meta set; and
    `meta_passes`, how many gradient evaluations it spends on each image of that set once an epoch. Parameters of the
    companion that ask for a gradient are trained with the model's, by the same optimiser.
    """

    @property
    def passes(self) -> int:
        """Gradient evaluations (forward and backward passes) an example costs, crafting included.

        An objective that also looks at `Batch.unlabelled` says in `unlabelled_passes` what one of those costs. One
        with a strength that should grow as eps does has `grown(share)` (see `robal.threats.scaled`).
        """
        ...

    def begin(self, model: nn.Module, examples: Examples) -> nn.Module | None:
        """A companion that holds everything learned beside the model; None where nothing is.

        `examples` may be empty. Training that goes on puts back what the state_dict of an earlier companion held, so
        what follows from the examples belongs into buffers that are not persistent.
        """
        ...

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        """[B], one loss per example, differentiable in the model's parameters. The model is in training mode."""
        ...


def cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """[B]: the cross-entropy with the batch's targets where it has any, with its labels where not.

    >>> batch = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([0]), torch.ones(1), targets=torch.tensor([[0.5, 0.5]]))
    >>> cross_entropy(torch.tensor([[0.0, 1.0986123]]), batch)  # ½ log 4 + ½ log(4/3)
    tensor([0.8370])
    """
    wanted = batch.labels if batch.targets is None else batch.targets
    return F.cross_entropy(logits, wanted, reduction="none", label_smoothing=label_smoothing)


def check_strengths(label_smoothing: float, weight_radius: float) -> None:
    """Raises InputError for a smoothing outside [0, 1) or a radius that is negative or infinite."""
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing lies in [0, 1); {label_smoothing} came")
    if not 0 <= weight_radius < float("inf"):
        raise InputError(f"weight_radius is a share of a weight's length, 0 or more; {weight_radius} came")
