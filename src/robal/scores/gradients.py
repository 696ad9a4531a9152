"""How much an image would move the model, or the model's output with it: lengths of gradients, without a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robal.errors import InputError
from robal.scores.jacobian import (
    has_known_products,
    input_grams,
    input_squares,
    is_head,
    leaves,
    no_input_gradient,
    uses,
    watch,
    weight_grams,
)
from robal.scores.uncertainty import check_probs

Over = Literal["parameters", "last_layer", "inputs"]


def expected_gradient_length(gram: Tensor, probs: Tensor) -> Tensor:
    """Σ_c p_c ‖∇ J(x, c)‖₂, the length that the gradient of the loss would have, on average over the label.

    J is the cross-entropy. Its gradient with respect to the logits is g_c = p - e_c, so ‖∇ J(x, c)‖² = g_cᵀ G g_c.

    Args:
        gram: [B, K, K] G, inner products of the logits' gradients; `weight_grams` and `input_grams` give them.
        probs: [B, K], rows sum to 1.

    Returns:
        [B] float64, not negative; higher = label me first.

    >>> expected_gradient_length(torch.eye(2)[None], torch.tensor([[0.75, 0.25]]))  # ¾ ‖(-¼, ¼)‖ + ¼ ‖(¾, -¾)‖
    tensor([0.5303], dtype=torch.float64)
    """
    if gram.shape != (*probs.shape, probs.shape[-1]):
        raise InputError(f"probabilities {list(probs.shape)} need products [B, K, K]; these have {list(gram.shape)}")
    return _expected_length(gram, check_probs(probs))


def _expected_length(gram: Tensor, probs: Tensor) -> Tensor:
    """In K² steps an image. With h_k the gradient of z_k - z_top, and r = p without p_top, ∇ J(x, c) is
    Σ_k r_k h_k - h_c: nothing cancels however sure the model is, since h_top = 0 and r_c <= ½."""
    gram, probs = gram.double(), probs.double()
    top, sizes, shares = _others(probs)
    of_top = gram[torch.arange(len(gram), device=gram.device), top]
    own = of_top.gather(1, top[:, None])
    # ⟨h_k, Σ_l q_l h_l⟩ for q = r / max r, and ‖h_k‖²
    inner = torch.bmm(gram, shares[:, :, None])[:, :, 0] - (of_top * shares).sum(1, keepdim=True)
    inner += (own - of_top) * shares.sum(1, keepdim=True)
    squares = gram.diagonal(dim1=1, dim2=2) - 2 * of_top + own
    mean = (shares * inner).sum(1, keepdim=True)
    lengths = (sizes.square() * mean - 2 * sizes * inner + squares).clamp_min(0.0).sqrt()
    lengths.scatter_(1, top[:, None], sizes * mean.clamp_min(0.0).sqrt())
    return (probs * lengths).sum(1)


def expected_residual(probs: Tensor) -> Tensor:
    """[B] float64: Σ_c p_c ‖p - e_c‖₂, in K steps an image. Args: probs [B, K] float64, rows sum to 1.

    >>> expected_residual(torch.tensor([[0.75, 0.25]]).double())  # ¾ · ¼ √2 + ¼ · ¾ √2
    tensor([0.5303], dtype=torch.float64)
    """
    top, sizes, shares = _others(probs)
    squares = probs.square().sum(1, keepdim=True) - probs.square() + (1 - probs).square()
    # Of the likely class as ‖r‖² + (Σ r)²: there 1 - p would have no digit left.
    of_top = sizes * (shares.square().sum(1, keepdim=True) + shares.sum(1, keepdim=True).square()).sqrt()
    return (probs * squares.clamp_min(0.0).sqrt().scatter(1, top[:, None], of_top)).sum(1)


def _others(probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B] the likeliest class; the others' probabilities as [B, 1] their largest and [B, K] quotients with it.

    So they can be squared however small they are.
    """
    top = probs.argmax(1)
    others = probs.scatter(1, top[:, None], 0.0)
    sizes = _sizes(others)
    return top, sizes, others / sizes


def _sizes(rows: Tensor) -> Tensor:
    """[..., 1]: the largest entry of each row, and never 0."""
    return rows.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def loss_gradients(probs: Tensor) -> Tensor:
    """[B, K, K] float64: row c is p - e_c, the gradient of the cross-entropy of class c with respect to the logits.

    Its entry c, p_c - 1, is minus the sum of the others: near p_c = 1 a difference would have no digit left.

    >>> loss_gradients(torch.tensor([[0.75, 0.25]]))
    tensor([[[-0.2500,  0.2500],
             [ 0.7500, -0.7500]]], dtype=torch.float64)
    """
    rows = probs.double()[:, None, :].repeat(1, probs.shape[1], 1)
    diagonal = rows.diagonal(dim1=1, dim2=2)
    diagonal.zero_()
    diagonal.copy_(-rows.sum(2))
    return rows


@dataclass(frozen=True)
class GradientLength:
    """Logits and expected gradient lengths of a tile. See `robal.acquisition.EGL`.

    Args:
        over: "parameters", "last_layer" or "inputs".
    """

    over: Over = "parameters"

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        name = ""
        if self.over == "last_layer":
            name, gives_logits = last_linear(model, batch)
            found = of_head(model, batch, name) if gives_logits else None
            if found is not None:
                return found
        parts = input_grams(model, batch) if self.over == "inputs" else weight_grams(model, batch, name)
        # Lengths at once: the products of a whole tile, K² an image, would be too much.
        rows = [(logits, _expected_length(gram, logits.double().softmax(1))) for logits, gram in parts]
        logits, lengths = zip(*rows, strict=True)
        return {"logits": torch.cat(logits), "length": torch.cat(lengths)}


def of_head(model: nn.Module, batch: Tensor, name: str) -> dict[str, Tensor] | None:
    """What `GradientLength` returns, for a linear layer whose output are the logits: no backward pass is needed.

    The gradient with respect to its weights and bias is (p - e_c) ⊗ (a, 1), a being what came into it, and its length
    ‖p - e_c‖ √(‖a‖² + 1). None where the model does otherwise with these images than with the first of them.
    """
    with torch.enable_grad():
        logits, calls = watch(model, leaves(model, list(model.get_submodule(name).parameters())), batch)
    if len(calls) != 1 or not is_head(calls[0], logits):
        return None
    logits = logits.detach()
    return {"logits": logits, "length": expected_residual(logits.double().softmax(1)) * input_squares(calls[0]).sqrt()}


@dataclass(frozen=True, eq=False)
class InputGradientNorm:
    """‖∇_x CE(f(x), ŷ)‖₂ of a tile's images.

    Args:
        predictor: the model that says ŷ, in eval mode; None: the one looked at.
    """

    predictor: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.enable_grad():
            inputs = batch.detach().requires_grad_()
            logits = model(inputs.clone())  # a copy, which the model may normalise in place
        if not uses(logits)[id(inputs)]:
            raise no_input_gradient(model)
        said = logits if self.predictor is None else self.predictor(batch.clone())
        return {"logits": logits.detach(), "norm": input_gradient_norm(logits, inputs, said.argmax(1))}


def input_gradient_norm(logits: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """[B] float64: ‖∇_x CE(z, y)‖₂, image by image.

    Args:
        logits: [B, K] z, computed from `inputs` with gradients on.
        inputs: [B, ...], requires gradients.
        labels: [B] int64 y.

    >>> inputs = torch.zeros(1, 2, requires_grad=True)
    >>> input_gradient_norm(inputs * torch.tensor([3.0, 4.0]), inputs, torch.tensor([0]))  # ½ ‖(-3, 4)‖
    tensor([2.5000], dtype=torch.float64)
    """
    rows = loss_gradients(logits.detach().double().softmax(1))
    of_label = rows[torch.arange(len(labels), device=rows.device), labels]
    # Divided by its largest entry the gradient survives float32, however sure the model is.
    sizes = _sizes(of_label)
    (gradient,) = torch.autograd.grad(logits, inputs, (of_label / sizes).to(logits.dtype))
    return sizes[:, 0] * gradient.flatten(1).double().norm(dim=1)


def last_linear(model: nn.Module, images: Tensor) -> tuple[str, bool]:
    """The nn.Linear that the model calls last on the way to its logits, and whether they are its output as it is.

    Args:
        model: in eval mode.
        images: [B, C, H, W], of which the first is looked at.

    Returns:
        Its dotted name, "" where the model is one; of layers whose weights are used without a call the last declared
        one. And True only where its weights are used once, by the call whose output the logits are.

    Raises InputError where there is no nn.Linear, or the logits depend on the weights of none.
    """
    names: dict[nn.Module, str] = {layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not names:
        raise InputError('the model has no nn.Linear: use EGL(over="parameters") or EGL(over="inputs")')
    owned = {layer: list(layer.parameters()) for layer in names}
    weights = leaves(model, [parameter for parameters in owned.values() for parameter in parameters])
    with torch.enable_grad():
        logits, calls = watch(model, weights, images[:1], names)
    used = uses(logits)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    times = {
        layer: [used[id(weights[named[id(one)]])] for one in parameters if one.is_floating_point()]
        for layer, parameters in owned.items()
    }
    taking_part = [layer for layer in names if any(times[layer])]
    if not taking_part:
        raise InputError(
            f"the logits depend on no nn.Linear of the model ({', '.join(names.values())}): "
            'use EGL(over="parameters") or EGL(over="inputs")'
        )
    called = [call for call in calls if call.layer in taking_part]
    if not called:
        return names[taking_part[-1]], False
    last = called[-1]
    known = has_known_products(last.layer, last.inputs) and set(times[last.layer]) == {1}
    return names[last.layer], known and is_head(last, logits)
