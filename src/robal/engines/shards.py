"""Work cut into shards, each one file: what is finished is never computed again, whoever did it."""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robal import __version__
from robal.engines.local import Batches, TileFunction, tiled
from robal.engines.rows import Rows
from robal.errors import InputError
from robal.files import whole
from robal.progress import track

_TILE = 4_096  # images read at once for a fingerprint


@dataclass(frozen=True, eq=False)
class Job:
    """A function to be mapped over images, as `Engine.map` takes it.

    Args:
        function, model, images, seed: see `robal.engines.Local.map`.
        tile: images a call of the function sees.
    """

    function: TileFunction
    model: nn.Module
    images: Batches
    seed: int
    tile: int

    def rows(self, first: int, indices: Tensor) -> dict[str, Tensor]:
        """{name: [len(indices), ...]} for the indices from tile number `first` on."""
        return tiled(self.function, self.model, self.images, indices, self.seed, self.tile, first)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all that decides the rows: model, function, images, seed, tile."""
        digest = hashlib.sha256(repr((__version__, torch.__version__, self.seed, self.tile)).encode())
        digest.update(_named(self.function).encode())
        digest.update(f"{type(self.model).__qualname__} {self.model}".encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(fingerprint(self.images).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Shard:
    """Some neighbouring indices of a job, and the file that their rows go to.

    Args:
        start: position of the first of them among all.
        indices: [n] int64 positions in the images.
        path: of the file.
    """

    start: int
    indices: Tensor
    path: Path

    def save(self, rows: dict[str, Tensor]) -> None:
        """Whole or not at all."""
        contiguous = {name: values.contiguous() for name, values in rows.items()}
        with whole(self.path) as temporary:
            temporary.write_bytes(save(contiguous, {"rows": json.dumps(len(self.indices))}))

    def load(self) -> dict[str, Tensor] | None:
        """The rows, or None where they are not there, or are damaged."""
        try:
            rows = load_file(self.path)
        except (OSError, safetensors.SafetensorError):
            return None
        return rows if all(len(values) == len(self.indices) for values in rows.values()) else None


def mapped(
    job: Job,
    indices: Tensor,
    folder: str,
    size: int,
    carry_out: Callable[[Job, list[Shard]], Iterable[tuple[Shard, dict[str, Tensor]]]],
) -> dict[str, Tensor]:
    """{name: [M, ...]}: the rows of all indices; `carry_out` yields those of the shards that are not in the folder yet.

    Args:
        job: what is to be done.
        indices: [M] int64 positions in the images.
        folder: where finished shards are kept, in a folder of the job's own; "": until this call ends.
        size: images of a shard.
        carry_out: (job, shards) -> (shard, rows), in any order.
    """
    if not len(indices):
        return job.rows(0, indices)
    with _place(folder, job) as place:
        shards = [
            Shard(start, part, place / f"{start:012d}-{_digest(part)}.safetensors")
            for start, part in zip(range(0, len(indices), size), indices.split(size), strict=True)
        ]
        results, missing = Rows(len(indices)), list[Shard]()
        for shard in shards:
            rows = shard.load() if shard.path.exists() else None
            if rows is None:
                missing.append(shard)
            else:
                results.put(shard.start, rows, len(shard.indices))
        done = len(shards) - len(missing)
        for shard, rows in track(carry_out(job, missing), "shards of the pool", len(shards), done):
            if folder:
                shard.save(rows)
            results.put(shard.start, rows, len(shard.indices))
    return results.found


def _digest(indices: Tensor) -> str:
    return hashlib.sha256(indices.numpy().tobytes()).hexdigest()[:12]


@contextmanager
def _place(folder: str, job: Job) -> Iterator[Path]:
    if folder:
        place = Path(folder).expanduser() / job.key
        place.mkdir(parents=True, exist_ok=True)
        yield place
    else:
        yield Path(tempfile.gettempdir()) / "robal-shards-that-are-not-kept"


@dataclass(frozen=True)
class Sharded:
    """One process, as `Local`; what it has seen is kept in files, so that a killed look at a large pool goes on.

    Args:
        folder: where to; "": nothing is kept.
        shard: images of a file, a multiple of `tile`.
        tile: images a call of the function sees.
    """

    folder: str = ""
    shard: int = 8_192
    tile: int = 128

    def __post_init__(self) -> None:
        check_sizes(self.shard, self.tile)

    def map(
        self, function: TileFunction, model: nn.Module, images: Batches, indices: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """As `Local.map`, to the bit."""
        job = Job(function, model, images, seed, self.tile)
        return mapped(job, indices, self.folder, self.shard, one_by_one)


def one_by_one(job: Job, shards: list[Shard]) -> Iterator[tuple[Shard, dict[str, Tensor]]]:
    """Carry out shards here."""
    for shard in shards:
        yield shard, job.rows(shard.start // job.tile, shard.indices)


def check_sizes(shard: int, tile: int) -> None:
    """Raises InputError where a shard is not made of whole tiles."""
    if tile < 1 or shard < 1 or shard % tile:
        raise InputError(f"a shard is made of whole tiles, and a tile holds at least one image; {shard} of {tile} came")


def fingerprint(images: Any) -> str:
    """16 hexadecimal digits or more that tell images apart: what they say of themselves, else of all their pixels."""
    said = getattr(images, "fingerprint", None)
    if isinstance(said, str):
        return said
    digest = hashlib.sha256()
    for part in torch.arange(len(images)).split(_TILE):
        pixels = images.at_rest(part)
        digest.update(f"{pixels.dtype} {list(pixels.shape)}".encode())
        digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _named(function: Any) -> str:
    """What a function over images is: its place, its settings, and its text where that can be had."""
    kind = function if inspect.isfunction(function) else type(function)
    settings = "" if inspect.isfunction(function) else repr(function)
    try:
        text = inspect.getsource(kind)
    except (OSError, TypeError):
        text = ""
    return f"{kind.__module__}:{kind.__qualname__} {settings} {text}"
