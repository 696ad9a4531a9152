"""Adversarial weight perturbation: the loss is taken where the weights lie worst, within a small distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

Forward = Callable[[Tensor], Tensor]


def hardest_weights(model: nn.Module, loss: Tensor, radius: float) -> dict[str, Tensor]:
    """Changes of the weights, one step up the loss: v = radius · ‖W‖ · g / ‖g‖ with g = ∇loss, for each tensor W.

    Biases and the scales of BatchNorm, which have one dimension, stay; so do frozen weights, and those without a
    gradient, which cannot make the loss worse.

    Args:
        model: whose parameters the loss depends on; unchanged.
        loss: [] a mean loss, differentiable in them; its graph is used up.
        radius: share of each tensor's own length, ≥ 0.

    Returns:
        The changes by the parameters' names; no gradient attached.

    Differs from the released code, which asks for "weight" in the name too.

    Source: Wu, Xia and Wang, NeurIPS 2020, arXiv 2004.05884, with one step.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2.0)  # ‖W‖ = √8
    >>> hardest_weights(model, (model.weight * torch.tensor([[3.0, 4.0]])).sum(), 0.1)["weight"] / 8**0.5
    tensor([[0.0600, 0.0800]])
    """
    chosen = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1 and weight.requires_grad}
    if not chosen:
        return {}
    gradients = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
    changes = {}
    for (name, weight), gradient in zip(chosen.items(), gradients, strict=True):
        if gradient is not None:
            length = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
            changes[name] = gradient / length * (radius * weight.detach().norm())
    return changes


def at_hardest_weights(model: nn.Module, losses: Callable[[Forward], Tensor], weights: Tensor, radius: float) -> Tensor:
    """Losses at p + v, where v is `hardest_weights`; their gradient with respect to p is the one at p + v.

    The pass that finds v works on copies of the buffers: statistics of BatchNorm are updated once, by the pass at
    p + v, as in the released code.

    Args:
        model: in the mode that training has it in.
        losses: maps a forward pass (images to logits) to [B], one loss per example.
        weights: [B] float32, of the examples in the mean that v climbs.
        radius: see `hardest_weights`; 0: the losses at p, at no further cost.

    Returns:
        [B] float32, differentiable in the model's parameters.

    Differs from the released code: weight decay is that of p, not of p + v.
    """
    if radius == 0:
        return losses(model)
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = losses(lambda images: functional_call(model, copies, (images,)))
    changes = hardest_weights(model, (before * weights).mean(), radius)
    parameters = dict(model.named_parameters())
    moved = {name: parameters[name] + change for name, change in changes.items()}
    return losses(lambda images: functional_call(model, moved, (images,)))
