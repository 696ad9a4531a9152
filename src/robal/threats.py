"""What an adversary may do to an image, as a value: project, steepest step, random start, size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from robal.errors import InputError, did_you_mean

__all__ = ["L2", "Linf"]

ALIASES = {"linf": "Linf", "l_inf": "Linf", "l2": "L2"}

T = TypeVar("T")


@runtime_checkable
class Threat(Protocol):
    """A ball of radius `eps` around each image, in units of pixels that live in [0, 1].

    `eps` arguments of the methods are a [B] tensor of radii, or None for the threat's own.
    """

    @property
    def eps(self) -> float: ...

    def project(self, inputs: Tensor, perturbed: Tensor, eps: Tensor | None = None) -> Tensor:
        """[B, C, H, W]: `perturbed` moved to the nearest point of the ball around `inputs`, then into [0, 1]."""
        ...

    def around(self, inputs: Tensor, eps: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """`project` onto the ball around `inputs`, prepared once for the many steps of an attack."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """[B, C, H, W]: the step of size one in the threat's norm along which a linear function rises most."""
        ...

    def random_start(self, inputs: Tensor, generator: torch.Generator, eps: Tensor | None = None) -> Tensor:
        """[B, C, H, W]: a random point of the ball around `inputs`, in [0, 1]."""
        ...

    def size(self, delta: Tensor) -> Tensor:
        """[B]: the norm of each perturbation."""
        ...


@dataclass(frozen=True)
class Linf:
    """No pixel changes by more than `eps`.

    >>> threat = Linf(0.25)
    >>> threat.project(torch.tensor([[[[0.5, 0.9]]]]), torch.tensor([[[[0.9, 1.5]]]]))
    tensor([[[[0.7500, 1.0000]]]])
    """

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        _check_eps(self.eps, 1.0)

    def project(self, inputs: Tensor, perturbed: Tensor, eps: Tensor | None = None) -> Tensor:
        return self.around(inputs, eps)(perturbed)

    def around(self, inputs: Tensor, eps: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        radius = self.eps if eps is None else _per_example(eps)
        low, high = (inputs - radius).clamp_(min=0.0), (inputs + radius).clamp_(max=1.0)
        return lambda perturbed: torch.clamp(perturbed, low, high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def random_start(self, inputs: Tensor, generator: torch.Generator, eps: Tensor | None = None) -> Tensor:
        radius = self.eps if eps is None else _per_example(eps)
        noise = torch.rand(inputs.shape, generator=generator, device=generator.device).to(inputs.device)
        return (inputs + (2 * noise - 1) * radius).clamp_(0.0, 1.0)

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def __str__(self) -> str:
        return f"Linf, eps = {self.eps:g}"


@dataclass(frozen=True)
class L2:
    """The Euclidean length of the change of an image is at most `eps`.

    >>> L2(0.5).project(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.6, 0.8]]]]))
    tensor([[[[0.3000, 0.4000]]]])
    """

    eps: float = 0.5

    def __post_init__(self) -> None:
        _check_eps(self.eps, float("inf"))

    def project(self, inputs: Tensor, perturbed: Tensor, eps: Tensor | None = None) -> Tensor:
        radius = self.eps if eps is None else eps
        delta = perturbed - inputs
        scale = (radius / self.size(delta).clamp_min(1e-12)).clamp(max=1.0)
        # Clamping to [0, 1] moves every coordinate towards `inputs`, which live there: the ball is never left.
        return (inputs + delta * _per_example(scale)).clamp_(0.0, 1.0)

    def around(self, inputs: Tensor, eps: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return lambda perturbed: self.project(inputs, perturbed, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        # Scaled by the largest entry first, so that gradients near the smallest float do not underflow when squared.
        largest = gradient.flatten(1).abs().amax(1)
        scaled = gradient / _per_example(largest.clamp_min(torch.finfo(gradient.dtype).tiny))
        return scaled / _per_example(self.size(scaled).clamp_min(1e-12))

    def random_start(self, inputs: Tensor, generator: torch.Generator, eps: Tensor | None = None) -> Tensor:
        radius = self.eps if eps is None else eps
        device = generator.device
        noise = torch.randn(inputs.shape, generator=generator, device=device)
        length = torch.rand(len(inputs), generator=generator, device=device) ** (1 / inputs[0].numel())
        step = noise * _per_example(length / self.size(noise).clamp_min(1e-12))
        scale = _per_example(radius) if isinstance(radius, Tensor) else radius
        return (inputs + step.to(inputs.device) * scale).clamp_(0.0, 1.0)

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def __str__(self) -> str:
        return f"L2, eps = {self.eps:g}"


def with_threat(component: T, threat: Threat) -> T:
    """The same component, with `threat` wherever it or a part of it leaves its threat open (`threat=None`)."""
    if not is_dataclass(component) or isinstance(component, type):
        return component
    changes: dict[str, Any] = {}
    for field in fields(component):
        value = getattr(component, field.name)
        if field.name == "threat":
            new: Any = threat if value is None else value
        elif isinstance(value, tuple):
            new = tuple(with_threat(part, threat) for part in value)
        else:
            new = with_threat(value, threat)
        if new is not value and new != value:
            changes[field.name] = new
    return replace(component, **changes) if changes else component


def parse(text: str) -> Threat:
    """`linf:0.3`, `linf:8/255` or `l2:0.5` as a threat.

    >>> parse("linf:8/255") == Linf(8 / 255)
    True
    """
    norm, _, size = text.partition(":")
    if norm.lower() not in ALIASES:
        raise InputError(f"unknown norm {norm!r}; {did_you_mean(norm, ALIASES)} Write linf:0.3 or l2:0.5")
    above, _, below = size.partition("/")
    try:
        eps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{size!r} is not a radius; write linf:0.3, linf:8/255 or l2:0.5") from None
    return Linf(eps) if ALIASES[norm.lower()] == "Linf" else L2(eps)


def _per_example(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _check_eps(eps: float, largest: float) -> None:
    if not 0 <= eps <= largest:
        raise InputError(
            f"eps is a radius in [0, {largest:g}] for pixels in [0, 1]; {eps!r} came. "
            "Divide by 255 if it counts grey levels"
        )
