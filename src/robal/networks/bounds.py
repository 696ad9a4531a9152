"""Interval bound propagation: what a network can answer anywhere in a box of images, followed layer by layer.

The bounds hold, so a label that leads all others by them is certified; they are loose for networks that were not
trained to have tight ones (`robal.objectives.MTLIBP`).

Source: Gowal et al., arXiv 1810.12715 (ICCV 2019), sections 3.2 and 3.3; the last linear layer is merged with the
comparison of classes, as there.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from robal.errors import InputError


@dataclass(frozen=True, eq=False)
class Box:
    """All tensors between `lower` and `upper`, of one shape, [B, ...]."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, centre: Tensor, radius: Tensor) -> Box:
        return cls(centre - radius, centre + radius)

    @property
    def centre(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2

    def through(self, growing: Callable[[Tensor], Tensor]) -> Box:
        """After a map that grows, or stays, in each of its inputs."""
        return Box(growing(self.lower), growing(self.upper))


def answers_in(model: nn.Module, box: Box) -> Box:
    """Bounds of the logits, [B, K] both, over all images of a box, [B, C, H, W] both.

    Dropout is left out, and BatchNorm takes its running statistics, whatever the model's mode. Differentiable in the
    weights and in the box.

    Raises:
        InputError: for a network with a layer whose bounds are not known here, or one that torch.fx cannot trace.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0]]))
    >>> answers = answers_in(model, Box(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)))
    >>> answers.lower.item(), answers.upper.item()
    (-2.0, 1.0)
    """
    return _propagated(model, box, None)


def largest_leads(model: nn.Module, box: Box, labels: Tensor) -> Tensor:
    """[B, K]: at least the most that each class's logit leads the label's by, anywhere in the box; 0 for the label.

    Where all others are negative, no image of the box is misclassified. Used as logits, their cross-entropy with the
    labels is a bound of the worst in the box.

    Args:
        model: as for `answers_in`, which raises the same.
        box: of images, [B, C, H, W].
        labels: [B] int64.
    """
    leads = _propagated(model, box, labels)
    if isinstance(leads, Tensor):
        return leads
    of_label = leads.lower.gather(1, labels[:, None])
    return (leads.upper - of_label).scatter(1, labels[:, None], 0.0)


_graphs: weakref.WeakKeyDictionary[nn.Module, fx.Graph] = weakref.WeakKeyDictionary()


def _propagated(model: nn.Module, box: Box, labels: Tensor | None) -> Any:
    """Bounds of the logits; with labels and a Linear at the end, `largest_leads`."""
    if model not in _graphs:
        try:
            _graphs[model] = fx.Tracer().trace(model)
        except Exception as error:  # torch.fx raises whatever the model's own code raises when it meets a proxy
            raise InputError(f"bounds need a network that torch.fx can trace; here it says: {error}") from None
    known: dict[fx.Node, Any] = {}
    for node in _graphs[model].nodes:
        arguments, options = fx.map_arg((node.args, node.kwargs), lambda before: known[before])
        if node.op == "placeholder":
            known[node] = box
        elif node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(model)
        elif node.op == "output":
            return arguments[0]
        elif node.op == "call_module":
            layer = model.get_submodule(node.target)
            is_last = {user.op for user in node.users} == {"output"}
            if labels is not None and is_last and isinstance(layer, nn.Linear):
                known[node] = _leads(layer, arguments[0], labels)
            else:
                known[node] = _through_layer(layer, arguments[0])
        else:
            known[node] = _through_call(node.target, arguments, options)
    raise AssertionError("a graph ends with its output")


_GROWING = (
    *(nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten),
)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_GROWING_CALLS = {
    *(F.relu, torch.relu, torch.flatten, F.max_pool2d, torch.max_pool2d, F.avg_pool2d, torch.sigmoid, torch.tanh),
    *(F.adaptive_avg_pool2d, torch.mean, "relu", "flatten", "view", "reshape", "mean", "squeeze", "contiguous"),
}
_ASKING = {"size", "dim", len, getattr, operator.getitem}  # of shapes, which are those of either bound


def _through_layer(layer: nn.Module, box: Any) -> Any:
    if isinstance(layer, nn.Linear):
        radius = F.linear(box.radius, layer.weight.abs())
        return Box.around(F.linear(box.centre, layer.weight, layer.bias), radius)
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
        centre = F.conv2d(box.centre, layer.weight, layer.bias, stride, padding, dilation, groups)
        radius = F.conv2d(box.radius, layer.weight.abs(), None, stride, padding, dilation, groups)
        return Box.around(centre, radius)
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
        scale = (layer.running_var + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -layer.running_mean * scale if layer.bias is None else layer.bias - layer.running_mean * scale
        scale, shift = scale[:, None, None], shift[:, None, None]
        return Box.around(box.centre * scale + shift, box.radius * scale.abs())
    if isinstance(layer, _DROPOUTS):
        return box
    if isinstance(layer, _GROWING) and not (isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0):
        return box.through(layer)
    raise _unknown(type(layer).__name__)


def _through_call(target: Any, arguments: Any, options: Any) -> Any:
    boxes = [argument for argument in arguments if isinstance(argument, Box)]
    if not boxes:
        return (
            getattr(arguments[0], target)(*arguments[1:], **options)
            if isinstance(target, str)
            else target(*arguments, **options)
        )
    first, rest = arguments[0], arguments[1:]
    if target in _ASKING and isinstance(first, Box):
        asked = getattr(first.lower, target) if isinstance(target, str) else None
        return asked(*rest, **options) if asked else target(first.lower, *rest)
    if target in _GROWING_CALLS and len(boxes) == 1 and isinstance(first, Box):
        return first.through(
            lambda bound: (
                getattr(bound, target)(*rest, **options) if isinstance(target, str) else target(bound, *rest, **options)
            )
        )
    if target in (operator.add, operator.iadd, torch.add, "add", "add_") and not options:
        one, other = (part if isinstance(part, Box) else Box(part, part) for part in arguments)
        return Box(one.lower + other.lower, one.upper + other.upper)
    if target in (operator.sub, torch.sub) and len(boxes) == 1 and first is boxes[0] and not options:
        return Box(first.lower - rest[0], first.upper - rest[0])
    if target in (operator.mul, torch.mul, operator.truediv, torch.div) and first is boxes[0] and len(boxes) == 1:
        one, other = target(first.lower, *rest), target(first.upper, *rest)
        return Box(torch.minimum(one, other), torch.maximum(one, other))
    raise _unknown(target if isinstance(target, str) else getattr(target, "__name__", str(target)))


def _leads(layer: nn.Linear, box: Box, labels: Tensor) -> Tensor:
    """`largest_leads` after a last layer: one linear map for each pair of a class and the label."""
    differences = layer.weight[None] - layer.weight[labels][:, None]  # [B, K, F]
    leads = torch.einsum("bkf,bf->bk", differences, box.centre)
    leads = leads + torch.einsum("bkf,bf->bk", differences.abs(), box.radius)
    return leads if layer.bias is None else leads + layer.bias - layer.bias[labels][:, None]


def _unknown(what: str) -> InputError:
    return InputError(
        f"the bounds of {what} are not known: a network for bounds is made of convolutions, linear layers, BatchNorm, "
        "pooling, sums and functions that grow, such as ReLU"
    )
