"""DeepFool: the way to the nearest decision boundary, for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robal.attacks.answers import classes_of
from robal.attacks.crafting import crafting
from robal.errors import InputError
from robal.images import check_pixels
from robal.threats import per_example

Norm = Literal["l2", "linf"]


@dataclass(frozen=True, eq=False)
class Fooled:
    """What DeepFool found for B images.

    Args:
        adversaries: [B, C, H, W] float32, the first point on the way that the model classifies otherwise than the
            image; the image itself where there was none.
        distance: [B] float32, the norm of adversary - image, in units of pixels; infinity where there was none.
        flipped: [B] bool, whether there was one.
    """

    adversaries: Tensor
    distance: Tensor
    flipped: Tensor


@dataclass(frozen=True)
class DeepFool:
    """Step to the nearest class boundary of the linearised model, and again, until the prediction changes.

    In each step, with f_k = z_y - z_k the lead of the predicted class y over class k and w_k = ∇(z_k - z_y),

        l = argmin_k f_k / ‖w_k‖*,    r ← r + f_l / ‖w_l‖₂² · w_l  (L2),   r ← r + f_l / ‖w_l‖₁ · sign(w_l)  (L∞),

    and the model is asked at x + (1 + overshoot) · r. ‖·‖* is the dual norm: L2's own, L1 for L∞. It has no threat,
    so it is no `Attack`: it seeks the smallest change, however large that is.

    Args:
        norm: in which the boundary shall be near, "l2" or "linf".
        steps: at most so many.
        overshoot: by how much of r the boundary is passed; with 0 the adversary lies on it, and rounding decides.
        classes: only the so many most likely classes count, the predicted one included; None: all.
        clip: stay in [0, 1].

    Calling it takes a model, left as it was, and inputs, [B, C, H, W] float32 in [0, 1]; it gives a `Fooled`. Where no
    class has a gradient to follow (a constant model), the image is reported as not flipped. A point at which the model
    answers NaN is classified otherwise; an image at which it does so has no class to lose, and is not flipped. Raises
    InputError for inputs that are no images in [0, 1].

    Differs from the paper: f_l grows by a hundred thousandth of the largest logit, so that rounding does not keep a
    point on the boundary for ever. With clip, where the paper says nothing, the step is taken over the pixels that
    can still move (those at 0 or 1 whose gradient points outside cannot); the first one goes half the way, which ends
    nearer, as gradients turn; and a step that gains less than a quarter of the lead is followed by one twice as long.
    Without clip there is none of that.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, arXiv 1511.04599, algorithm 2 and section 3.3.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> DeepFool(overshoot=0.0)(model, torch.tensor([[[[0.75, 0.25]]]])).distance  # (2.25 - 1) / ‖(3, -4)‖ = 1.25 / 5
    tensor([0.2500])
    """

    norm: Norm = "l2"
    steps: int = 50
    overshoot: float = 0.02
    classes: int | None = 10
    clip: bool = True

    def __post_init__(self) -> None:
        check_norm("DeepFool", self.norm)
        if self.steps < 1:
            raise InputError(f"DeepFool needs at least one step; {self.steps} came")
        if not 0 <= self.overshoot < float("inf"):
            raise InputError(f"DeepFool's overshoot is a share of the way, 0 or more; {self.overshoot} came")
        if self.classes is not None and self.classes < 2:
            raise InputError(f"DeepFool needs classes >= 2, the predicted one and a rival; {self.classes} came")

    def __call__(self, model: nn.Module, inputs: Tensor) -> Fooled:
        check_pixels(inputs)
        if inputs.dtype != torch.float32:
            raise InputError(f"DeepFool takes float32 images in [0, 1]; these are {str(inputs.dtype).split('.')[-1]}")
        adversaries = inputs.clone()
        flipped = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        if len(inputs):
            with crafting(model, inputs) as twin, torch.no_grad():
                self._search(twin, inputs, adversaries, flipped)
                if flipped.any():  # what counts is the model itself, from which its twin differs by rounding
                    found = flipped.nonzero().flatten()
                    own, moved = (classes_of(model(part[found])) for part in (inputs, adversaries))
                    flipped[found] = own != moved
                    adversaries[~flipped] = inputs[~flipped]
        distance = size(adversaries - inputs, self.norm)
        return Fooled(adversaries, distance.masked_fill(~flipped, torch.inf), flipped)

    def _search(self, model: nn.Module, inputs: Tensor, adversaries: Tensor, flipped: Tensor) -> None:
        """Write what is found into `adversaries` and `flipped`. Images leave the batch as soon as they are done."""
        start, moved, total = inputs, inputs, torch.zeros_like(inputs)
        live = torch.arange(len(inputs), device=inputs.device)
        stuck = torch.zeros_like(flipped)
        before, push = torch.full((2, len(inputs)), torch.inf, device=inputs.device)
        order = most_likely(model(inputs), self.classes)
        for step in range(self.steps + 1):
            logits, moved = _with_graph(model, moved)
            turned = (classes_of(logits) != order[:, 0]) & moved.detach().flatten(1).isfinite().all(1)
            adversaries[live[turned]] = moved.detach()[turned]
            flipped[live[turned]] = True
            left = ~(turned | stuck)
            if step == self.steps or not left.any():
                break
            if not left.all():
                parts = (live, start, moved.detach(), total, order, before, push)
                live, start, moved, total, order, before, push = (part[left] for part in parts)
                logits, moved = _with_graph(model, moved)  # a forward pass costs less than K backward ones for nothing
            if order.shape[1] < 2 or not logits.requires_grad:
                break  # one class, or a model that does not look at its inputs
            gap, gradient, dual = nearest_boundary(logits, moved, order, self.norm, self.clip)
            stuck = dual == 0
            if self.clip:
                among = logits.detach().gather(1, order)
                lead = among[:, 0] - among[:, 1:].amax(1)
                slow = lead > 0.75 * before
                push = torch.full_like(lead, 0.5) if step == 0 else torch.where(slow, 2 * push, push.clamp_min(1.0))
                before = lead
            else:
                push = torch.ones_like(gap)
            length = push * (gap + 1e-5 * logits.detach().abs().amax(1).clamp_min(1e-30)) / dual.where(~stuck, 1.0)
            if self.norm == "l2":
                total = total + gradient * per_example(length / dual.where(~stuck, 1.0))
            else:
                total = total + gradient.sign() * per_example(length)
            if self.clip:
                total = torch.clamp(total, -start, 1 - start)
                moved = (start + (1 + self.overshoot) * total).clamp_(0.0, 1.0)
            else:
                moved = start + (1 + self.overshoot) * total


def nearest_boundary(
    logits: Tensor, inputs: Tensor, order: Tensor, norm: Norm = "l2", inside: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the linearised boundaries between each image's class and its rivals, the nearest, f_k / ‖w_k‖*.

    Args:
        logits: [B, K], with their graph.
        inputs: [B, C, H, W] float32, what the graph begins with.
        order: [B, R] int64: each image's own class, then its rivals.
        norm: of the distance.
        inside: only pixels count that can follow w_k without leaving [0, 1].

    Returns:
        The lead f_k = z_y - z_k over the rival of the nearest boundary, [B]; the gradient w_k = ∇(z_k - z_y),
        [B, C, H, W], 0 where a pixel does not count; and its dual norm, [B]. All 0 where no rival has a gradient.
    """
    with torch.enable_grad():
        rises = (logits.gather(1, order[:, 1:]) - logits.gather(1, order[:, :1])).unbind(1)
        sums = [rise.sum() for rise in rises]
    values = inputs.detach()
    if inside:
        low = torch.where(values <= 0, 0.0, -torch.inf)
        high = torch.where(values >= 1, 0.0, torch.inf)
    nearest = torch.full_like(logits[:, 0].detach(), torch.inf)
    gap, dual, gradient = torch.zeros_like(nearest), torch.zeros_like(nearest), torch.zeros_like(values)
    for rise, total in zip(rises, sums, strict=True):
        (towards,) = torch.autograd.grad(total, inputs, retain_graph=True)
        if inside:
            towards = torch.clamp(towards, low, high)
        length = size(towards, "l2") if norm == "l2" else towards.flatten(1).abs().sum(1)
        lead = -rise.detach()
        distance = torch.where((length > 0) & length.isfinite(), lead / length, torch.inf)
        better = distance < nearest  # never for NaN
        nearest, gap, dual = (
            torch.where(better, new, old) for new, old in ((distance, nearest), (lead, gap), (length, dual))
        )
        gradient = torch.where(per_example(better), towards, gradient)
    return gap, gradient, dual


def most_likely(logits: Tensor, classes: int | None) -> Tensor:
    """[B, min(classes, K)] int64: the most likely classes, best first; of equal ones, the lower.

    >>> most_likely(torch.tensor([[0.0, 2.0, 1.0, 2.0]]), 3)
    tensor([[1, 3, 2]])
    """
    return torch.argsort(logits.detach(), dim=1, descending=True, stable=True)[:, :classes]


def size(delta: Tensor, norm: Norm) -> Tensor:
    """[B]: the norm of each perturbation, [B, C, H, W].

    >>> size(torch.tensor([[[[0.3, -0.4]]]]), "l2"), size(torch.tensor([[[[0.3, -0.4]]]]), "linf")
    (tensor([0.5000]), tensor([0.4000]))
    """
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), 2 if norm == "l2" else torch.inf, dim=1)
    return length


def check_norm(name: str, norm: str) -> None:
    """Raises InputError for a norm that is none of `Norm`."""
    if norm not in get_args(Norm):
        raise InputError(f"{name}'s norm is one of {', '.join(get_args(Norm))}; not {norm!r}")


def _with_graph(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        return model(inputs), inputs
