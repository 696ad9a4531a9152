"""The gate of attacks: the only caller of them, and the one place where their contract is checked."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robal.attacks.crafting import crafting
from robal.errors import ContractError, InputError
from robal.images import check_pixels
from robal.networks import check_logits
from robal.pool import check_labels
from robal.threats import Linf, Threat


@runtime_checkable
class Attack(Protocol):
    """Moves images inside its threat so that the model errs."""

    @property
    def threat(self) -> Threat | None: ...

    @property
    def label(self) -> str: ...

    @property
    def passes(self) -> int: ...

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor: ...


def perturb(
    attack: Attack,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    eps: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    """Attack `inputs`, with the model in eval mode and nothing of it, or of `inputs`, changed afterwards.

    Args:
        attack: any `Attack`.
        model: returns logits [B, K]; its mode, gradients' flags and buffers are restored.
        inputs: [B, C, H, W] float32 in [0, 1].
        labels: [B] int64 in [0, K).
        generator: the attack's randomness.
        eps: [B] radii that replace the threat's own, for attacks that take them (PGD, FGSM).
        check: False leaves out the checks of `inputs` and labels, for a caller that made them itself.

    Returns:
        [B, C, H, W] float32, inside the attack's threat and [0, 1].

    Raises:
        InputError: for inputs out of range, NaN, or labels that do not fit.
        ContractError: for an attack that leaves its threat.
    """
    if check:
        if inputs.dtype != torch.float32:
            raise InputError(f"attacks take float32 images in [0, 1]; these are {str(inputs.dtype).split('.')[-1]}")
        check_pixels(inputs)
        if labels.shape != inputs.shape[:1]:
            raise InputError(f"{len(inputs)} images came with labels of shape {list(labels.shape)}")
        if labels.dtype != torch.int64:
            raise InputError(f"labels are int64; these are {str(labels.dtype).split('.')[-1]}")
    if len(inputs) == 0:
        return inputs.clone()
    with crafting(model, inputs) as twin:
        if check:
            with torch.no_grad():
                check_labels(labels, check_logits(twin(inputs[:2])).shape[1])
        own = () if eps is None else (eps,)  # only attacks that take radii are given any
        moved = attack(twin, inputs, labels, generator, *own)
    threat = attack.threat or Linf()
    _check_inside(attack, threat, inputs, moved, eps)
    return moved


def _check_inside(attack: Attack, threat: Threat, inputs: Tensor, moved: Tensor, eps: Tensor | None) -> None:
    if moved.shape != inputs.shape:
        raise ContractError(f"{attack.label} returned {list(moved.shape)} for inputs of {list(inputs.shape)}")
    sizes = threat.size(moved - inputs)
    largest = sizes.max()
    low, high = moved.aminmax()
    allowed = (threat.eps if eps is None else eps) * (1 + 1e-5) + 1e-6
    if not (bool((sizes <= allowed).all()) and low >= 0 and high <= 1):
        raise ContractError(
            f"{attack.label} left its threat ({threat}): the largest change is {largest.item():.4g}, "
            f"pixels reach from {low.item():.4g} to {high.item():.4g}"
        )
