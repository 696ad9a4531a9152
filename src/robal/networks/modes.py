"""A model is borrowed, not taken: whatever the body does, its modes, flags and buffers come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode and no parameter gradients inside; afterwards all is as before, also when the body raises.

    Restored: each submodule's training flag, each parameter's requires_grad, and the values of all buffers
    (BatchNorm's statistics among them; eval mode leaves them alone, but a model's own forward need not).
    Gradients with respect to the inputs flow as ever. Yields the model itself.
    """
    flags = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        model.eval()
        model.requires_grad_(False)
        yield model
    finally:
        for module, training in flags:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
        for module, name, buffer, saved in buffers:
            _restore(module, name, buffer, saved)


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that drop while they train; dropout that a model applies as a function is not among them."""
    return [layer for layer in model.modules() if isinstance(layer, _DROPOUTS)]


def _restore(module: nn.Module, name: str, buffer: torch.Tensor, saved: torch.Tensor) -> None:
    now = module._buffers.get(name)
    if now is None or now.shape != saved.shape:  # the body replaced it: put the first tensor back in its place
        module._buffers[name] = now = buffer
    saved = saved.to(now.device)
    if not torch.equal(now, saved):
        with torch.no_grad():
            now.copy_(saved)
