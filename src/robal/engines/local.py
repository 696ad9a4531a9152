"""Map a function over the images of a pool, tile by tile: the one seam through which work is spread out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from robal.engines.ahead import ahead
from robal.engines.rows import Rows
from robal.errors import ContractError, InputError
from robal.networks import frozen, home_of
from robal.progress import track
from robal.seeds import generator

TileFunction: TypeAlias = Callable[[nn.Module, Tensor, torch.Generator], dict[str, Tensor]]


class Batches(Protocol):
    """What has images to give: `robal.images.Images`, seen from below."""

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor: ...
    def at_rest(self, indices: Tensor) -> Tensor: ...


@runtime_checkable
class Engine(Protocol):
    """Whatever maps a function over images; every engine gives the same result."""

    def map(
        self, function: TileFunction, model: nn.Module, images: Batches, indices: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """Row i of every result belongs to `indices[i]`; results lie on the CPU."""
        ...


@dataclass(frozen=True)
class Local:
    """One process. Tiles have a fixed size, the last one padded, so results do not depend on how the work is cut.

    Args:
        tile: images a call of the function sees; memory is bounded by it. 128 of 28x28 fit a CPU's cache.
    """

    tile: int = 128

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise InputError(f"a tile holds at least one image; {self.tile} came")

    def map(
        self, function: TileFunction, model: nn.Module, images: Batches, indices: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """Call `function(model, batch, generator)` on tiles of `images[indices]`; model in eval mode, no gradients on.

        Args:
            function: returns {name: [B, ...]}; module-level or a frozen dataclass. May switch gradients on for itself.
            model: afterwards in the mode it was in.
            images: what has `batch(indices, device)`.
            indices: [M] int64 positions in `images`.
            seed: tile t draws from the stream (seed, "tile", t).

        Returns:
            {name: [M, ...]} on the CPU.
        """
        return tiled(function, model, images, indices, seed, self.tile)


def tiled(
    function: TileFunction,
    model: nn.Module,
    images: Batches,
    indices: Tensor,
    seed: int,
    tile: int,
    first: int = 0,
) -> dict[str, Tensor]:
    """As `Local.map`, where `indices` are those from tile `first` of some more on."""
    device = home_of(model)
    with frozen(model), torch.no_grad():
        if len(indices) == 0:
            # Rows of the right shape are due all the same. Not every model takes a batch of none.
            one = torch.zeros(min(len(images), 1), dtype=torch.int64)
            rows = function(model, images.batch(one, device), generator(seed, "tile", 0))
            return {name: values[:0].cpu() for name, values in rows.items()}
        parts = indices.split(tile)
        missing = tile - len(parts[-1])
        padded = [*parts[:-1], torch.cat([parts[-1], parts[-1][-1:].expand(missing)])]
        results = Rows(len(indices))
        batches = ahead(images, padded, device)
        for number, batch in enumerate(track(batches, "looking at the pool", len(parts))):
            rows = function(model, batch, generator(seed, "tile", first + number))
            for name, values in rows.items():
                if len(values) != tile:
                    raise ContractError(
                        f"a function over images returned {len(values)} rows of {name!r} for a tile of {tile}"
                    )
            results.put(number * tile, rows, len(parts[number]))
    return results.found
