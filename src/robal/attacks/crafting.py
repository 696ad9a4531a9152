"""The model as an attack should see it: frozen, with BatchNorm folded into its convolutions, in the fastest layout.

An attack calls the model forty times with the same weights, so a twin of the model is worth preparing: the affine map
that BatchNorm is in eval mode is folded into the convolution before it, weights lie in channels_last (twice as fast on
a CPU), a small convolution and the pooling after it are one step (`blocked`: twice as fast again), and no parameter
asks for a gradient. The twin of a model is traced once (torch.fx) and refreshed from the model's weights before each
use. A model that cannot be traced, or whose twin answers or is differentiated otherwise (it is random, or changes with
Python state), is attacked itself.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robal.attacks.blocked import Pooled, block
from robal.networks import answering_in_float32, channels_last, frozen


@dataclass
class _Twin:
    module: fx.GraphModule
    folded: list[tuple[str, str]]  # (convolution, the BatchNorm folded into it)
    tensors: list[str]  # parameters and buffers that are simply copied
    shapes: dict[str, torch.Size]  # of the model's tensors, by which a model whose layers changed is noticed


_twins: weakref.WeakKeyDictionary[nn.Module, _Twin | None] = weakref.WeakKeyDictionary()


@contextmanager
def crafting(model: nn.Module, probe: Tensor) -> Iterator[nn.Module]:
    """The twin of `model` inside the block, or `model` itself, frozen, where it has none.

    Args:
        model: anything; afterwards its mode, `requires_grad` and buffers are what they were.
        probe: [B, C, H, W], a few inputs on which twin and model must agree.
    """
    with frozen(model):
        twin = _twin_of(model)
        if twin is not None:
            with torch.autocast(probe.device.type, enabled=False):  # folding and comparing need all digits
                _refresh(twin, model)
                if not _agree(model, twin, probe[:4]):
                    twin = None
        yield model if twin is None else twin.module


def _agree(model: nn.Module, twin: _Twin, few: Tensor) -> bool:
    """Whether both give the same logits and the same gradients, asked again at each use.

    Tracing follows what a forward pass computes, and loses a backward pass of its own (torch.autograd.Function) and a
    no_grad inside, which may come and go with the model's Python state: such a twin would be attacked with another
    gradient than the model has. Asking costs 4 % of a PGD-10 on LeNet-5 with 128 images on a CPU.
    """
    noise = torch.rand(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
    # With noise, because in flat regions maximum pooling may take either of two equal pixels.
    probe = 0.5 * few + 0.5 * noise
    wanted, ours = _logits_and_gradient(model, probe)
    try:
        # `Pooled` goes another way with a handful of images than with a batch, and the batch's is to be tried.
        times = 4 if any(type(layer) is Pooled for layer in twin.module.modules()) else 1
        got, theirs = _logits_and_gradient(twin.module, probe.repeat(times, 1, 1, 1))
        got, theirs = got[: len(wanted)], None if theirs is None else theirs[: len(probe)]
    except RuntimeError:  # the model's own code may not bear the other memory layout
        return False
    if wanted.shape != got.shape or not torch.allclose(wanted, got, 1e-3, 1e-4):
        return False
    return ours is not None and theirs is not None and bool((ours - theirs).norm() <= 0.1 * ours.norm())


def _logits_and_gradient(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gradient is of a weighted sum of the logits with respect to the inputs; None where there is none."""
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        logits = module(leaf.clone())
        if not logits.requires_grad:
            return logits, None
        weights = torch.linspace(-1.0, 1.0, logits.shape[-1], device=logits.device, dtype=logits.dtype)
        return logits.detach(), torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)[0]


def _twin_of(model: nn.Module) -> _Twin | None:
    twin = _twins.get(model)
    if model not in _twins or (twin is not None and twin.shapes != _shapes(model)):
        try:
            twin = _trace(model)
        except Exception:  # torch.fx raises whatever the model's own code raises when it meets a proxy
            twin = None
        _twins[model] = twin
    if twin is not None:
        here = next(iter(model.parameters()), None)
        there = next(iter(twin.module.parameters()), None)
        if here is not None and there is not None and here.device != there.device:
            twin.module.to(here.device)
    return twin


def _trace(model: nn.Module) -> _Twin:
    """A copy of the (eval mode) model without the BatchNorms that follow a convolution, small poolings blocked."""
    copied = copy.deepcopy(model)
    module = fx.GraphModule(copied, fx.Tracer().trace(copied))
    module.eval().requires_grad_(False)
    modules = dict(module.named_modules())
    folded = []
    for node in list(module.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if (
            before.op == "call_module"
            and type(modules[before.target]) is nn.Conv2d
            and len(before.users) == 1
            and modules[node.target].track_running_stats
        ):
            folded.append((before.target, node.target))
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
    if len({name for pair in folded for name in pair}) != 2 * len(folded):
        raise ValueError("a layer is used twice")
    for conv_name, _ in folded:
        conv = modules[conv_name]
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
    block(module)
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    channels_last(module)
    answering_in_float32(module)
    touched = {f"{conv}.{part}" for conv, _ in folded for part in ("weight", "bias")}
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in touched]
    return _Twin(module, folded, names, _shapes(model))


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def _refresh(twin: _Twin, model: nn.Module) -> None:
    """Copy the model's present weights into the twin, folding as they go."""
    source = dict(model.named_parameters()) | dict(model.named_buffers())
    target = dict(twin.module.named_parameters()) | dict(twin.module.named_buffers())
    for name in twin.tensors:
        if name in source:
            target[name].copy_(source[name])
    for conv_name, norm_name in twin.folded:
        norm: Any = model.get_submodule(norm_name)
        weight, bias = fuse_conv_bn_weights(
            source[f"{conv_name}.weight"],
            source.get(f"{conv_name}.bias"),
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        target[f"{conv_name}.weight"].copy_(weight)
        target[f"{conv_name}.bias"].copy_(bias)
