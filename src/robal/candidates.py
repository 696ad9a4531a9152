"""The unlabelled images as the current model sees them: lazy, cached, one forward pass however many parts look."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robal.engines import Engine, Local, Sharded, TileFunction
from robal.errors import ContractError, InputError
from robal.images import Images
from robal.networks import (
    backbone_of,
    check_logits,
    embedding_layer,
    forward_with_embeddings,
    frozen,
    head_makes_logits,
    head_of,
    home_of,
)
from robal.pool import Pool

_ROWS = 65_536


def logits_of(model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Logits of a tile, for a model whose embeddings cannot be had."""
    return {"logits": model(batch)}


@dataclass(frozen=True)
class Forward:
    """Logits and embeddings of a tile, by one forward pass."""

    features: str | None = None

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        logits, embeddings = forward_with_embeddings(model, batch, self.features)
        return {"logits": logits, "embeddings": embeddings}


def embed(model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Embeddings of a tile, by a network without its head."""
    return {"embeddings": model(batch)}


def ask(model: nn.Module, images: Images, indices: Tensor) -> Tensor:
    """The model's logits, [B, C], for a few images. Raises InputError where it does not take them, or gives no rows."""
    if not isinstance(model, nn.Module):
        raise InputError(f"a model is a torch.nn.Module; this is a {type(model).__name__}")
    device = home_of(model)
    batch = images.batch(indices, device)
    with frozen(model), torch.no_grad():
        try:
            logits = model(batch)
        except (RuntimeError, TypeError, AttributeError) as error:
            shape, dtype = list(batch.shape[1:]), str(batch.dtype).split(".")[-1]
            said = " ".join(str(error).split())
            raise InputError(f"the model does not take {dtype} images {shape}: {said}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ContractError(f"a model returns logits [images, classes], one tensor; this one returns {came}")
    return logits


@dataclass(frozen=True, eq=False)
class Candidates:
    """What an acquisition function may look at.

    Args:
        model: the current model, or None before there is one (then only `Random` can choose).
        pool: images and the labels known so far.
        indices: [M] int64, ascending: positions in `pool.images` to choose from.
        engine: maps functions over the images.
        teacher: a standard model beside the robust one, where training has one.
        proxy: another network trained on the same examples, for `ByProxy`.
        snapshots: saved states of the training, oldest first.
        history: the metrics of earlier rounds; acquisition functions may read its validation figures, never test.
        features: the submodule whose input is the embedding; None: the network's own, or its last nn.Linear.
        store: a folder in which the embeddings of the whole pool are kept, for a model of which the head alone is
            trained: what comes before it need not be computed again. None: there is none.
    """

    model: nn.Module
    pool: Pool
    indices: Tensor
    engine: Engine = field(default_factory=Local)
    teacher: nn.Module | None = None
    snapshots: tuple[Mapping[str, Tensor], ...] = ()
    history: Sequence[Mapping[str, Any]] = ()
    features: str | None = None
    proxy: nn.Module | None = None
    store: Path | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _forward(self) -> dict[str, Tensor]:
        if self.store is not None and self._head_is_last:
            return self._by_head(self.store)
        try:
            embedding_layer(self.model, self.features)
            rows = self._mapped(Forward(self.features), 0)
        except InputError:  # no such layer, or one that sees no row an image: the logits are there all the same
            if self.features is not None:
                raise
            rows = self._mapped(logits_of, 0)
        except (RuntimeError, TypeError, AttributeError):
            self.check_model()  # says what is the matter, where it is the model's
            raise
        if len(self):
            check_logits(rows["logits"], len(self.pool.classes))
        return rows

    @property
    def _head_is_last(self) -> bool:
        """Whether the head makes logits of the embedding, and a copy without it the embedding, by eight images."""
        few = self.indices[:8]
        if not len(few) or self.features is not None:
            return False
        batch = self.pool.images.batch(few, home_of(self.model))
        try:
            before, (_, head) = backbone_of(self.model), head_of(self.model)
            if embedding_layer(self.model) is not head or not head_makes_logits(self.model, batch):
                return False
            with frozen(self.model), frozen(before), torch.no_grad():
                _, embeddings = forward_with_embeddings(self.model, batch)
                return torch.equal(before(batch), embeddings)
        except Exception:  # of somebody's network, which may need its head for more than logits
            return False

    def _by_head(self, store: Path) -> dict[str, Tensor]:
        """Logits of embeddings that are computed once, for the whole pool, and kept."""
        kind: Any = self.engine if hasattr(self.engine, "folder") else Sharded()
        engine, everything = replace(kind, folder=str(store)), torch.arange(len(self.pool))
        before, (_, head) = backbone_of(self.model), head_of(self.model)
        kept: Tensor = engine.map(embed, before, self.pool.images, everything, 0)["embeddings"]
        embeddings = kept[self.indices]
        with frozen(self.model), torch.no_grad():
            device = home_of(self.model)
            logits = [head(part.to(device)).cpu() for part in embeddings.split(_ROWS)]
        rows = {"embeddings": embeddings, "logits": torch.cat(logits)}
        check_logits(rows["logits"], len(self.pool.classes))
        return rows

    def check_model(self) -> None:
        """See from eight images, unless all were seen already, that the model returns logits, one a class.

        Raises InputError where it does not take the images, ContractError for what are no logits.
        """
        if len(self) and "_forward" not in self.__dict__ and "_checked" not in self.__dict__:
            check_logits(ask(self.model, self.pool.images, self.indices[:8]), len(self.pool.classes))
            self.__dict__["_checked"] = True

    @property
    def logits(self) -> Tensor:
        """[M, C] float32."""
        return self._forward["logits"]

    @cached_property
    def probs(self) -> Tensor:
        """[M, C] float32, rows sum to 1."""
        return self.logits.softmax(1)

    @property
    def embeddings(self) -> Tensor:
        """[M, d] float32: the input of the model's last nn.Linear, or of what `features` names."""
        if "embeddings" not in self._forward:
            return self._mapped(Forward(self.features), 0)["embeddings"]  # raises, and says what to do
        return self._forward["embeddings"]

    def map(self, function: TileFunction, seed: int = 0) -> dict[str, Tensor]:
        """`function(model, batch, generator) -> {name: [B, ...]}` over all candidates: {name: [M, ...]}.

        The model is checked first, by `check_model`.
        """
        self.check_model()
        return self._mapped(function, seed)

    def _mapped(self, function: TileFunction, seed: int) -> dict[str, Tensor]:
        return self.engine.map(function, self.model, self.pool.images, self.indices, seed)

    def only(self, positions: Tensor) -> Candidates:
        """The candidates at `positions` (in [0, M)), with what was already computed for them."""
        fewer = replace(self, indices=self.indices[positions])
        if "_forward" in self.__dict__:
            fewer.__dict__["_forward"] = {name: rows[positions] for name, rows in self._forward.items()}
        fewer.__dict__["labelled"] = self.labelled  # one look at the labelled images serves all parts
        if "_checked" in self.__dict__:
            fewer.__dict__["_checked"] = True
        return fewer

    @cached_property
    def labelled(self) -> Candidates:
        """The labelled images in the same eyes: `.embeddings`, `.probs`, `.map` for them; their labels are
        `pool.labels[labelled.indices]`. For methods that compare candidates with what is known; never to be chosen."""
        return replace(self, indices=self.pool.labelled)

    @cached_property
    def standard(self) -> Candidates:
        """The same candidates as the teacher sees them. Raises InputError where there is none."""
        if self.teacher is None:
            raise InputError("a standard model is needed beside the robust one: give select(..., teacher=model)")
        return replace(self, model=self.teacher, teacher=None, proxy=None, snapshots=())

    @cached_property
    def by_proxy(self) -> Candidates:
        """The same candidates as the proxy sees them. Raises InputError where there is none."""
        if self.proxy is None:
            raise InputError("a run trains the proxy; outside of one, give select(..., proxy=model)")
        return replace(self, model=self.proxy, teacher=None, proxy=None, snapshots=(), store=None)

    def earlier(self) -> Iterator[Candidates]:
        """The same candidates in the eyes of each snapshot of the training, oldest first; where none was kept, in the
        present model's alone."""
        if not self.snapshots:
            yield self
        for snapshot in self.snapshots:
            model = copy.deepcopy(self.model)
            model.load_state_dict(dict(snapshot))
            yield replace(self, model=model, snapshots=())
