"""Several processes train one model: each attacks its share of every batch by itself, and gradients are summed."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from robal.errors import InputError, PlanError, RobalError
from robal.machine import processors
from robal.networks import home_of
from robal.objectives import Batch
from robal.progress import heard_by, quiet, track
from robal.training.trained import Trained

_LEAST = 2  # images in a share: BatchNorm cannot use fewer


@dataclass(frozen=True)
class Group:
    """Processes that train together; by default one alone.

    Args:
        rank: of this process; that of rank 0 writes checkpoints and asks the monitor.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, devices: int) -> Group:
        """This process among those of torch.distributed, where a recipe asks for as many devices; else alone.

        Raises:
            InputError: where torch.distributed was begun with another number of processes.
        """
        if not distributed.is_initialized():
            return cls()
        if devices == 1:  # all do the same, and one of them writes
            return cls(distributed.get_rank())
        if distributed.get_world_size() != devices:
            raise InputError(
                f"recipe.devices={devices}, and torch.distributed was begun with {distributed.get_world_size()} "
                "processes: say the same number"
            )
        return cls(distributed.get_rank(), devices)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """Every size-th image of a batch; and the factor by which the mean losses of all shares sum up to the batch's.

        Of a batch too small to be shared each process takes the whole.
        """
        if self.size == 1:
            return batch, 1.0
        mine = {}
        for field in fields(batch):
            rows = getattr(batch, field.name)
            if isinstance(rows, Tensor) and len(rows) >= _LEAST * self.size:
                mine[field.name] = rows[self.rank :: self.size].contiguous()
        own = replace(batch, **mine)
        whole = len(batch.labels)
        return own, 1 / self.size if len(own.labels) == whole else len(own.labels) / whole

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each gradient becomes the sum of those of all processes; all have the same bits afterwards."""
        if self.size == 1:
            return
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in found])
        distributed.all_reduce(flat)
        for gradient, values in zip(found, flat.split([gradient.numel() for gradient in found]), strict=True):
            gradient.copy_(values.view_as(gradient))

    @torch.no_grad()
    def average_buffers(self, *models: nn.Module | None) -> None:
        """BatchNorm's statistics, which each process took of its own share, become their means."""
        for model in models if self.size > 1 else ():
            for buffer in [] if model is None else model.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer.div_(self.size)

    def agreed(self, figure: Callable[[], float], device: torch.device) -> float:
        """A figure that rank 0 takes, told to all."""
        if self.size == 1:
            return figure()
        told = torch.tensor([figure() if self.leads else 0.0], dtype=torch.float64, device=device)
        distributed.broadcast(told, 0)
        return float(told)

    def named(self) -> tuple[str | int, ...]:
        """What tells this process's random streams from the others'; nothing where it is alone."""
        return () if self.size == 1 else ("rank", self.rank)


def check_devices(count: int, model: nn.Module) -> None:
    """Refuse more processes than there are GPUs, or processors. Raises InputError."""
    on_gpu = home_of(model).type == "cuda"
    there = torch.cuda.device_count() if on_gpu else processors()
    if count > there:
        raise InputError(f"recipe.devices={count}, and there are {there} {'GPUs' if on_gpu else 'processors'}")


def side_by_side(
    train: Callable[..., Trained], count: int, previous: Trained, what: str, given: tuple[Any, ...]
) -> Trained:
    """`train(*given)` in `count` processes of this machine at once, and what the first of them returns.

    Args:
        train: a module-level function; there `Group.of(count)` says which process it is.
        count: how many.
        previous: the model that training starts from, which says where it runs; it is left as it is.
        what: of the progress bar.
        given: the arguments, which have to be picklable.

    Raises:
        InputError: for more processes than there are devices, or what cannot be sent to another process.
        RobalError: whatever a process raises.
    """
    check_devices(count, previous.model)
    home = home_of(previous.model)
    with tempfile.TemporaryDirectory(prefix="robal-devices-") as folder:
        context: Any = multiprocessing.get_context("forkserver")  # which imports torch once, for all trainings
        context.set_forkserver_preload(["robal.training.fit"])
        told, (alive, held) = context.SimpleQueue(), context.Pipe(duplex=False)
        threads = max(1, torch.get_num_threads() // count)
        try:
            begun: Any = start_processes(
                _one,
                (train, count, home.type, threads, folder, told, alive, given),
                count,
                join=False,
                start_method="forkserver",
            )
        except Exception as error:  # of whatever cannot be written down
            raise InputError(f"with recipe.devices={count} everything is sent to other processes: {error}") from error
        bar = _Bar(what)
        try:
            while not begun.join(timeout=0.2):
                bar.show(told)
        except ProcessRaisedException as error:
            raise _raised(Path(folder)) or RobalError(f"{what}, in {count} processes: {error}") from error
        except ProcessExitedException as error:
            raise _raised(Path(folder)) or RobalError(
                f"{what}: one of {count} processes ended ({error}); go on by `robal resume`"
            ) from error
        finally:
            bar.close()
            for process in begun.processes:
                if process.is_alive():
                    process.kill()
                process.join()
            held.close()
            alive.close()
        found = Trained.load(Path(folder) / "trained.safetensors", copy.deepcopy(previous.model))
        return replace(found, **json.loads((Path(folder) / "numbers.json").read_text(encoding="utf-8")))


def _one(
    rank: int,
    train: Callable[..., Trained],
    count: int,
    kind: str,
    threads: int,
    folder: str,
    told: Any,
    alive: Any,
    given: tuple[Any, ...],
) -> None:
    """What a process does."""
    place = Path(folder)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    if kind == "cuda":
        torch.cuda.set_device(rank)
        for part in given:
            if isinstance(part, Trained):
                part.model.to(f"cuda:{rank}")
    distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo", init_method=f"file://{place / 'store'}", rank=rank, world_size=count
    )
    try:
        with quiet(), heard_by(lambda *said: told.put(said) if rank == 0 else None):
            trained = train(*given)
        if rank == 0:
            trained.save(place / "trained.safetensors")
            numbers = {name: getattr(trained, name) for name in ("evaluations", "earlier", "score")}
            (place / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")
    except RobalError as error:
        (place / f"error-{rank}.json").write_text(json.dumps([type(error).__name__, str(error)]), encoding="utf-8")
        raise
    finally:
        distributed.destroy_process_group()


def _end_with(alive: Any) -> None:
    """End this process when the one that began it has: nobody else holds the other end of the pipe."""
    with suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)


def _raised(folder: Path) -> RobalError | None:
    """The error of the first process that had one of robal's."""
    for path in sorted(folder.glob("error-*.json")):
        name, said = json.loads(path.read_text(encoding="utf-8"))
        kind = next((one for one in _kinds(RobalError) if one.__name__ == name), RobalError)
        return PlanError([said]) if kind is PlanError else kind(said)
    return None


def _kinds(kind: type[RobalError]) -> Iterator[type[RobalError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)


class _Bar:
    """A progress bar here for work that is done in another process."""

    def __init__(self, what: str) -> None:
        self._what, self._done = what, 0
        self._steps: Iterator[int] | None = None

    def show(self, told: Any) -> None:
        while not told.empty():
            what, done, total = told.get()
            if what != self._what or total is None:
                continue
            if self._steps is None:
                self._done = done
                self._steps = track(iter(range(done, total + 1)), what, total, done)
                next(self._steps)
            for _ in range(self._done, done):
                next(self._steps, None)
            self._done = max(done, self._done)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()  # type: ignore[attr-defined]
