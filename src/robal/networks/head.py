"""The head of a network: the last linear layer, which makes logits of an embedding; all before it is the backbone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robal.errors import InputError
from robal.networks.building import seeded
from robal.networks.layout import home_of
from robal.networks.modes import frozen


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last nn.Linear and its name. Raises InputError for a network without any.

    >>> head_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))[0]
    '2'
    """
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not found:
        raise InputError("the network has no nn.Linear that could be its head")
    return found[-1]


def head_makes_logits(model: nn.Module, images: Tensor) -> bool:
    """Whether the model's output is its head's, with nothing after it, as these images show.

    Args:
        model: anything.
        images: [B, C, H, W] uint8, or float32 in [0, 1]; B >= 1.
    """
    try:
        _, head = head_of(model)
    except InputError:
        return False
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda _, __, output: seen.append(output))
    pixels = images.to(home_of(model))
    try:
        with frozen(model), torch.no_grad():
            logits = model(pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels)
    finally:
        handle.remove()
    return len(seen) == 1 and torch.equal(seen[0], logits)


def with_one_more_class(model: nn.Module, seed: int) -> tuple[nn.Module, int]:
    """A copy that tells one class more apart, with fresh weights for it, a function of the seed; its number."""
    _, head = head_of(model)
    with seeded(seed):
        wider = nn.Linear(head.in_features, head.out_features + 1, head.bias is not None)
    wider = wider.to(head.weight.device, head.weight.dtype)
    with torch.no_grad():
        wider.weight[:-1] = head.weight
        if head.bias is not None:
            wider.bias[:-1] = head.bias
    return _with_head(model, wider), head.out_features


def without_last_class(model: nn.Module) -> nn.Module:
    """A copy that has forgotten its last class."""
    _, head = head_of(model)
    narrower = nn.Linear(head.in_features, head.out_features - 1, head.bias is not None)
    narrower = narrower.to(head.weight.device, head.weight.dtype)
    with torch.no_grad():
        narrower.weight.copy_(head.weight[:-1])
        if head.bias is not None:
            narrower.bias.copy_(head.bias[:-1])
    return _with_head(model, narrower)


def _with_head(model: nn.Module, head: nn.Linear) -> nn.Module:
    changed = copy.deepcopy(model)
    name, before = head_of(changed)
    head.train(before.training)
    if not name:
        return head
    changed.set_submodule(name, head)
    return changed


def backbone_of(model: nn.Module) -> nn.Module:
    """A copy that returns embeddings, [B, d], instead of logits: its head is gone."""
    changed = copy.deepcopy(model)
    name, head = head_of(changed)
    if not name:
        return nn.Flatten()
    changed.set_submodule(name, nn.Identity().train(head.training))
    return changed
