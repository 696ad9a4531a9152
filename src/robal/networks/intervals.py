"""Interval bound propagation: what the logits can be when every pixel may be anything in an interval of its own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from robal.errors import InputError
from robal.networks.normalise import Normalise


@dataclass(frozen=True, eq=False)
class Bounds:
    """What B boxes of inputs can come to.

    Args:
        low, high: [B, K], between which each logit lies.
        margins: [B, K], below which z_y - z_k does not fall; 0 where k = y.
    """

    low: Tensor
    high: Tensor
    margins: Tensor


class _Box(NamedTuple):
    low: Tensor
    high: Tensor


# Layers and functions that fall nowhere: their bounds are their values at both ends. Types are compared exactly, since
# a subclass may compute something else. All but those that follow `_CURVED` are affine as well.
_CURVED: tuple[Any, ...] = (nn.ReLU, nn.MaxPool2d, torch.relu, F.relu, "relu", F.max_pool2d)
_MONOTONE: tuple[Any, ...] = (
    *_CURVED,
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
    *(nn.Flatten, torch.flatten, "flatten", "view", "reshape", "contiguous"),
    *(nn.Identity, Normalise),  # its deviations are positive
)
_OFF = (nn.Dropout, nn.Dropout2d)  # nothing in eval mode, which is what is bounded
_SUMS = (operator.add, operator.iadd, torch.add)
Moments = Mapping[nn.Module, tuple[Tensor, Tensor]]  # of a BatchNorm2d, mean and variance of its input, [C] each

_KNOWN = "Linear, Conv2d, BatchNorm2d, ReLU, maximum and average pooling, Flatten, Dropout, Identity, Normalise, sums"


def interval_bounds(
    model: nn.Module, low: Tensor, high: Tensor, labels: Tensor, moments: Moments | None = None
) -> Bounds:
    """Send an interval for every pixel through the network, layer by layer, so that nothing possible is left out.

    With centre c = (l + u) / 2 and radius r = (u - l) / 2, an affine layer Wx + b gives the intervals
    Wc + b ± |W|r; a layer that falls nowhere (ReLU, pooling) takes both ends; sums add up. The last layer is elided:

        z_y - z_k ≥ (w_y - w_k)·c + b_y - b_k - |w_y - w_k|·r,

    with c and r before it, which is tighter than low_y - high_k. Linear layers in a row at the end count as one.

    Args:
        model: of Linear, Conv2d, BatchNorm2d, ReLU, maximum and average pooling, Flatten, Dropout, Identity,
            Normalise, and sums of these (residual networks); it is read by torch.fx and need not be a Sequential.
            BatchNorm uses its running statistics, or `moments`, and Dropout is off, in whatever mode the model is.
        low, high: [B, C, H, W] float32 or float64, low ≤ high everywhere; the bounds are computed in their precision.
        labels: [B] int64 in [0, K), the class y of each image.
        moments: mean and variance for BatchNorm2d layers to use in place of their running ones, as in training.

    Returns:
        `Bounds`, of the inputs' dtype; the model's weights may be trained through them.

    Raises:
        InputError: for a box that is none, and for a model that is built of anything else, naming the layer.

    Differs from the paper: its bounds after the last layer are of z_k - z_y, upper ones; ours are of z_y - z_k.

    Source: Gowal et al., arXiv 1810.12715 (2018), section 3, equations 6 and 9 to 11.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0], [1.0]]))
    >>> low, high = torch.full((1, 1, 1, 1), 0.25), torch.full((1, 1, 1, 1), 0.75)
    >>> bounds = interval_bounds(model, low, high, torch.tensor([0]))
    >>> bounds.low.tolist(), bounds.high.tolist(), bounds.margins.tolist()  # (3 - 1) · 0.25 = 0.5, not 0.75 - 0.75 = 0
    ([[0.75, 0.25]], [[2.25, 0.75]], [[0.0, 0.5]])
    """
    with torch.autocast(low.device.type, enabled=False):
        return _bounds(model, low, high, labels, moments or {})


def _bounds(model: nn.Module, low: Tensor, high: Tensor, labels: Tensor, moments: Moments) -> Bounds:
    if low.shape != high.shape or low.dtype != high.dtype or not bool((low <= high).all()):
        raise InputError("interval bounds need low and high of one shape and dtype, low <= high everywhere, no NaN")
    if labels.shape != low.shape[:1]:
        raise InputError(f"{len(low)} boxes came with labels of shape {list(labels.shape)}")
    graph, layers = _read(model)
    before, tail = _linear_tail(graph, layers)
    last, embedded = _propagate(graph, layers, before, _Box(low.clone(), high.clone()), moments)
    if last.low.ndim != 2:
        raise InputError(f"interval bounds need a model that returns logits [B, K]; it returns {list(last.low.shape)}")
    wrong = labels[(labels < 0) | (labels >= last.low.shape[1])]
    if len(wrong):
        classes = last.low.shape[1]
        raise InputError(f"labels must lie in [0, {classes}); {len(wrong)} do not, the first is {int(wrong[0])}")
    if not tail:
        margins = last.low.gather(1, labels[:, None]) - last.high
        return Bounds(last.low, last.high, margins.scatter(1, labels[:, None], 0.0))
    weight, bias = _as_one(tail, embedded.low)
    centre, radius = _centred(embedded)
    columns = []
    for k in range(len(weight)):  # one class at a time: memory is [B, d], never [B, K, d]
        lead = weight[labels] - weight[k]
        columns.append((lead * centre - lead.abs() * radius).sum(1) + bias[labels] - bias[k])
    return Bounds(last.low, last.high, torch.stack(columns, 1))


def is_affine(model: nn.Module) -> bool:
    """Whether the logits are an affine function of the pixels, as far as the kinds of layers say."""
    graph, layers = _read(model)
    return not any(_kind(node, layers) in _CURVED for node in graph.nodes)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is Normalise or super().is_leaf_module(m, module_qualified_name)


def _read(model: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The model's operations in their order, and its layers by name."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # torch.fx raises whatever the model's own code raises when it meets a proxy
        raise InputError(
            f"interval bounds need a network whose layers torch.fx can read; {type(model).__name__} is not: {error}"
        ) from error
    return graph, dict(model.named_modules(remove_duplicate=False))


def _kind(node: fx.Node, layers: dict[str, nn.Module]) -> Any:
    """The type of a layer, the function or the name of the method that a node calls."""
    return type(layers[str(node.target)]) if node.op == "call_module" else node.target


def _propagate(
    graph: fx.Graph, layers: dict[str, nn.Module], watched: fx.Node, box: _Box, moments: Moments
) -> tuple[_Box, _Box]:
    """The intervals of the output, and of one node on the way. Those that nothing needs any more are let go."""
    last_use = {argument: node for node in graph.nodes for argument in node.all_input_nodes}
    values: dict[fx.Node, Any] = {}
    seen = box
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = node.args[0] if values and node.args else box
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise InputError("interval bounds need a model that returns one tensor of logits")
            return values[node.args[0]], seen
        else:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            values[node] = _step(node, layers, args, kwargs, moments)
        if node is watched:
            seen = values[node]
        for argument in node.all_input_nodes:
            if last_use[argument] is node:
                del values[argument]
    raise InputError("interval bounds need a model that returns logits")


def _step(node: fx.Node, layers: dict[str, nn.Module], args: Any, kwargs: Any, moments: Moments) -> Any:
    """What one operation makes of the intervals, or of the sizes, that reach it."""
    kind: Any = _kind(node, layers)
    first: Any = args[0] if args else None
    boxes = [value for value in (*args, *kwargs.values()) if isinstance(value, _Box)]
    if node.op == "call_module":
        layer = layers[str(node.target)]
        if kind in _OFF:
            return first
        affine = _affine(layer, moments)
        if affine:
            centre, radius = _centred(first)
            middle, spread = affine(centre, False), affine(radius, True)
            return _Box(middle - spread, middle + spread)
        if kind in _MONOTONE:
            return _Box(*(kind.forward(layer, end) for end in first))  # past hooks, which need not be monotone
    elif kind in _MONOTONE and len(boxes) == 1 and boxes[0] is first:
        call: Callable[..., Tensor] = getattr(Tensor, kind) if isinstance(kind, str) else kind
        return _Box(*(call(end, *args[1:], **kwargs) for end in first))
    elif kind in _SUMS and len(boxes) == len(args) == 2 and not kwargs:
        return _Box(*(kind(one, other) for one, other in zip(*boxes, strict=True)))
    elif kind == "size" and isinstance(first, _Box):
        return first.low.size(*args[1:])
    elif kind is getattr and isinstance(first, _Box) and args[1] == "shape":
        return first.low.shape
    elif kind is operator.getitem and not boxes:
        return first[args[1]]
    what = f"layer {node.target!r} ({kind.__name__})" if node.op == "call_module" else f"operation {node.name!r}"
    raise InputError(f"interval bounds have no rule for the {what}; they know {_KNOWN}")


def _affine(layer: nn.Module, moments: Moments) -> Callable[[Tensor, bool], Tensor] | None:
    """x -> Wx + b of an affine layer, or x -> |W|x; None for other layers, and those that these rules do not fit."""
    kind: Any = type(layer)
    part: Any = layer
    if kind is nn.Linear:
        return lambda x, size: F.linear(x, *_weights(part, x, size))
    if kind is nn.Conv2d and part.padding_mode == "zeros":
        return lambda x, size: F.conv2d(
            x, *_weights(part, x, size), part.stride, part.padding, part.dilation, part.groups
        )
    if kind is nn.BatchNorm2d and part.running_mean is not None:
        mean, variance = moments.get(layer, (part.running_mean, part.running_var))

        def normalise(x: Tensor, size: bool) -> Tensor:
            scale = (variance.to(x) + part.eps).rsqrt()
            scale = scale if part.weight is None else scale * part.weight.to(x)
            if size:
                return x * scale.abs()[:, None, None]
            shift = 0 if part.bias is None else part.bias.to(x)[:, None, None]
            return (x - mean.to(x)[:, None, None]) * scale[:, None, None] + shift

        return normalise
    return None


def _weights(layer: Any, like: Tensor, size: bool) -> tuple[Tensor, Tensor | None]:
    weight = layer.weight.to(like)
    if size:
        return weight.abs(), None
    return weight, None if layer.bias is None else layer.bias.to(like)


def _centred(box: _Box) -> tuple[Tensor, Tensor]:
    return (box.low + box.high) / 2, (box.high - box.low) / 2


def _linear_tail(graph: fx.Graph, layers: dict[str, nn.Module]) -> tuple[fx.Node, list[nn.Linear]]:
    """The node before the Linear layers that end the network, and those layers, the last one first."""
    node: Any = next(reversed(graph.nodes)).args[0]
    tail: list[nn.Linear] = []
    while isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1:
        layer = layers[str(node.target)]
        if type(layer) is nn.Linear:
            tail.append(layer)
        elif type(layer) not in (*_OFF, nn.Identity):
            break
        node = node.args[0]
    return node, tail


def _as_one(tail: list[nn.Linear], like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [K, d] and bias [K] of Linear layers in a row."""
    weight = tail[0].weight.to(like)
    bias = torch.zeros_like(weight[:, 0]) if tail[0].bias is None else tail[0].bias.to(like)
    for layer in tail[1:]:
        if layer.bias is not None:
            bias = bias + weight @ layer.bias.to(like)
        weight = weight @ layer.weight.to(like)
    return weight, bias
