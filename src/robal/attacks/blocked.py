"""Convolution, ReLU and 2x2 maximum pooling in one step: on a CPU twice as fast as one after the other, and as exact.

The four values that a pooling window compares are the same kernel at four offsets. So a k x k convolution of O channels
and the pooling after it are one (k+1) x (k+1) convolution of stride 2 and 4 O channels, its kernel standing in the four
corners, and a maximum over four groups of channels; ReLU and bias commute with the maximum. Tensors lie with the batch
last, [C, H, W, B]: then groups of channels, pixels and their neighbours are long contiguous runs, patches are a copy,
the convolution is one matrix product, and maximum and its gradient are a few passes over memory.

Figures, and where it does not pay: docs/adr/0008-convolve-and-pool-in-one-step.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_PATCHES = 500_000  # floats of patches at a time: 2 MB stay in the cache, and cost no fresh pages of memory
_FEW = 16  # images, below which the overhead of the many small steps outweighs the gain
_POOLING = {  # the arguments of maximum pooling in their order, and what each may be; first the usual
    "kernel_size": (2, (2, 2)),
    "stride": (2, (2, 2), None),
    "padding": (0, (0, 0)),
    "dilation": (1, (1, 1)),
    "ceil_mode": (False,),
    "return_indices": (False,),
}
_mask = torch.ops.aten.threshold_backward.grad_input  # (gradient, x, 0): the gradient where x > 0, else 0


def block(module: fx.GraphModule) -> None:
    """Put one `Pooled` in place of convolution, ReLU and 2x2 maximum pooling, where that was measured to be faster.

    That is a 5x5 convolution of 1 to 3 channels into at most 12, and one of at most 6 into 16 that follows another
    `Pooled`. Elsewhere the libraries' own convolutions win. Dropout goes too: in eval mode it does nothing.

    Args:
        module: in eval mode, its convolutions final (BatchNorm folded). Names of parameters stay as they are.
    """
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        if node.op == "call_module" and type(modules[node.target]) is nn.Dropout:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    uses = Counter(node.target for node in module.graph.nodes)
    pooled = set()
    for conv in list(module.graph.nodes):
        if conv.op != "call_module" or uses[conv.target] > 1:
            continue
        after = _only_user(conv)
        last = _only_user(after) if after else None
        if after is None or last is None or not _fits(modules[conv.target], conv.args[0] in pooled):
            continue
        if {_kind(after, modules), _kind(last, modules)} == {"relu", "pool"}:
            last.replace_all_uses_with(conv)
            module.graph.erase_node(last)
            module.graph.erase_node(after)
            module.set_submodule(conv.target, Pooled(modules[conv.target]))
            pooled.add(conv)


def _fits(layer: nn.Module, follows: bool) -> bool:
    return (
        type(layer) is nn.Conv2d
        and isinstance(layer.weight, nn.Parameter)  # not the result of a hook
        and layer.kernel_size == (5, 5)
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.padding in ((0, 0), (1, 1), (2, 2))
        and layer.in_channels <= (6 if follows else 3)
        and layer.out_channels <= (16 if follows else 12)
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _kind(node: fx.Node, modules: Mapping[str, Any]) -> str:
    """What the node does: "relu"; "pool", a 2x2 maximum pooling that is nothing more; or ""."""
    layer = modules[str(node.target)] if node.op == "call_module" else None
    if type(layer) is nn.ReLU or node.target in (F.relu, torch.relu, "relu"):
        return "relu"
    if type(layer) is nn.MaxPool2d:
        options: Mapping[str, Any] = vars(layer)
    elif node.target in (F.max_pool2d, torch.max_pool2d):
        options = dict(zip(("input", *_POOLING), node.args, strict=False)) | node.kwargs
    else:
        return ""
    return "pool" if all(options.get(name, known[0]) in known for name, known in _POOLING.items()) else ""


class Pooled(nn.Module):
    """max_pool2d(relu(conv2d(x)), 2), the same numbers up to rounding; of equal pixels the first has the gradient.

    It is the three layers themselves where that is faster or all that works: for few images, off the CPU, under
    autocast, inside torch.func, for gradients of weights and for gradients of gradients.

    Args:
        conv: a convolution with an odd kernel, stride 1 and the same padding on all sides; its tensors are taken over.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.padding = conv.weight, conv.bias, int(conv.padding[0])

    def forward(self, inputs: Tensor) -> Tensor:
        if (
            inputs.ndim != 4
            or len(inputs) < _FEW
            or inputs.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")
            or _is_transformed(inputs)
            or self.weight.requires_grad
        ):
            return _plain(inputs, self.weight, self.bias, self.padding)
        return _Blocked.apply(inputs, self.weight, self.bias, self.padding)


def _is_transformed(tensor: Tensor) -> bool:
    """Whether torch.func, or autograd for many gradients at once, looks through this tensor at something else."""
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(tensor)


def _plain(inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return F.max_pool2d(F.relu(F.conv2d(inputs, weight, bias, padding=padding)), 2)


def _corners(weight: Tensor) -> Tensor:
    """[O, C, k, k] -> [4 O, C (k+1)²]: the kernel in each corner of a larger one, zeros beside it."""
    outs, ins, k, _ = weight.shape
    large = weight.new_zeros(2, 2, outs, ins, k + 1, k + 1)
    down, right, out, one, _, _ = large.stride()
    # A view whose first two steps also move one row or one column: the corner (a, b) starts at pixel (a, b).
    large.as_strided((2, 2, outs, ins, k, k), (down + k + 1, right + 1, out, one, k + 1, 1)).copy_(weight)
    return large.view(4 * outs, -1)


def _batch_last(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [C, H, W, B], contiguous."""
    lying = images.permute(1, 2, 3, 0)
    # As a matrix, because transposing one is several times faster than permuting four axes.
    return lying if lying.is_contiguous() else images.flatten(1).t().contiguous().view(lying.shape)


def _matrix(tensor: Tensor) -> Tensor:
    """[..., r, w, B] -> [., r w B], a view."""
    return tensor.view(tensor.shape[:-3].numel(), -1)


def _bands(best: Tensor, ins: int, half: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """A few rows of the pooled image at a time, so that all at work stays in the cache.

    Args:
        best: [O, h, w, B], the pooled image.
        ins: C, the channels that come in.
        half: (k + 1) / 2.

    Returns:
        The rows, and memory that serves again and again, for their patches [C, half, 2, half, 2, r, w, B], the four
        values of each window [2, 2, O, r, w, B] (above or below, left or right) and two of them [2, O, r, w, B].
    """
    outs, high, wide, batch = best.shape
    step = max(1, min(high, _PATCHES // (4 * ins * half**2 * wide * batch)))
    patches = best.new_empty(ins, half, 2, half, 2, step, wide, batch)
    four, two = (best.new_empty(*lead, outs, step, wide, batch) for lead in ((2, 2), (2,)))
    for start in range(0, high, step):
        rows = slice(start, min(high, start + step))
        few = slice(rows.stop - start)
        yield rows, patches[..., few, :, :], four[..., few, :, :], two[..., few, :, :]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        outs, ins, k, _ = weight.shape
        pixels = _batch_last(inputs)
        if padding:
            pixels = F.pad(pixels, (0, 0, *[padding] * 4))
        windows = pixels.unfold(1, k + 1, 2).unfold(2, k + 1, 2).permute(0, 4, 5, 1, 2, 3)  # [C, k+1, k+1, h, w, B]
        best = pixels.new_empty(outs, *windows.shape[3:])
        differentiated = ctx.needs_input_grad[0]
        # By how much the right of each pair leads, above and below, and then the better of the lower two.
        lead = pixels.new_empty(3 if differentiated else 0, *best.shape)
        corners = _corners(weight)
        for rows, patches, four, two in _bands(best, ins, (k + 1) // 2):
            patches.view(*windows.shape[:3], *patches.shape[-3:]).copy_(windows[:, :, :, rows])
            torch.mm(corners, _matrix(patches), out=_matrix(four))
            torch.maximum(four[:, 0], four[:, 1], out=two)
            torch.maximum(two[0], two[1], out=best[:, rows])
            if differentiated:
                torch.sub(four[:, 1], four[:, 0], out=lead[:2, :, rows])
                torch.sub(two[1], two[0], out=lead[2, :, rows])
        if bias is not None:
            best.add_(bias.view(-1, 1, 1, 1))
        best.relu_()
        ctx.padding = padding
        ctx.save_for_backward(inputs, weight, bias, corners, best, lead)
        return best.permute(3, 0, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inputs, weight, bias, corners, best, lead = ctx.saved_tensors
        if torch.is_grad_enabled() or _is_transformed(gradient):
            with torch.enable_grad():
                answer = _plain(inputs, weight, bias, ctx.padding)
            (slope,) = torch.autograd.grad(answer, inputs, gradient, create_graph=torch.is_grad_enabled())
            return slope, None, None, None
        ins, half = inputs.shape[1], (weight.shape[-1] + 1) // 2
        _, high, wide, batch = best.shape
        gradient = _batch_last(gradient)
        blocks = best.new_zeros(ins, 2, 2, high + half - 1, wide + half - 1, batch)  # of 2x2 padded pixels
        for rows, patches, four, two in _bands(best, ins, half):
            alive = torch.ops.aten.threshold_backward(gradient[:, rows], best[:, rows], 0.0)
            _mask(alive, lead[2, :, rows], 0.0, grad_input=two[1])
            torch.sub(alive, two[1], out=two[0])
            _mask(two, lead[:2, :, rows], 0.0, grad_input=four[:, 1])
            torch.sub(two, four[:, 1], out=four[:, 0])
            torch.mm(corners.t(), _matrix(four), out=_matrix(patches))
            for i in range(half):
                for j in range(half):
                    blocks[:, :, :, rows.start + i : rows.stop + i, j : j + wide].add_(patches[:, i, :, j])
        return _image(blocks, inputs, ctx.padding), None, None, None


def _image(blocks: Tensor, like: Tensor, padding: int) -> Tensor:
    """[C, 2, 2, h, w, B], the pixels of 2x2 blocks of a padded image -> [B, C, H, W], laid out as `like` is."""
    whole = blocks.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)
    below, right = (size + padding - covered for size, covered in zip(like.shape[2:], whole.shape[1:], strict=False))
    if padding or below or right:  # pixels that no window saw have gradient 0
        whole = F.pad(whole, (0, 0, -padding, right, -padding, below))
    if like.permute(1, 2, 3, 0).is_contiguous():
        return whole.permute(3, 0, 1, 2)
    return whole.flatten(0, 2).t().contiguous().view(like.shape)
