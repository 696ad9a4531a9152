"""Where the runs of a study are carried out: in processes of this machine, or by Ray on many."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from robal.engines.on_ray import connected
from robal.errors import InputError
from robal.studies.work import Job, at_work, work

_LOOK = 0.5  # seconds between two looks


class Scheduler(Protocol):
    """Carries out jobs side by side."""

    def begin(self, job: Job) -> None:
        """Start a job; called only while `free`."""
        ...

    @property
    def free(self) -> bool:
        """Whether one more job can begin at once."""
        ...

    @property
    def running(self) -> tuple[Job, ...]:
        """The jobs that have begun and not ended."""
        ...

    def ended(self) -> list[tuple[Job, str]]:
        """Wait a moment; the jobs that have ended since, each with what went wrong, or ""."""
        ...

    def stop(self) -> None:
        """End what is under way; nothing is lost."""
        ...


@dataclass
class Local:
    """Processes of this machine.

    Args:
        workers: how many at once.

    Raises:
        InputError: for fewer than one.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"workers says how many runs go side by side, 1 or more; {self.workers} came")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["robal.studies.work"])
        self._running: dict[BaseProcess, Job] = {}

    @property
    def free(self) -> bool:
        return len(self._running) < self.workers

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._running.values())

    def begin(self, job: Job) -> None:
        process = self._context.Process(target=at_work, args=(job,), daemon=True)
        process.start()
        self._running[process] = job

    def ended(self) -> list[tuple[Job, str]]:
        connection.wait([process.sentinel for process in self._running], _LOOK)
        found = []
        for process in [process for process in self._running if not process.is_alive()]:
            process.join()
            code = process.exitcode or 0
            why = f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            found.append((self._running.pop(process), why if code else ""))
        return found

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.join()
        self._running.clear()


class OnRay:
    """Tasks of Ray: on the cluster at `address`, else on one that is started here for as long as the study lasts.

    Run folders must lie where every machine of the cluster sees them under the same path.

    Args:
        address: of a cluster that runs, or "".
        workers: how many runs at once; None: as many as the cluster has processors, less one.
        gpus: that Ray gives to a run, or a share of one, such as 0.25; a run uses it where its plan's device is auto.

    Raises:
        InputError: where Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str = "", workers: int | None = None, gpus: float = 0) -> None:
        ray = self._ray = connected(address, workers)
        self._workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(work)
        self._running: dict[Any, Job] = {}

    @property
    def free(self) -> bool:
        return len(self._running) < self._workers

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._running.values())

    def begin(self, job: Job) -> None:
        self._running[self._task.remote(job)] = job

    def ended(self) -> list[tuple[Job, str]]:
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_LOOK) if self._running else ([], [])
        found = []
        for reference in done:
            try:
                self._ray.get(reference)
                why = ""
            except Exception as error:
                why = str(getattr(error, "cause", None) or error)
            found.append((self._running.pop(reference), why))
        return found

    def stop(self) -> None:
        for reference in self._running:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def carried_out(
    jobs: Sequence[Job], after: Callable[[Job, str], Iterable[Job]], scheduler: Scheduler
) -> Iterator[list[tuple[Job, str]]]:
    """Carry out jobs, and those that `after` says may begin once another has ended, well or not.

    Yields:
        Every half second, or as soon as one ends: the jobs that ended since, each with what went wrong, or "".
    """
    waiting = list(jobs)
    while waiting or scheduler.running:
        while waiting and scheduler.free:
            scheduler.begin(waiting.pop(0))
        ended = scheduler.ended()
        for job, why in ended:
            waiting[:0] = after(job, why)  # a seed's runs before the next seed's beginning
        yield ended
