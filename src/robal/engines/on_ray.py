"""Many processes, on this machine or on a cluster, by Ray: actors that carry out shards."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from robal.engines.local import Batches, TileFunction
from robal.engines.shards import Job, Shard, check_sizes, mapped, one_by_one
from robal.errors import InputError, RobalError
from robal.files import absolute
from robal.machine import processors
from robal.progress import say

_TRIES = 4  # of one shard, before the work is given up
_PATIENCE = 30.0  # seconds without any worker, after which this process looks itself


@dataclass(frozen=True)
class OnRay:
    """Shards carried out by actors of Ray; the rows are those of `Local` with as many threads, to the bit.

    A worker that is lost costs the shard that it was at: another one begins it again. Work of one shard is done here.
    Images in memory are copied to every worker; those of a file are read from it, under the same path on all machines.

    Args:
        address: of a cluster that runs ("auto", "ray://head:10001"); "": one is started on this machine.
        workers: how many shards are at work at once; None: as many as there are processors, less one for all else.
        folder: where finished shards are kept; only this process writes there. "": nothing is kept.
        shard: images of a shard, a multiple of `tile`.
        tile: images a call of the function sees.
        threads: of torch in a worker.
        gpus: of a worker, which the model is moved to; 0: the processor.
    """

    address: str = ""
    workers: int | None = None
    folder: str = ""
    shard: int = 8_192
    tile: int = 128
    threads: int = 1
    gpus: float = 0

    def located(self) -> OnRay:
        """The same with the absolute path of its folder."""
        return replace(self, folder=absolute(self.folder))

    def __post_init__(self) -> None:
        check_sizes(self.shard, self.tile)
        if (self.workers is not None and self.workers < 1) or self.threads < 1 or self.gpus < 0:
            raise InputError(
                f"workers and threads are 1 or more, gpus 0 or more; {self.workers}, {self.threads}, {self.gpus} came"
            )

    def map(
        self, function: TileFunction, model: nn.Module, images: Batches, indices: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """As `Local.map`.

        Raises:
            InputError: where Ray is not installed, or no cluster answers.
            RobalError: where workers are lost again and again at one shard.
        """
        job = Job(function, model, images, seed, self.tile)
        return mapped(job, indices, self.folder, self.shard, self._carry_out)

    def _carry_out(self, job: Job, shards: list[Shard]) -> Iterator[tuple[Shard, dict[str, Tensor]]]:
        if len(shards) < 2 and not self.gpus:
            yield from one_by_one(job, shards)
            return
        ray = connected(self.address, self.workers)
        there = ray.cluster_resources()
        count = min(self.workers or max(1, int(there.get("CPU", 1)) - 1), len(shards))
        if self.gpus:
            count = min(count, int(there.get("GPU", 0) / self.gpus))
            if not count:
                raise InputError(
                    f"a worker needs {self.gpus} GPUs, and this cluster of Ray has {there.get('GPU', 0):g}"
                )
        idle = _workers.setdefault((ray.get_runtime_context().get_node_id(), self.gpus), [])
        at_rest = [ray.put(replace(job, model=copy.deepcopy(job.model).cpu()))]
        waiting, tries, at_work = [*reversed(shards)], dict[int, int](), dict[Any, tuple[Any, Shard | None]]()
        for _ in range(count):  # whether or not each finds a processor: who is ready gets work
            worker = idle.pop() if idle else _begun(ray, self.gpus)
            at_work[worker.ready.remote()] = (worker, None)
        try:
            while waiting or any(shard for _, shard in at_work.values()):
                done, _ = ray.wait(list(at_work), num_returns=1, timeout=_PATIENCE)
                if not done:
                    if waiting and not any(shard for _, shard in at_work.values()):
                        say(f"no worker of Ray has begun in {_PATIENCE:g} seconds; meanwhile images are looked at here")
                        yield from one_by_one(job, [waiting.pop()])
                    continue
                worker, shard = at_work.pop(done[0])
                found = None
                try:
                    found = ray.get(done[0])
                except ray.exceptions.RayTaskError as error:
                    at_work[worker.ready.remote()] = (worker, None)
                    raise (error.cause if isinstance(error.cause, Exception) else error) from None
                except ray.exceptions.RayError as error:
                    ray.kill(worker)
                    if shard is not None:
                        tries[shard.start] = tries.get(shard.start, 0) + 1
                        if tries[shard.start] == _TRIES:
                            raise RobalError(
                                f"workers of Ray were lost {_TRIES} times at images {shard.start:,} to "
                                f"{shard.start + len(shard.indices):,} (too little memory?): {error}"
                            ) from None
                        say(f"a worker of Ray was lost; images {shard.start:,} and on are looked at again")
                        waiting.append(shard)
                    worker = _begun(ray, self.gpus)
                    at_work[worker.ready.remote()] = (worker, None)
                    continue
                if waiting:
                    following = waiting.pop()
                    first = following.start // job.tile
                    at_work[worker.rows.remote(at_rest, first, following.indices, self.threads)] = (worker, following)
                else:
                    idle.append(worker)
                if shard is not None:
                    yield shard, found
        finally:
            for worker, _ in at_work.values():  # who never began; all who are at work, after an error or Ctrl-C
                ray.kill(worker)
            for worker in idle:
                worker.forget.remote()


_workers: dict[tuple[str, float], list[Any]] = {}  # idle ones by cluster and GPUs: beginning one takes seconds


def _begun(ray: Any, gpus: float) -> Any:
    # a user's own model or function is imported there from where it is imported here
    importing = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
    return ray.remote(num_cpus=1, num_gpus=gpus, runtime_env=importing)(Worker).remote(gpus > 0)


class Worker:
    """What an actor does: keep the latest job, and carry out its shards."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self.forget()

    def ready(self) -> None:
        """Answers as soon as it has begun."""

    def forget(self) -> None:
        """Let go of the job, which may hold many images."""
        self._at, self._job = "", cast("Job", None)

    def rows(self, at_rest: list[Any], first: int, indices: Tensor, threads: int) -> dict[str, Tensor]:
        """See `Job.rows`; the job lies in Ray's store at `at_rest`."""
        import ray

        if self._at != at_rest[0].hex():
            torch.set_num_threads(threads)
            self._job, self._at = ray.get(at_rest[0]), at_rest[0].hex()
            if self._on_gpu:
                self._job.model.to("cuda")
        return self._job.rows(first, indices)


def connected(address: str, workers: int | None) -> Any:
    """Ray, connected to the cluster at `address`, or to one that is started here. Raises InputError."""
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'robal[ray]'") from None
    if ray.is_initialized():
        return ray
    # Ray warns of how it will treat processors without GPUs one day, unless this says how
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    here = max(workers or 1, processors())
    where: dict[str, Any] = {"address": address} if address else {"num_cpus": here, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except Exception as error:
        raise InputError(f"Ray could not be reached{f' at {address}' if address else ''}: {error}") from None
    return ray
