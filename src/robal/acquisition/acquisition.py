"""The two kinds of acquisition function, and the gate through which every one of them is called."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from robal.candidates import Candidates, ask
from robal.engines import Engine, Local
from robal.errors import ContractError, InputError, PoolExhausted
from robal.images import Images, InMemory, MapStyle, check_pixels
from robal.networks import frozen
from robal.pool import Examples, Pool, check_labels
from robal.seeds import generator as generator_of


@runtime_checkable
class Score(Protocol):
    """One number an image, whatever else is chosen: higher = label me first. A plain function will do."""

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        """[M], finite."""
        ...


@runtime_checkable
class Acquisition(Protocol):
    """A joint choice of n images.

    It may have four things more. `examples(candidates, chosen, labels, generator) -> Examples`: what it adds to the
    training set once `chosen`, [k] int64 pool indices that go to training, have their `labels`, [k] int64 (see
    `examples_of`). `needs`: a class variable, a frozenset of "teacher", "snapshots" or "proxy", what the
    candidates must bring. Where it names files, `located()`, the same with absolute paths, and `check()`, which raises
    InputError where they are not there.
    """

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        """[n] distinct pool indices, int64, in order of choice."""
        ...


def select(
    acquisition: Acquisition | Score,
    model: nn.Module,
    pool: Any,
    n: int,
    seed: int = 0,
    *,
    engine: Engine | None = None,
    teacher: nn.Module | None = None,
    proxy: nn.Module | None = None,
    snapshots: Sequence[Mapping[str, Tensor]] = (),
    features: str | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> Tensor:
    """Choose n images of a pool to label next.

    Args:
        acquisition: an acquisition function or a score, for example `DRE()`.
        model: returns logits [B, C] for float32 images in [0, 1]; unchanged afterwards.
        pool: a `Pool` (labelled images are left out), or just images: a tensor or array [N, C, H, W], uint8 or float32
            in [0, 1], a data set of robal's, or any map-style data set of (image, label); labels are not looked at.
        n: how many.
        seed: equal seeds give equal choices.
        engine: where the pool is looked at; None: here.
        teacher: a standard model beside the robust one.
        proxy: the network that `ByProxy` chooses with; a run trains its own.
        snapshots: state dicts of the model during its training, oldest first.
        features: see `Candidates`.
        history: see `Candidates`.

    Returns:
        [n] int64, distinct, positions in the pool, in order of choice.

    Raises:
        InputError: for n < 1, pixels out of range, or a model that returns probabilities.
        PoolExhausted: for n beyond what is left.

    >>> from robal.acquisition import MaxEntropy
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.eye(2))
    >>> select(MaxEntropy(), model, torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]], [[[0.2, 0.5]]]]), n=2)
    tensor([1, 2])
    """
    if not isinstance(pool, Pool):
        images = images_of(pool)
        if len(images) == 0:
            raise PoolExhausted("the pool holds no image")
        classes = ask(model, images, torch.tensor([0])).shape[1]
        pool = Pool.unlabelled(images, [str(number) for number in range(classes)])
    candidates = Candidates(
        model, pool, pool.candidates, engine or Local(), teacher, tuple(snapshots), history, features, proxy
    )
    return choose(acquisition, candidates, n, generator_of(seed, "select"))


def images_of(given: Any) -> Images:
    """Whatever holds images, as `Images`: a tensor or array [N, C, H, W], robal's data sets, a map-style data set."""
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    given = getattr(given, "images", given)
    if isinstance(given, Tensor):
        return InMemory(given)
    if isinstance(given, Images):
        return given
    if hasattr(given, "__len__") and hasattr(given, "__getitem__"):
        return MapStyle(given)
    raise InputError(
        f"a pool is a Pool, a tensor or array of images, or a data set with len() and items (image, label); "
        f"this is a {type(given).__name__}"
    )


def choose(acquisition: Acquisition | Score, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
    """The gate: call an acquisition function, or take the top n of a score, and check what comes back.

    Returns:
        [n] int64 distinct members of `candidates.indices`, in order of choice; of equal scores, the lower index first.

    Raises:
        InputError, PoolExhausted: as `select`.
        ContractError: for a choice that is not n distinct candidates, or a score that is not [M] and finite.
    """
    if not isinstance(n, int):
        raise InputError(f"n counts images; {n!r} came")
    if n < 1:
        raise InputError(f"at least one image has to be asked for; n = {n} came")
    if n > len(candidates):
        raise PoolExhausted(f"{n} images were asked for and {len(candidates)} unlabelled ones are left in the pool")
    name = _name(acquisition)
    if isinstance(acquisition, type):
        raise InputError(f"{name} is a class; build it first: {name}()")
    borrowed = frozen(candidates.model) if isinstance(candidates.model, nn.Module) else nullcontext()
    with borrowed, torch.no_grad():
        if is_score(acquisition):
            scores = scores_of(acquisition, candidates, generator)  # type: ignore[arg-type]
            return candidates.indices[torch.argsort(scores, descending=True, stable=True)[:n]]
        chosen = acquisition(candidates, n, generator)  # type: ignore[call-arg, arg-type]
    if not isinstance(chosen, Tensor):
        raise ContractError(f"{name} must return a tensor; it returned a {type(chosen).__name__}")
    chosen = chosen.to(candidates.indices.device)
    legal = torch.isin(chosen, candidates.indices)
    if chosen.shape != (n,) or chosen.dtype != torch.int64 or len(chosen.unique()) != n or not bool(legal.all()):
        raise ContractError(
            f"{name} must return {n} distinct int64 positions of candidates; it returned shape {list(chosen.shape)}, "
            f"{str(chosen.dtype).split('.')[-1]}, {len(chosen.unique())} distinct, {int(legal.sum())} candidates"
        )
    return chosen


def choose_with_scores(
    acquisition: Acquisition | Score, candidates: Candidates, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """As `choose`, and what the choice was made by: [n] scores in the same order, or None where there are none.

    A score's scores are its own; DRE, CEAL and the wrappers have those of the score inside them. NaN for an image that
    no score looked at.
    """
    seen = torch.full((len(candidates.pool),), torch.nan)

    def remembering(part: Any) -> Any:
        if callable(part) and not isinstance(part, type) and is_score(part):

            def call(candidates: Candidates, generator: torch.Generator) -> Tensor:
                scores = scores_of(part, candidates, generator)
                seen[candidates.indices] = scores.float()
                return scores

            call.__name__ = _name(part)
            return call
        if not is_dataclass(part) or isinstance(part, type):
            return part
        inner = {field.name: getattr(part, field.name) for field in fields(part)}
        changed = {name: remembering(value) for name, value in inner.items() if name in _PARTS}
        return replace(part, **changed) if changed else part

    chosen = choose(remembering(acquisition), candidates, n, generator)
    scores = seen[chosen]
    return chosen, None if bool(scores.isnan().all()) else scores


_PARTS = ("score", "inner", "by", "first", "second")  # the fields of acquisition functions that hold others


def examples_of(
    acquisition: Acquisition | Score,
    candidates: Candidates,
    chosen: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Examples:
    """The gate of the `examples` hook: what an acquisition function adds to the training set after the answer.

    Args:
        acquisition: with or without the hook; without it nothing is added.
        candidates: the unlabelled images that are left, in the eyes of the model that chose.
        chosen: [k] int64, the images asked about that go to training.
        labels: [k] int64 in [0, C), their labels.
        generator: the hook's randomness.

    Returns:
        Examples of the kinds "pseudo", "twin" or "crafted"; none without a hook.

    Raises:
        ContractError: for examples that could not be trained on, or that claim to be bought.
    """
    hook = getattr(acquisition, "examples", None)
    if hook is None or len(chosen) == 0:
        return Examples.of(candidates.pool.images.at_rest(chosen[:0]), chosen[:0])
    with frozen(candidates.model), torch.no_grad():
        added = hook(candidates, chosen, labels, generator)
    try:
        check_pixels(added.images)
        check_labels(added.labels, len(candidates.pool.classes))
        if tuple(added.images.shape[1:]) != candidates.pool.images.shape or (added.kind == 0).any():
            raise InputError(f"images {list(added.images.shape)}, {int((added.kind == 0).sum())} said to be bought")
    except (InputError, AttributeError) as error:
        raise ContractError(
            f"{_name(acquisition)}.examples must return Examples of the pool's shape: {error}"
        ) from error
    return added


def needs_of(acquisition: object) -> frozenset[str]:
    """What an acquisition function and its parts need beside the model: "teacher", "snapshots", "proxy"."""
    return frozenset(need for part in parts_of(acquisition) for need in getattr(part, "needs", ()))


def parts_of(acquisition: object) -> Iterator[object]:
    """An acquisition function and all that its fields hold, and theirs."""
    yield acquisition
    if is_dataclass(acquisition) and not isinstance(acquisition, type):
        for field in fields(acquisition):
            yield from parts_of(getattr(acquisition, field.name))


def scores_of(score: Score, candidates: Candidates, generator: torch.Generator) -> Tensor:
    """[M]: what a score says of the candidates. Raises ContractError where that is not [M] and finite."""
    scores = score(candidates, generator)
    if not isinstance(scores, Tensor):
        raise ContractError(f"{_name(score)} must return a tensor; it returned a {type(scores).__name__}")
    scores = scores.to(candidates.indices.device)
    if scores.shape != (len(candidates),) or not bool(torch.isfinite(scores).all()):
        raise ContractError(
            f"{_name(score)} must give one finite score for each of {len(candidates)} candidates; "
            f"it gave shape {list(scores.shape)}, {int((~torch.isfinite(scores)).sum())} not finite"
        )
    return scores


def _name(acquisition: Acquisition | Score) -> str:
    return str(getattr(acquisition, "__name__", type(acquisition).__name__))


def is_score(acquisition: Acquisition | Score) -> bool:
    """Whether it takes (candidates, generator) and scores, rather than (candidates, n, generator) and chooses."""
    try:
        count = len(inspect.signature(acquisition).parameters)
    except TypeError:
        raise InputError(f"{acquisition!r} is no acquisition function: it cannot be called") from None
    if count not in (2, 3):
        raise InputError(f"{_name(acquisition)} takes {count} arguments; a score takes 2, an acquisition function 3")
    return count == 2
