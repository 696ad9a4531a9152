"""How the logits of an image move with the weights, or with its pixels: the inner products of their gradients.

Whatever is asked of the gradients of several classes at once, such as their lengths, is a function of these products,
and they take K - 1 backward passes for a whole tile, where one gradient an image and class takes K for each image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.func import functional_call
from torch.nn import functional as F

from robal.errors import InputError
from robal.networks import check_logits

CACHED = 2**22  # numbers that are at hand in a CPU's cache: so many of a small network's gradients at once,
AT_ONCE = 8  # of a larger one so many images, which convolutions need to be fast,
FLOATS = 2**26  # and of the largest what fits into 256 MiB

Weights: TypeAlias = Mapping[str, Tensor]
_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer: what came in, the shape of what went out, and where the graph has the gradient for that."""

    layer: nn.Module
    inputs: Tensor
    shape: torch.Size
    edge: GradientEdge


def weight_grams(model: nn.Module, batch: Tensor, part: str = "") -> Iterator[tuple[Tensor, Tensor]]:
    """Inner products of the logits' gradients with respect to the weights, image by image.

    G_kl = ⟨∇θ (z_k - z_K), ∇θ (z_l - z_K)⟩, so that ‖∇θ Σ_k g_k z_k‖² = gᵀ G g for every g that sums to zero, and the
    gradient of a cross-entropy with respect to the logits z does. The gradient of a layer's weights follows from what
    came into the layer and the gradient for what went out, so the backward passes are of whole tiles. They serve where
    all weights belong to layers that `has_known_products` knows and are used only by calling them; else each image
    takes backward passes of its own: slower, and the same.

    Args:
        model: in eval mode. All its floating-point weights count, whether or not they require gradients now.
        batch: [B, C, H, W]. The model gets copies, so that it may work on them in place.
        part: the dotted name of a submodule whose weights alone count; "": all.

    Yields, for as many of the images at a time as memory holds:
        logits [b, K], and G [b, K, K] float64, its last row and column zero.

    Raises InputError where the logits do not depend on these weights, so that every length would be 0.

    >>> model = nn.Linear(2, 2)  # ∇(z_1 - z_2) is (x, 1) for the first row of weights and (-x, -1) for the second
    >>> next(weight_grams(model, torch.tensor([[2.0, 1.0]])))[1]
    tensor([[[12., 0.],
             [ 0., 0.]]], dtype=torch.float64)
    """
    weights = leaves(model, list(model.get_submodule(part).parameters()))
    with torch.enable_grad():
        logits, calls = watch(model, weights, batch[:1])
    used = uses(logits)
    if not any(used[id(weight)] for weight in weights.values()):
        which = (
            f"follow by autograd from none of its {len(weights)} weights" if weights else "do not follow from weights"
        )
        raise InputError(
            f"the logits of {type(model).__name__} {which}, so there is no gradient to take: give a torch model that "
            'computes them from its weights without no_grad or detach, or use EGL(over="inputs"), or a score that '
            "needs no gradients, such as MaxEntropy"
        )
    way = _by_layer if _is_separable(model, weights, used, calls) else _by_image
    floats = sum(call.shape.numel() for call in calls) * logits.shape[-1]
    for images in _parts(batch, logits, floats):
        with torch.enable_grad():
            found = way(model, weights, images)
        yield found[0], F.pad(found[1], (0, 1, 0, 1))


def input_grams(model: nn.Module, batch: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, of the gradients with respect to the pixels."""
    with torch.no_grad():
        logits = model(batch[:1].clone())
    for images in _parts(batch, logits, logits.shape[-1] * batch[:1].numel()):
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = model(leaf.clone())  # what is no leaf may be changed in place
            found = _gradients(logits, [leaf])
        if found is None:
            raise no_input_gradient(model)
        yield logits.detach(), F.pad(products(found[0], found[0]), (0, 1, 0, 1))


def no_input_gradient(model: nn.Module) -> InputError:
    """What to say where gradients with respect to the pixels are asked for in vain."""
    return InputError(
        f"the logits of {type(model).__name__} do not follow from the images by autograd, so there is no gradient to "
        "take: give a torch model that computes them without no_grad, detach or integers, or use a score that needs "
        "no gradients, such as MaxEntropy"
    )


def leaves(model: nn.Module, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """The floating-point ones among `parameters` by their name in `model`, as leaves of a graph of their own.

    Those of convolutions in the plain layout, whatever the model's is: backward passes are faster in it.
    """

    def leaf(parameter: Tensor) -> Tensor:
        found = parameter.detach()
        return (found.clone(memory_format=torch.contiguous_format) if found.ndim == 4 else found).requires_grad_()

    counted = {id(parameter) for parameter in parameters if parameter.is_floating_point()}
    return {name: leaf(parameter) for name, parameter in model.named_parameters() if id(parameter) in counted}


def _parts(batch: Tensor, logits: Tensor, floats: int) -> Sequence[Tensor]:
    """As many images at a time as memory holds; the gradients of one are `floats` numbers, and its products K²."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        check_logits(logits)  # raises
    in_all = floats + 8 * logits.shape[1] ** 2  # in double, and four times before they are summed up
    return batch.split(max(1, min(max(AT_ONCE, CACHED // max(floats, 1)), FLOATS // in_all)))


def _gradients(logits: Tensor, sources: Sequence[Tensor] | Sequence[GradientEdge]) -> list[Tensor] | None:
    """[B, K - 1, ...] for each source: gradients of each logit minus the last; None where a source plays no part."""
    if not logits.requires_grad:
        return None
    others = logits.shape[1] - 1
    found: list[Tensor] = []
    for number in range(others):
        direction = torch.zeros_like(logits)
        direction[:, number], direction[:, -1] = 1.0, -1.0
        gradients = torch.autograd.grad(logits, sources, direction, retain_graph=True, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            return None
        for position, gradient in enumerate(gradients):
            if number == 0:
                found.append(gradient.new_empty((len(gradient), others, *gradient.shape[1:])))
            found[position][:, number] = gradient
    return found


def _nothing(logits: Tensor) -> Tensor:
    others = logits.shape[1] - 1
    return torch.zeros((len(logits), others, others), dtype=torch.float64, device=logits.device)


def watch(
    model: nn.Module, weights: Weights, images: Tensor, layers: Iterable[nn.Module] | None = None
) -> tuple[Tensor, list[Call]]:
    """Logits, in a graph that begins at `weights`, and every call of `layers`; None: of those that own weights."""
    calls: list[Call] = []

    def remember(layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        inputs = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if isinstance(output, Tensor) and output.requires_grad and inputs is not None:
            # The place in the graph and not the tensor, which a ReLU in place would make its own.
            calls.append(Call(layer, inputs.detach(), output.shape, get_gradient_edge(output)))

    watched = {model.get_submodule(name.rpartition(".")[0]) for name in weights} if layers is None else layers
    handles = [layer.register_forward_hook(remember, prepend=True, with_kwargs=True) for layer in watched]
    try:
        # A copy, because a model may normalise its images in place, and they are used again.
        return functional_call(model, dict(weights), (images.clone(),)), calls
    finally:
        for handle in handles:
            handle.remove()


def _is_separable(model: nn.Module, weights: Weights, used: Mapping[int, int], calls: Sequence[Call]) -> bool:
    """Whether every weight is used by calling layers whose products are known, and in no other way.

    `calls` are those for one image, and the image has to be their first dimension.
    """
    called = Counter(call.layer for call in calls)
    for name, weight in weights.items():
        if used[id(weight)] != called[model.get_submodule(name.rpartition(".")[0])]:
            return False  # tied to another layer's, or used by name
    return all(len(call.inputs) <= 1 and has_known_products(call.layer, call.inputs) for call in calls)


def uses(logits: Tensor) -> Counter[int]:
    """How often the graph of `logits` uses each of its leaves, by their id."""
    used: Counter[int] = Counter()
    seen: set[Node] = set()
    left = [logits.grad_fn]
    while left:
        node = left.pop()
        for following, _ in node.next_functions if node is not None else ():
            leaf = getattr(following, "variable", None)
            if leaf is not None:
                used[id(leaf)] += 1
            elif following is not None and following not in seen:
                seen.add(following)
                left.append(following)
    return used


def _by_layer(model: nn.Module, weights: Weights, images: Tensor) -> tuple[Tensor, Tensor]:
    logits, calls = watch(model, weights, images)
    if not calls or not len(images):
        return logits.detach(), _nothing(logits)
    an_image_a_row = all(len(call.inputs) == call.shape[0] == len(images) for call in calls)
    found = _gradients(logits, [call.edge for call in calls]) if an_image_a_row else None
    if found is None:
        return _by_image(model, weights, images)
    gram = _nothing(logits)
    for layer in dict.fromkeys(call.layer for call in calls):
        own = [number for number, call in enumerate(calls) if call.layer is layer]
        if len(own) == 1 and is_head(calls[own[0]], logits):
            # The gradients e_k - e_K have the products 1, and 2 of each with itself.
            products_of_logits = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device) + 1
            gram += input_squares(calls[own[0]])[:, None, None] * products_of_logits
            continue
        gram += layer_gram(layer, [calls[number].inputs for number in own], [found[number] for number in own])
    return logits.detach(), gram


def _by_image(model: nn.Module, weights: Weights, images: Tensor) -> tuple[Tensor, Tensor]:
    logits, grams = zip(*(_of_one(model, weights, image) for image in images.split(1)), strict=True)
    return torch.cat(logits), torch.cat(grams)


def _of_one(model: nn.Module, weights: Weights, image: Tensor) -> tuple[Tensor, Tensor]:
    logits = functional_call(model, dict(weights), (image.clone(),))
    if not logits.requires_grad:
        return logits, _nothing(logits)
    rows = []
    for difference in logits[0, :-1] - logits[0, -1]:
        gradients = torch.autograd.grad(difference, list(weights.values()), retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    stacked = torch.stack(rows)[None]
    return logits.detach(), products(stacked, stacked)


def is_head(call: Call, logits: Tensor) -> bool:
    """Whether a linear layer's output are the logits as they are, a row an image."""
    return type(call.layer) is nn.Linear and call.inputs.ndim == 2 and call.edge.node is logits.grad_fn


def input_squares(call: Call) -> Tensor:
    """[B] float64: ‖a‖² of what came into a linear layer, and 1 for its bias: ‖V (a, 1)ᵀ‖² = ‖V‖² (‖a‖² + 1)."""
    return call.inputs.double().square().sum(1) + float(call.layer.bias is not None)


def has_known_products(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether `layer_gram` is right for a call: of Linear, Conv2d, BatchNorm1d, BatchNorm2d or GroupNorm.

    A subclass may compute anything, and a weight that is itself computed (weight_norm, pruning) has another name.
    """
    if not {name for name, _ in layer.named_parameters(recurse=False)} <= {"weight", "bias"}:
        return False
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and inputs.ndim == 4
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return not layer.training and layer.running_mean is not None
    return type(layer) in (nn.Linear, nn.GroupNorm)


def layer_gram(layer: nn.Module, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Inner products of a layer's weight gradients.

    Args:
        layer: as `has_known_products` admits it.
        inputs: [B, ...], what came in, of each call of the layer.
        gradients: [B, K, ...], the K gradients for what went out, of each call.

    Returns:
        [B, K, K] float64: of the K gradients for the weights (and bias), summed over the calls.

    >>> inputs, gradients = torch.tensor([[2.0, 1.0]]), torch.tensor([[[1.0], [-3.0]]])
    >>> layer_gram(nn.Linear(2, 1), [inputs], [gradients])  # of (2, 1, 1) and -3 times that
    tensor([[[  6., -18.],
             [-18.,  54.]]], dtype=torch.float64)
    """
    if isinstance(layer, _Norm):
        return _scale_and_shift(layer, inputs, gradients)
    sides = [
        _conv2d(layer, *call) if isinstance(layer, nn.Conv2d) else _linear(*call)
        for call in zip(inputs, gradients, strict=True)
    ]
    before, behind = sides[0] if len(sides) == 1 else (torch.cat(side, -1) for side in zip(*sides, strict=True))
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    gram = outer_gram(before, behind, bias=layer.bias is not None)
    return gram.unflatten(0, (-1, groups)).sum(1)


def outer_gram(before: Tensor, behind: Tensor, bias: bool) -> Tensor:
    """Inner products of W_k = V_k Uᵀ, for U = before [B, D, P] and V = behind [B, K, O, P]; with bias, of Σ_p V_k too.

    Either the W_k are written out, or ⟨W_k, W_l⟩ = ⟨V_k UᵀU, V_l⟩ with the P x P products of the positions: few
    positions and many weights, as in a linear or a late layer, make that cheaper, by orders of magnitude.
    """
    (_, depth, positions), (_, classes, width, _) = before.shape, behind.shape
    rows = behind.flatten(1, 2)
    written_out = classes * width * depth * (positions + classes)
    by_position = positions**2 * (depth + classes * width) + classes**2 * width * positions
    if by_position < written_out:
        between = torch.bmm(before.transpose(1, 2), before) + float(bias)
        moved = rows * between if positions == 1 else torch.bmm(rows, between)
        return products(moved.unflatten(1, (classes, width)), behind)
    weights = torch.bmm(rows, before.transpose(1, 2)).unflatten(1, (classes, width))
    gram = products(weights, weights)
    return gram + products(behind.sum(3), behind.sum(3)) if bias else gram


def products(left: Tensor, right: Tensor) -> Tensor:
    """[B, K, K] float64: inner products of the K entries of two [B, K, ...]."""
    return torch.bmm(left.flatten(2), right.flatten(2).transpose(1, 2)).double()


def _linear(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """[B, ..., D] and [B, K, ..., O] with the positions last: [B, D, P] and [B, K, O, P]."""
    images, classes, width = len(inputs), gradients.shape[1], gradients.shape[-1]
    before = inputs.reshape(images, -1, inputs.shape[-1]).transpose(1, 2)
    return before, gradients.reshape(images, classes, -1, width).transpose(2, 3)


def _conv2d(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Patches [B g, D, P] and gradients [B g, K, O, P] of each of g groups."""
    padding: str | tuple[int, ...] = layer.padding
    if isinstance(padding, str):
        lacking = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((gap // 2, gap - gap // 2) if padding == "same" else (0, 0) for gap in lacking)
        inputs, padding = F.pad(inputs, (left, right, top, bottom)), (0, 0)
    above, aside = padding
    windows = F.pad(inputs, (aside, aside, above, above)).contiguous()
    for axis in (0, 1):  # the strides of a view say what F.unfold copies one by one
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, layer.stride[axis])[..., :: layer.dilation[axis]]
    patches = windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)
    grouped = gradients.flatten(3).unflatten(2, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return patches.unflatten(1, (layer.groups, -1)).flatten(0, 1), grouped


def _scale_and_shift(layer: _Norm, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Each channel's scale has the gradient Σ_p V_p x̂_p, its shift Σ_p V_p, over all calls."""
    scale = shift = torch.zeros((), device=inputs[0].device)
    for before, behind in zip(inputs, gradients, strict=True):
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            normal = F.batch_norm(before, layer.running_mean, layer.running_var, eps=layer.eps)
        else:
            normal = F.group_norm(before, layer.num_groups, eps=layer.eps)
        images, classes, channels = behind.shape[:3]
        behind = behind.reshape(images, classes, channels, -1)
        scale = scale + (behind * normal.reshape(images, 1, channels, -1)).sum(3)
        shift = shift + behind.sum(3)
    return products(scale, scale) + (products(shift, shift) if layer.bias is not None else 0.0)
