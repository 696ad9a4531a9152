"""Checks of a defence that look at the model itself: its outputs, its forward pass and its input gradients.

Each is a function (model, inputs, labels, threat, seed) -> `Finding`. The model is borrowed: it is looked at in eval
mode and is afterwards what it was, and so is the global random stream, even where the model's forward draws from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.networks import frozen
from robal.seeds import generator, stream
from robal.threats import Threat

SAME = 1e-4  # relative change of logits that is rounding: AutoAttack's own bound for randomised models
CODES = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}  # all ways to a gradient end in one of them


@dataclass(frozen=True)
class Finding:
    """What one check of a defence found.

    Args:
        name: the claim that was checked, "deterministic".
        passed: the claim holds. False does not prove a defence worthless: it says that attacks meet an obstacle which
            is not robustness, so that robust accuracies measured with them may be too high.
        measured: the figures it was judged by, each with its name; shares in [0, 1].
        meaning: what it means where the claim does not hold.
        advice: what to do then.

    >>> print(Finding("deterministic", False, {"images whose class changed": 0.25}, "The model draws.", "Average."))
    FLAGGED deterministic: images whose class changed 0.25. The model draws. Average.
    >>> print(Finding("deterministic", True, {"images whose class changed": 0.0}, "The model draws.", "Average."))
    passed deterministic: images whose class changed 0.
    """

    name: str
    passed: bool
    measured: dict[str, float]
    meaning: str
    advice: str

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.measured.items())
        return (
            f"passed {self.name}: {figures}."
            if self.passed
            else (f"FLAGGED {self.name}: {figures}. {self.meaning} {self.advice}")
        )


Check = Callable[[nn.Module, Tensor, Tensor, Threat, int], Finding]


@contextmanager
def borrowed(model: nn.Module, seed: int, name: str) -> Iterator[nn.Module]:
    """`frozen`, and beside it the weights and the global random stream, which a model's own forward may change.

    Inside, the global stream is a function of (seed, name): a model that draws from it still gives the same finding.
    No parameter asks for a gradient, so that forward passes keep no graph though gradients are enabled: under
    `no_grad`, models that differentiate inside their forward would fail instead of being found. Convolutions on a GPU
    keep all of float32: rounded to TF32 (cuDNN's default), small steps drown.
    """
    weights = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    rounded = torch.backends.cudnn.allow_tf32
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(stream(seed, "check", name))
        torch.backends.cudnn.allow_tf32 = False
        try:
            with frozen(model):
                yield model
        finally:
            torch.backends.cudnn.allow_tf32 = rounded
            with torch.no_grad():
                for parameter, saved in weights:
                    if not torch.equal(parameter, saved):
                        parameter.copy_(saved)


def logits_returned(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """The model returns logits, not probabilities: no output that lies in [0, 1] throughout.

    Croce and Hein 2020 check rows that sum to 1; a sigmoid's, which do not, saturate just as a softmax's.
    """
    with borrowed(model, seed, "logits"):
        outputs = model(inputs).detach()
    low, high = (float(bound) for bound in outputs.aminmax())
    return Finding(
        "logits returned",
        not (low >= 0 and high <= 1 + 1e-5),
        {
            "lowest output": low,
            "highest output": high,
            "largest distance of a row's sum from 1": float((outputs.double().sum(1) - 1).abs().max()),
        },
        "Every output lies in [0, 1], as if the model ended in a softmax or sigmoid: the cross-entropy of attacks "
        "takes the softmax of probabilities, whose gradient all but vanishes where the model is sure.",
        "Remove the last softmax or sigmoid and evaluate the logits.",
    )


def deterministic(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """Five forward passes over the same images give the same logits: max ‖f(x) − f'(x)‖₂ / ‖f(x)‖₂ <= 1e-4."""
    with borrowed(model, seed, "deterministic"):
        passes = [model(inputs).detach() for _ in range(5)]
    first = passes[0]
    change = max(_difference(first, other) for other in passes[1:])
    flipped = torch.stack([other.argmax(1) != first.argmax(1) for other in passes[1:]]).any(0)
    return Finding(
        "deterministic",
        change <= SAME,
        {"largest relative change of logits": change, "images whose class changed": float(flipped.double().mean())},
        "Two passes over the same images differ (dropout left on, noise, random resizing): an attack climbs the loss "
        "of one draw and is judged by another, and an image is broken or spared by luck.",
        "Switch the randomness off; or, if it is the defence, attack the expectation over it (EOT: average the "
        "gradient over many draws) and judge each image by the mean logits of many passes.",
    )


def batch_independent(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """The logits of an image do not depend on the batch's other images: beside copies or beside negatives, the same."""
    few = inputs[:32]
    logits = []
    for neighbours in (few, 1 - few):
        # Batches of one size, and both times the same random draws, so that neither explains a difference.
        with borrowed(model, seed, "batch"):
            logits.append(model(torch.cat([few, neighbours])).detach()[: len(few)])
    beside_copies, beside_negatives = logits
    change = _difference(beside_copies, beside_negatives)
    flipped = beside_copies.argmax(1) != beside_negatives.argmax(1)
    return Finding(
        "independent of the batch",
        change <= SAME,
        {"largest relative change of logits": change, "images whose class changed": float(flipped.double().mean())},
        "An image's logits change with its neighbours in the batch (BatchNorm that uses batch statistics in eval mode)"
        ": attacked images prop each other up or drag each other down, and the result depends on the batch size.",
        "Use running statistics: model.eval(), and BatchNorm with track_running_stats=True.",
    )


def state_kept(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """`model.eval()` reaches every layer, and a forward pass changes no mode, no buffer and no weight."""
    with borrowed(model, seed, "state"):
        training = [name or "the model" for name, module in model.named_modules() if module.training]
        modes = [module.training for module in model.modules()]
        before = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
        model(inputs)
        switched = [
            name or "the model"
            for (name, module), mode in zip(model.named_modules(), modes, strict=False)
            if module.training != mode
        ]
        after = _tensors(model)
        changed = [
            name
            for name in before.keys() | after.keys()
            if name not in before or name not in after or not _equal(before[name], after[name])
        ]
    culprits = sorted({*training, *switched, *changed})
    return Finding(
        "state kept",
        not culprits,
        {
            "layers that eval() leaves in training mode": len(training),
            "layers whose mode a pass changes": len(switched),
            "buffers and weights that a pass changes": len(changed),
        },
        "A forward pass in eval mode leaves another model behind"
        + (f" ({', '.join(culprits[:3])}{', …' if len(culprits) > 3 else ''})" if culprits else "")
        + ": the attack itself changes what it attacks, and results depend on how many passes came before.",
        "Let forward read state only: no train(), no running statistics and no counters in eval mode.",
    )


def no_autograd_inside(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """Forward computes no gradient of its own: no call of torch.autograd.grad or backward while it runs."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code in CODES

    with borrowed(model, seed, "autograd"):
        previous = sys.getprofile()
        sys.setprofile(count)
        try:
            model(inputs[:8])
        finally:
            sys.setprofile(previous)
    return Finding(
        "no autograd inside",
        calls == 0,
        {"gradients computed in one forward pass": calls},
        "The model optimises something at test time (a dynamic defence, purification by gradient steps): attacks "
        "differentiate through it only in part.",
        "Attack it adaptively: unroll or approximate (BPDA) the inner optimisation, run Square with many queries, and "
        "report the static model beside it.",
    )


def gradients_present(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """The loss gradient ∇ₓ CE(f(x), y) is exactly zero, or not finite, for at most 2 % of the images."""
    with borrowed(model, seed, "gradients present"):
        of_loss = input_gradient(model, inputs, lambda logits: F.cross_entropy(logits, labels, reduction="none"))
        of_margin = input_gradient(model, inputs, lambda logits: margin(logits, labels))
    zero, zero_margin = ((gradient.flatten(1) == 0).all(1).double().mean().item() for gradient in (of_loss, of_margin))
    broken = (~torch.isfinite(of_loss.flatten(1))).any(1).double().mean().item()
    return Finding(
        "gradients present",
        zero <= 0.02 and broken == 0,
        {"zero gradients": zero, "zero gradients of the margin": zero_margin, "gradients not finite": broken},
        "Attacks by gradient cannot move these images: the loss has saturated in float32 (huge logits: the margin then "
        "still has a gradient), or an operation lets none through (rounding, sign, argmax, detach, no_grad).",
        "Attack a loss that does not saturate (DLR, margin; APGD-T), replace the operation by a smooth one on the way "
        "back (BPDA), and run attacks that need no gradient (Square with thousands of queries, transfer).",
    )


def gradients_true(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """A small step changes the margin as its gradient predicts: |Δm − ⟨∇m, δ⟩| <= ½ |⟨∇m, δ⟩|, for 3 of 4 images.

    m(x) = max_{j≠y} f_j(x) − f_y(x), which unlike the cross-entropy does not saturate. δ points along the steepest
    direction, from a random point of the ball, where rounding has no home; it is the smallest step whose effect
    float32 resolves, a thousandth of the largest logit, and at most a hundredth of the radius.
    """
    with borrowed(model, seed, "gradients true"):
        start = threat.random_start(inputs, generator(seed, "check", "start"))
        gradient = input_gradient(model, start, lambda logits: margin(logits, labels))
        logits, direction = model(start).detach(), threat.steepest(gradient)
        largest = logits.abs().amax(1)
        length = (1e-3 * largest / (gradient * direction).flatten(1).sum(1)).nan_to_num(0.0).clamp(max=threat.eps / 100)
        moved = (start + length.view(-1, 1, 1, 1) * direction).clamp(0.0, 1.0)
        after = model(moved).detach()
    predicted = ((moved - start).double() * gradient.double()).flatten(1).sum(1)
    change = margin(after.double(), labels) - margin(logits.double(), labels)
    rounding = 100 * torch.finfo(logits.dtype).eps * largest.double()
    agree = (change - predicted).abs() <= 0.5 * predicted.abs() + rounding
    ratio = (change / predicted)[predicted.abs() > rounding]
    share = float(agree.double().mean())
    return Finding(
        "gradients true",
        share >= 0.75,
        {
            "images that follow the gradient": share,
            "median of change by prediction": float(ratio.median()) if len(ratio) else float("nan"),
        },
        "The gradient is not that of the function (shattered by rounding or quantisation behind a straight-through "
        "estimator, masked, or replaced by a backward pass of its own): attacks are led astray.",
        "Take the gradient of a smooth stand-in (BPDA), widen the step of the attack beyond the rounding, and trust "
        "attacks that need no gradient.",
    )


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """[B]: the highest logit of another class minus the label's; above 0 where the model errs.

    >>> margin(torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    others = logits.scatter(1, labels.view(-1, 1), -torch.inf).amax(1)
    return others - logits.gather(1, labels.view(-1, 1)).squeeze(1)


def input_gradient(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """[B, C, H, W]: ∇ₓ loss(f(x)); zero where the loss does not depend on the inputs."""
    moved = inputs.detach().clone().requires_grad_()
    value = loss(model(moved)).sum()
    if not value.requires_grad:
        return torch.zeros_like(inputs)
    gradient = torch.autograd.grad(value, moved, allow_unused=True)[0]
    return torch.zeros_like(inputs) if gradient is None else gradient


def _difference(first: Tensor, second: Tensor) -> float:
    return float(((first - second).norm(dim=1) / first.norm(dim=1).clamp_min(1e-12)).max())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)
