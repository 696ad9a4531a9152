"""How much an image would move the model, or the model's output with it: lengths of gradients, without a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robal.errors import InputError
from robal.scores.jacobian import input_gram, weight_gram
from robal.scores.uncertainty import check_probs

Over = Literal["parameters", "last_layer", "inputs"]


def expected_gradient_length(gram: Tensor, probs: Tensor) -> Tensor:
    """Σ_c p_c ‖∇ J(x, c)‖₂, the length that the gradient of the loss would have, on average over the label.

    J is the cross-entropy. Its gradient with respect to the logits is g_c = p - e_c, so ‖∇ J(x, c)‖² = g_cᵀ G g_c.

    Args:
        gram: [B, K, K] G, inner products of the logits' gradients; `weight_gram` and `input_gram` give them.
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
    rows = loss_gradients(probs)
    # Divided by their largest entries, they can be squared however sure the model is.
    sizes = _sizes(rows)
    rows = rows / sizes
    squares = (torch.bmm(rows, gram.double()) * rows).sum(2).clamp_min(0.0)
    return (probs.double() * squares.sqrt() * sizes[..., 0]).sum(1)


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
        if self.over == "inputs":
            logits, gram = input_gram(model, batch)
        else:
            logits, gram = weight_gram(model, batch, last_linear(model) if self.over == "last_layer" else "")
        return {"logits": logits, "length": _expected_length(gram, logits.double().softmax(1))}


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
            logits = model(inputs)
        said = logits if self.predictor is None else self.predictor(batch)
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
    if not logits.requires_grad:
        return torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    rows = loss_gradients(logits.detach().double().softmax(1))
    of_label = rows[torch.arange(len(labels), device=rows.device), labels]
    # Divided by its largest entry the gradient survives float32, however sure the model is.
    sizes = _sizes(of_label)
    (gradient,) = torch.autograd.grad(logits, inputs, (of_label / sizes).to(logits.dtype))
    return sizes[:, 0] * gradient.flatten(1).double().norm(dim=1)


def last_linear(model: nn.Module) -> str:
    """The dotted name of the last nn.Linear, "" where the model is one; raises InputError where there is none."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise InputError('the model has no nn.Linear: use EGL(over="parameters") or EGL(over="inputs")')
    return names[-1]
