"""Monte Carlo dropout in passes that are networks: pass t drops the same units for every image, a function of a seed.

What a network computes before its first dropout is the same in each pass, so it is computed once: the traced graph
(torch.fx) is cut there. A model that cannot be traced, or whose halves do not say what it says, makes whole passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn

from robal.errors import InputError, did_you_mean
from robal.networks.modes import dropout_layers
from robal.seeds import stream

Halves = tuple[fx.GraphModule, fx.GraphModule]


@dataclass(frozen=True, eq=False)
class Place:
    """Where `dropout` acts: on what comes out of `layer`, or on what goes into it. `name` is the layer's."""

    name: str
    layer: nn.Module
    dropout: nn.Module
    before: bool = False

    def __str__(self) -> str:
        if self.dropout is self.layer:
            return f"in {self.name or 'the model'}"
        if not self.name:
            return "on the images"
        return f"{'before' if self.before else 'after'} {self.name}"


def dropout_places(model: nn.Module, rate: float = 0.1) -> list[Place]:
    """Where a model drops units out in Monte Carlo dropout; the model is not changed.

    Its Dropout layers of a rate above 0, if it has any. Else, at `rate`, the first of these that there is: the places
    that it or a part of it names by an attribute `dropout_after` (names of submodules; the networks of this package
    have it); its Dropout layers at rate 0; the input of its last nn.Linear; its images.

    Args:
        model: any module.
        rate: of the dropout that is put in, in (0, 1).

    Raises InputError for a name in `dropout_after` that is no submodule's.

    >>> [str(place) for place in dropout_places(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))]
    ['before 2']
    >>> [str(place) for place in dropout_places(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)))]
    ['in 0']
    """
    drops = set(dropout_layers(model))
    layers = list(model.named_modules())
    own = [Place(name, layer, layer) for name, layer in layers if layer in drops and getattr(layer, "p", 1.0) > 0]
    if own:
        return own
    named = [(f"{name}." if name else "") + after for name, part in layers for after in _declared(part)]
    if named:
        return [Place(name, model.get_submodule(name), nn.Dropout(rate)) for name in dict.fromkeys(named)]
    idle = [Place(name, layer, nn.Dropout(rate)) for name, layer in layers if layer in drops]
    linear = [Place(name, layer, nn.Dropout(rate), True) for name, layer in layers if isinstance(layer, nn.Linear)]
    return idle or linear[-1:] or [Place("", model, nn.Dropout(rate), True)]


def _declared(part: nn.Module) -> Sequence[str]:
    names: object = getattr(part, "dropout_after", ())
    if not isinstance(names, (tuple, list)):
        return ()
    known = [name for name, _ in part.named_modules()]
    for name in names:
        if name not in known:
            raise InputError(f"dropout_after names {name!r}, which is no layer; {did_you_mean(str(name), known)}")
    return names


class DropoutPasses:
    """Forward passes of a model in eval mode that differ by dropout alone.

    Args:
        model: in eval mode, here and in every call: BatchNorm keeps its running statistics, and dropout that it
            applies as a function stays off. It is borrowed: nothing of it changes.
        probe: [B, C, H, W], some images, by which it is seen that dropout acts and that the halves are right.
        rate: see `dropout_places`.

    Raises InputError where none of its dropout takes part in the forward pass, so that all passes would be equal, and
    for a model in training mode.

    Differs from the paper: one mask a pass, drawn anew for each layer but the same for all images, so that a pass is
    one draw of the network ("consistent" dropout, Kirsch et al., NeurIPS 2019, arXiv 1906.08158). An image's passes
    have the law they have with masks of its own; equal images get equal logits, whatever stands beside them, and
    drawing costs next to nothing. The first dimension of what a dropout layer sees is taken for the images.

    Source: Gal and Ghahramani, ICML 2016, arXiv 1506.02142.
    """

    def __init__(self, model: nn.Module, probe: Tensor, rate: float = 0.1) -> None:
        self.model = model
        self.whole: nn.Module = getattr(model, "_orig_mod", model)  # under torch.compile hooks are not called
        if any(layer.training for layer in self.whole.modules()):
            raise InputError("dropout passes take a model in eval mode: call them inside `with frozen(model):`")
        self.places = dropout_places(self.whole, rate)
        self.halves: Halves | None = None
        few = probe[:4]
        with _dropping(self.places, 0, 0) as calls:
            self.whole(few.clone())  # which a model may normalise in place, and it is used again
        if next(calls) == 0:
            where = ", ".join(str(place) for place in self.places)
            raise InputError(
                f"the model's dropout ({where}) takes no part in its forward pass, so that all passes would be equal; "
                "use or remove it; where it was put in, name other layers by an attribute dropout_after of the model"
            )
        try:
            halves = _cut(self.whole, self.places)
        except Exception:  # torch.fx raises whatever the model's own code raises when it meets a proxy
            return
        # Two passes, because an operation in place may spoil the first half's results for the second pass.
        whole = list(self(few, 2, 0))
        self.halves = halves
        try:
            same = all(_agree(one, other) for one, other in zip(whole, self(few, 2, 0), strict=True))
        except Exception:  # as above: what was traced need not run
            same = False
        if not same:
            self.halves = None

    def __call__(self, images: Tensor, passes: int, seed: int) -> Iterator[Tensor]:
        """The logits [B, K] of each pass in turn; pass t is a function of (seed, t), the image and the weights."""
        given: tuple[Tensor, ...] = ()
        if self.halves is not None:
            with torch.random.fork_rng(devices=[]):
                given = self.halves[0](images.clone())
        for number in range(passes):
            with _dropping(self.places, seed, number):
                logits: Tensor = self.whole(images.clone()) if self.halves is None else self.halves[1](*given)
            yield logits


@contextmanager
def _dropping(places: Sequence[Place], seed: int, number: int) -> Iterator[count[int]]:
    """Inside, dropout acts; what is yielded has counted its calls. The global random stream comes back as it was."""
    calls = count()

    def drop(dropout: nn.Module, values: Tensor) -> Tensor:
        torch.default_generator.manual_seed(stream(seed, "dropout", number, next(calls)))
        return _dropped(dropout, values)

    handles = []
    for place in places:
        if place.before:

            def enter(_: nn.Module, args: tuple[Any, ...], dropout: nn.Module = place.dropout) -> Any:
                return (drop(dropout, args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else None

            handles.append(place.layer.register_forward_pre_hook(enter))
        else:

            def leave(_: nn.Module, args: Any, output: Any, dropout: nn.Module = place.dropout) -> Any:
                return drop(dropout, output) if isinstance(output, Tensor) else None

            handles.append(place.layer.register_forward_hook(leave))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream(seed, "dropout", number))  # for a model's own random numbers
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _dropped(dropout: nn.Module, values: Tensor) -> Tensor:
    """`values` times one mask for all images. Every kind of dropout is factor · x + offset, so 0 and 1 tell all."""
    shape = (1, *values.shape[1:])
    state = torch.get_rng_state()
    offset = _drawn(dropout, torch.zeros(shape, dtype=values.dtype))
    torch.set_rng_state(state)
    factor = _drawn(dropout, torch.ones(shape, dtype=values.dtype)) - offset
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        factor = factor.contiguous(memory_format=torch.channels_last)  # the product is three times as fast
    dropped = values * factor.to(values.device)
    return dropped + offset.to(values.device) if bool(offset.any()) else dropped


def _drawn(dropout: nn.Module, values: Tensor) -> Tensor:
    """What a dropout layer makes of `values`: switched on, and without its hooks, of which this may be one."""
    training = dropout.training
    dropout.training = True
    try:
        dropped: Tensor = dropout.forward(values)
    finally:
        dropout.training = training
    return dropped


class _Tracer(fx.Tracer):
    def __init__(self, whole: Sequence[nn.Module]) -> None:
        super().__init__()
        self.whole = set(whole)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """The layers at which dropout acts are called as a whole: their hooks are what drops."""
        return m in self.whole or super().is_leaf_module(m, module_qualified_name)


def _cut(model: nn.Module, places: Sequence[Place]) -> Halves | None:
    """(what no dropout reaches, the rest): rest(*first(images)) = model(images); None where dropout comes first.

    Both call the model's own layers, so they are right as long as the model keeps its layers.
    """
    at = [place.layer for place in places]
    if model in at:
        return None
    graph = _Tracer(at).trace(model)
    reached: set[fx.Node] = set()
    crossing: dict[fx.Node, None] = {}  # what the rest needs of the first half, in the order of the graph
    for node in graph.nodes:
        acts = node.op == "call_module" and model.get_submodule(str(node.target)) in at
        if acts or node.op == "output" or any(needed in reached for needed in node.all_input_nodes):
            reached.add(node)
            crossing |= dict.fromkeys(needed for needed in node.all_input_nodes if needed not in reached)
    first, rest = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    after: dict[fx.Node, fx.Node] = {node: rest.placeholder(f"given_{node.name}") for node in crossing}
    for node in graph.nodes:
        if node not in reached:
            before[node] = first.node_copy(node, before.__getitem__)
        else:
            after[node] = rest.node_copy(node, after.__getitem__)
    first.output(tuple(before[node] for node in crossing))
    return fx.GraphModule(model, first), fx.GraphModule(model, rest)


def _agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, 1e-4, 1e-5)
