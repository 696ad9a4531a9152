"""What an adversary may do to an image, as a value: project, steepest step, random start, size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from robal.errors import InputError, did_you_mean

__all__ = ["L1", "L2", "Linf"]

ALIASES = {"linf": "Linf", "l_inf": "Linf", "l2": "L2", "l1": "L1"}

T = TypeVar("T")


@runtime_checkable
class Threat(Protocol):
    """A ball of radius `eps` around each image, in units of pixels that live in [0, 1].

    `eps` arguments of the methods are a [B] tensor of radii, or None for the threat's own.
    """

    @property
    def eps(self) -> float: ...

    def project(self, inputs: Tensor, perturbed: Tensor, eps: Tensor | None = None) -> Tensor:
        """[B, C, H, W]: `perturbed` moved into the ball around `inputs` and into [0, 1]."""
        ...

    def around(self, inputs: Tensor, eps: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """`project` onto the ball around `inputs`, prepared once for the many steps of an attack."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """[B, C, H, W]: the step of size one in the threat's norm along which a linear function rises most; see L1."""
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
        radius = self.eps if eps is None else per_example(eps)
        low, high = (inputs - radius).clamp_(min=0.0), (inputs + radius).clamp_(max=1.0)
        return lambda perturbed: torch.clamp(perturbed, low, high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def random_start(self, inputs: Tensor, generator: torch.Generator, eps: Tensor | None = None) -> Tensor:
        radius = self.eps if eps is None else per_example(eps)
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
        return (inputs + delta * per_example(scale)).clamp_(0.0, 1.0)

    def around(self, inputs: Tensor, eps: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return lambda perturbed: self.project(inputs, perturbed, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        # Scaled by the largest entry first, so that gradients near the smallest float do not underflow when squared.
        largest = gradient.flatten(1).abs().amax(1)
        scaled = gradient / per_example(largest.clamp_min(torch.finfo(gradient.dtype).tiny))
        return scaled / per_example(self.size(scaled).clamp_min(1e-12))

    def random_start(self, inputs: Tensor, generator: torch.Generator, eps: Tensor | None = None) -> Tensor:
        radius = self.eps if eps is None else eps
        device = generator.device
        noise = torch.randn(inputs.shape, generator=generator, device=device)
        length = torch.rand(len(inputs), generator=generator, device=device) ** (1 / inputs[0].numel())
        step = noise * per_example(length / self.size(noise).clamp_min(1e-12))
        scale = per_example(radius) if isinstance(radius, Tensor) else radius
        return (inputs + step.to(inputs.device) * scale).clamp_(0.0, 1.0)

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def __str__(self) -> str:
        return f"L2, eps = {self.eps:g}"


@dataclass(frozen=True)
class L1:
    """The absolute changes of an image's pixels sum to at most `eps`.

    Its projection is the nearest point, by Euclid, that lies in the ball and in [0, 1] at once. With u the change,
    c the room that its pixel has towards where u points, and the smallest λ >= 0 for which the sum is at most eps,

        δ = sign(u) · min(max(|u| - λ, 0), c).

    Its steepest step is sparse: equal parts for the twentieth of the pixels with the largest gradient. Along a linear
    function one pixel alone would rise most, but a pixel is soon at 0 or 1, and the rest of the step lost.

    Source: the projection, Croce and Hein, ICML 2021, arXiv 2103.01208, section 2.2; the step, SLIDE by Tramèr and
    Boneh, NeurIPS 2019, arXiv 1904.13000, with its share of pixels q a fixed 0.05.

    >>> L1(0.5).project(torch.tensor([[[[0.5, 0.5, 0.9]]]]), torch.tensor([[[[1.0, 0.6, 1.8]]]]))  # λ = 0.1
    tensor([[[[0.9000, 0.5000, 1.0000]]]])
    """

    eps: float = 10.0

    def __post_init__(self) -> None:
        _check_eps(self.eps, float("inf"))

    def project(self, inputs: Tensor, perturbed: Tensor, eps: Tensor | None = None) -> Tensor:
        radius = torch.full_like(inputs[:, 0, 0, 0], self.eps) if eps is None else eps.to(inputs.dtype)
        moved = perturbed.clamp(0.0, 1.0)
        outside = (self._exact_size(moved - inputs) > radius).nonzero().flatten()
        if len(outside):
            moved[outside] = _nearest_in_l1_and_box(inputs[outside], perturbed[outside], radius[outside])
        return moved

    def around(self, inputs: Tensor, eps: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return lambda perturbed: self.project(inputs, perturbed, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        most = max(1, int(0.05 * flat.shape[1]))
        chosen = flat.abs().topk(most, 1)[1]
        signs = flat.gather(1, chosen).sign()
        signs = signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)
        return torch.zeros_like(flat).scatter_(1, chosen, signs).view_as(gradient)

    def random_start(self, inputs: Tensor, generator: torch.Generator, eps: Tensor | None = None) -> Tensor:
        radius = self.eps if eps is None else per_example(eps)
        device = generator.device
        noise = torch.empty(inputs.shape, device=device).exponential_(generator=generator)
        signs = torch.rand(inputs.shape, generator=generator, device=device) - 0.5
        length = torch.rand(len(inputs), generator=generator, device=device) ** (1 / inputs[0].numel())
        step = noise.copysign(signs) * per_example(length / self.size(noise).clamp_min(1e-12))
        return self.project(inputs, inputs + step.to(inputs.device) * radius, eps)

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def _exact_size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1, dtype=torch.float64)

    def __str__(self) -> str:
        return f"L1, eps = {self.eps:g}"


def _nearest_in_l1_and_box(inputs: Tensor, perturbed: Tensor, radius: Tensor) -> Tensor:
    """The point of the L1 ball and [0, 1] nearest to `perturbed`, where `perturbed`, clipped, lies outside the ball.

    S(λ) = Σ min(max(|u| - λ, 0), c) falls in straight pieces, with a slope of minus the number of pixels between
    their two breakpoints, |u| - c and |u|. Sorting these tells the piece on which S reaches the radius. In
    double precision, since thousands of pixels are added.
    """
    centre, radius = inputs.flatten(1).double(), radius.double().view(-1, 1)
    change = perturbed.flatten(1).double() - centre
    length = change.abs()
    room = torch.where(change > 0, 1 - centre, centre)
    breaks, order = torch.cat([length - room, length], 1).sort(1)
    # +1 where a pixel begins to shrink, -1 where it has arrived at 0.
    between = torch.where(order < length.shape[1], 1, -1).cumsum(1)[:, :-1]
    falls = between * breaks.diff(dim=1)
    beyond = falls.flip(1).cumsum(1).flip(1)  # S at the left end of each piece
    piece = ((beyond > radius).sum(1, keepdim=True) - 1).clamp_min(0)
    left, above, slope = (part.gather(1, piece) for part in (breaks, beyond, between))
    multiplier = (left + (above - radius) / slope.clamp_min(1)).clamp_min(0.0)
    shrunk = torch.minimum((length - multiplier).clamp_min(0.0), room)
    wanted = shrunk.copysign(change).view_as(inputs)
    moved = (inputs + wanted).to(inputs.dtype)
    # Rounding may lengthen a change by a bit; thousands of bits would leave the ball.
    return torch.where((moved - inputs).abs() > wanted.abs(), torch.nextafter(moved, inputs), moved)


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


def scaled(component: T, share: float) -> T:
    """The same component, with the radius of every threat in it, and what grows with it, multiplied by `share`.

    A component with something else to grow has a method `grown(share)`, which gives it at that share.

    >>> scaled(Linf(0.2), 0.5)
    Linf(eps=0.1)
    """
    if not is_dataclass(component) or isinstance(component, type):
        return component
    component = component.grown(share) if hasattr(component, "grown") else component
    changes: dict[str, Any] = {"eps": share * component.eps} if isinstance(component, Threat) else {}
    for field in fields(component):
        value = getattr(component, field.name)
        new = tuple(scaled(part, share) for part in value) if isinstance(value, tuple) else scaled(value, share)
        if new is not value and new != value:
            changes[field.name] = new
    return replace(component, **changes) if changes else component


def parse(text: str) -> Threat:
    """`linf:0.3`, `linf:8/255`, `l2:0.5` or `l1:10` as a threat.

    >>> parse("linf:8/255") == Linf(8 / 255)
    True
    """
    norm, _, size = text.partition(":")
    if norm.lower() not in ALIASES:
        raise InputError(f"unknown norm {norm!r}; {did_you_mean(norm, ALIASES)} (write linf:0.3, l2:0.5 or l1:10)")
    above, _, below = size.partition("/")
    try:
        eps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{size!r} is not a radius; write linf:0.3, linf:8/255, l2:0.5 or l1:10") from None
    kinds: dict[str, Callable[[float], Threat]] = {"Linf": Linf, "L2": L2, "L1": L1}
    return kinds[ALIASES[norm.lower()]](eps)


def per_example(values: Tensor) -> Tensor:
    """[B] as [B, 1, 1, 1], to be multiplied with images."""
    return values.view(-1, 1, 1, 1)


def _check_eps(eps: float, largest: float) -> None:
    if not 0 <= eps <= largest:
        raise InputError(
            f"eps is a radius in [0, {largest:g}] for pixels in [0, 1]; {eps!r} came. "
            "Divide by 255 if it counts grey levels"
        )
