"""Embeddings are the input of one layer, read by a hook, so no model has to be rewritten."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from robal.errors import ContractError, InputError, did_you_mean


def embedding_layer(model: nn.Module, features: str | None = None) -> nn.Module:
    """The layer whose input is the embedding: the named one, else the model's own choice, else its last Linear.

    Args:
        model: any module; its own choice is a string attribute `features`, where it names a submodule.
        features: the dotted name of a submodule, as in `model.named_modules()`; None or "": not named.

    Raises InputError where the name is unknown, and where nothing is named and there is no nn.Linear.

    >>> embedding_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    Linear(in_features=3, out_features=2, bias=True)
    """
    layers = {name: layer for name, layer in model.named_modules() if name}
    if features:
        if features not in layers:
            raise InputError(f"the model has no layer {features!r}; {did_you_mean(features, layers)}")
        return layers[features]
    own: object = getattr(model, "features", None)
    if isinstance(own, str) and own in layers:
        return layers[own]
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise InputError("the model has no nn.Linear whose input could be the embedding: name a layer by features=")
    return linear[-1]


def forward_with_embeddings(model: nn.Module, inputs: Tensor, features: str | None = None) -> tuple[Tensor, Tensor]:
    """Logits and embeddings of a batch, by one forward pass.

    Args:
        model: in the mode it shall run in; gradients flow or not as the caller has set.
        inputs: [B, C, H, W] float32 in [0, 1].
        features: as in `embedding_layer`.

    Returns logits [B, K] and embeddings [B, d], the layer's input flattened; the hook is gone afterwards. Raises
    InputError as `embedding_layer`, ContractError where the layer takes no part in the forward pass or gets rows that
    are not one an image.
    """
    seen: list[Tensor] = []

    def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:1]

    handle = embedding_layer(model, features).register_forward_pre_hook(remember, with_kwargs=True)
    try:
        logits: Tensor = model(inputs)
    finally:
        handle.remove()
    if not seen:
        raise ContractError("the embedding layer took no part in the forward pass: name another by features=")
    if seen[0].shape[:1] != inputs.shape[:1]:
        raise ContractError(
            f"the embedding layer got {tuple(seen[0].shape)} for {len(inputs)} images: name another by features="
        )
    return logits, seen[0].flatten(1)
