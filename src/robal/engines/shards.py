"""Work cut into shards, each one file: what is finished is never computed again, whoever did it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robal import __version__
from robal.engines.local import Batches, TileFunction, tiled
from robal.engines.rows import Rows
from robal.errors import InputError, RunFolderError
from robal.files import absolute, whole
from robal.progress import say, track

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
    def key(self) -> str | None:
        """16 hexadecimal digits of the SHA-256 of all that decides the rows: model, function, images, seed, tile.

        None where something cannot be named by its content, such as a function with values from around it.
        """
        digest = hashlib.sha256(repr((__version__, torch.__version__, self.seed, self.tile)).encode())
        try:
            for part in (*named(self.function), *named(self.model)):
                digest.update(part)
        except TypeError:
            return None
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
        """Whole or not at all, whoever else writes the same."""
        contiguous = {name: values.contiguous() for name, values in rows.items()}
        with whole(self.path, alone=False) as temporary:
            temporary.write_bytes(save(contiguous, {"sha256": _content(contiguous)}))

    def load(self) -> dict[str, Tensor] | None:
        """The rows, or None where they are not there, or are damaged."""
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                said = (file.metadata() or {}).get("sha256")
        except (OSError, safetensors.SafetensorError):
            return None
        whole_one = all(len(values) == len(self.indices) for values in rows.values())
        return rows if whole_one and said == _content(rows) else None


def _content(rows: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(rows):
        digest.update(f"{name} {rows[name].dtype} {list(rows[name].shape)}".encode() + _bytes(rows[name]))
    return digest.hexdigest()


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
    place = _place(folder, job)
    shards = [
        Shard(start, part, (place or Path()) / f"{start:012d}-{_digest(part)}.safetensors")
        for start, part in zip(range(0, len(indices), size), indices.split(size), strict=True)
    ]
    results, missing = Rows(len(indices)), list[Shard]()
    for shard in shards:
        rows = shard.load() if place is not None and shard.path.exists() else None
        if rows is None or not results.fits(rows):
            missing.append(shard)
        else:
            results.put(shard.start, rows, len(shard.indices))
    done = len(shards) - len(missing)
    for shard, rows in track(carry_out(job, missing), "shards of the pool", len(shards), done):
        if not results.fits(rows):
            raise RunFolderError(f"{place} holds rows of something else than is computed now; remove it")
        if place is not None:
            shard.save(rows)
        results.put(shard.start, rows, len(shard.indices))
    return results.found


def _digest(indices: Tensor) -> str:
    return hashlib.sha256(indices.numpy().tobytes()).hexdigest()[:12]


def _place(folder: str, job: Job) -> Path | None:
    """The folder of a job's shards; None where nothing is kept. Raises RunFolderError."""
    if not folder:
        return None
    if job.key is None:
        say("what is computed cannot be named by its content, so nothing of it is kept")
        return None
    place = Path(folder).expanduser() / job.key
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"shards cannot be kept in {folder}: {error}; name another folder") from error
    return place


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

    def located(self) -> Sharded:
        """The same with the absolute path of its folder."""
        return replace(self, folder=absolute(self.folder))

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


def named(value: Any) -> Iterator[bytes]:
    """What a value is, by its content: numbers, tensors, networks, functions of a module, dataclasses of such.

    Raises:
        TypeError: for anything else, such as a function that uses values from around it.
    """
    if isinstance(value, Tensor):
        yield f"{value.dtype} {list(value.shape)}".encode() + _bytes(value)
    elif isinstance(value, nn.Module):
        for name, module in value.named_modules():
            yield f"{name} {_source(type(module))}".encode()
            for key, part in vars(module).items():
                if key in ("_parameters", "_buffers"):
                    for inner, tensor in part.items():
                        yield inner.encode() + (b"" if tensor is None else b"".join(named(tensor)))
                elif key.endswith("_hooks") or key.endswith("_with_kwargs") or key.endswith("_always_called"):
                    if part:
                        raise TypeError("a network with hooks")
                elif key != "_modules" and key != "training":
                    yield key.encode()
                    yield from named(part)
    elif inspect.isfunction(value):
        if value.__closure__ or value.__name__ == "<lambda>":
            raise TypeError("a function that uses values from around it")
        yield _source(value).encode()
    elif is_dataclass(value) and not isinstance(value, type):
        yield _source(type(value)).encode()
        for field in fields(value):
            yield field.name.encode()
            yield from named(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key in value:
            yield from named(key)
            yield from named(value[key])
    elif isinstance(value, set | frozenset):
        yield from named(sorted(value, key=repr))
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}".encode()
        for one in value:
            yield from named(one)
    elif value is None or isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}".encode()
    elif inspect.isbuiltin(value) or isinstance(value, type) or type(value).__module__.startswith("torch"):
        yield f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', repr(value))}".encode()
    else:
        raise TypeError(f"{type(value).__qualname__} has no name by its content")


_PLAIN = (bool, int, float, complex, str, bytes, Path, torch.dtype, torch.device)


def _source(kind: Any) -> str:
    """The place of a class or function, and its text where that can be had; torch's own go by torch's version."""
    place = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__.partition(".")[0] == "torch":
        return place
    try:
        return f"{place} {inspect.getsource(kind)}"
    except (OSError, TypeError):
        return place
