"""Runs that take a second, processes of their own to run them in, and what two runs must have in common."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from robal.cli import main
from robal.folder import RunFolder
from robal.loop import run
from robal.plan import Plan
from robal.plans import read_plan

SETTINGS = (
    "threat.eps=0.05",
    "start={labels: 40, recipe: {epochs: 10, batch_size: 10, optimiser: {lr: 0.005}}}",
    "per_round=10",
    "rounds=2",
    "recipe={epochs: 2, budget: null, batch_size: 10, pool: null, objective: {attack: {steps: 2, step_size: null}}}",
    "validation={images: 20, attack: {name: PGD, steps: 2}}",
    "evaluation={images: 20, each_round: [{name: PGD, steps: 2}], at_end: [FGSM]}",
)
# Every part of the state counts: the best epoch is chosen, the optimiser goes on, dropout and crops draw noise, twins
# and pseudo-labelled images are kept, teachers are trained, the pool trains too, weights are averaged, eps grows,
# snapshots are taken. With this seed the best epochs of rounds 0 and 2 are not the last ones.
DELICATE = (
    "seed=6",
    "network={name: LeNet5, dropout: 0.05}",
    "start.recipe={keep: best, keep_optimiser: true}",
    "recipe={keep: best, keep_optimiser: true, augmentation: {name: CropFlip, pad: 1}}",
    "validation.bought_share=0.2",
    "oracle.noise=0.1",
    "acquisition={name: Mix, first: {name: CEAL, score: EntropyMix, threshold: 0.5}, second: DFAL}",
    "recipe={snapshots: 2, average: 0.9, ramp: 0.5}",
    "recipe.pool={images: 60, teacher: {objective: Natural, budget: 1500, batch_size: 10}}",
    "recipe.pool.teacher.optimiser={name: Adam, lr: 0.01}",
)

FORKS = multiprocessing.get_context("forkserver")  # imports torch once, and forks from there
FORKS.set_forkserver_preload(
    ["robal.cli", "robal.loop", "robal.presets", "robal.report", "torch._dynamo", "sklearn.datasets", "pytest"]
)


def tiny_plan(*settings: str) -> Plan:
    """Digits, LeNet5, 20 + 2 · 10 labels, two epochs a round, with `settings` on top."""
    return read_plan(None, [*SETTINGS, *settings])


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its times: what has to be the same however often a run was stopped."""
    return {key: value for key, value in row.items() if key not in ("seconds", "times")}


def tensors(path: Path) -> dict[str, tuple[Any, bytes]]:
    """Every tensor of a safetensors file as (dtype and shape, bytes), and the numbers beside them."""
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = (file.metadata() or {})["numbers"]
    plain = {name: ((value.dtype, tuple(value.shape)), value.numpy().tobytes()) for name, value in found.items()}
    return plain | {"numbers": (None, numbers.encode())}


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run decided: questions, answers, metrics without times, query files, the weights of every round."""
    with sqlite3.connect(folder / "state.sqlite") as database:
        questions = database.execute("SELECT round, position, image FROM questions ORDER BY 1, 2").fetchall()
        answers = database.execute("SELECT round, image, label FROM answers ORDER BY 1, 2").fetchall()
        relabelled = database.execute("SELECT round, image, label FROM relabelled ORDER BY 1, 2").fetchall()
        said = database.execute("SELECT image, who, label FROM judgements ORDER BY 1, 2").fetchall()
    database.close()
    return {
        "questions": questions,
        "answers": answers,
        "relabelled": relabelled,
        "said": said,
        "metrics": [untimed(row) for row in rows(folder)],
        "queries": [path.read_text(encoding="utf-8") for path in sorted(folder.glob("rounds/*/query.csv"))],
        "pictures": [path.read_bytes() for path in sorted(folder.glob("rounds/*/*.png"))],
        "weights": [tensors(path) for path in sorted(folder.glob("rounds/*/model.safetensors"))],
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "report" not in path.parts),
    }


def carry_out(settings: Sequence[str], folder: Path) -> None:
    """The whole of a tiny run, without a report."""
    plan = tiny_plan(*settings)
    run(plan, plan.data.load(), folder)


@dataclass(frozen=True)
class Apart:
    """Work in a process of its own, which may kill itself.

    Args:
        work: without arguments.
        log: a file that takes standard output and standard error.
        calls: a file that takes the name of each save, one a line, as it is made.
        kill_at: at which save (from 0) the process kills itself; -1: it does not.
        before: before the save is made, else after it.
        signal: by which signal.
    """

    work: Callable[[], object]
    log: Path
    calls: Path | None = None
    kill_at: int = -1
    before: bool = True
    signal: int = signal.SIGKILL

    def __call__(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
        with self.log.open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if self.calls is not None or self.kill_at >= 0:
            watch_saves(self._saved)
        self.work()

    def _saved(self, number: int, name: str, is_before: bool) -> None:
        if is_before and self.calls is not None:
            with self.calls.open("a", encoding="utf-8") as file:
                file.write(name + "\n")
        if number == self.kill_at and is_before == self.before:
            os.kill(os.getpid(), self.signal)

    def start(self) -> Any:
        """The process, under way."""
        process = FORKS.Process(target=self)
        process.start()
        return process

    def run(self, kill_after: float | None = None) -> int:
        """The exit code; -9 when it was killed, by itself or `kill_after` seconds."""
        process = self.start()
        process.join(kill_after if kill_after is not None else 120)
        if process.exitcode is None:
            process.kill()
            process.join()
            assert kill_after is not None, f"it goes on and on: {self.said}"
        code = process.exitcode
        process.close()
        return code

    @property
    def said(self) -> str:
        """Standard output and standard error."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


def robal(*arguments: str | Path) -> Callable[[], object]:
    """The command line as work for another process."""
    return partial(main, [str(argument) for argument in arguments])


def main_ends(words: list[str]) -> None:
    """The command line, which ends well."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def hold(folder: Path) -> None:
    """Keep a run folder locked, for as long as the process lives."""
    with RunFolder(folder).locked():
        print("locked", flush=True)
        time.sleep(60)


def watch_saves(saved: Callable[[int, str, bool], None]) -> None:
    """Call `saved(number, name, is_before)` around everything that writes to a run folder, in this process."""
    import robal.loop
    import robal.records
    from robal.training import Trained

    count = itertools.count()
    places: Sequence[tuple[Any, str]] = (
        (robal.loop, "write_records"),
        (robal.records, "write"),
        (robal.loop, "contact_sheet"),
        (robal.loop, "save_kept"),
        (RunFolder, "save_question"),
        (RunFolder, "save_answers"),
        (RunFolder, "save_relabelled"),
        (sys.modules["robal.training.fit"], "save_tensors"),
        (Trained, "save"),
        (RunFolder, "save_query"),
        (RunFolder, "save_history"),
        (Path, "replace"),  # from the temporary file to the one that counts
        (Path, "unlink"),
    )

    def watched(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = next(count)
            saved(number, name, True)
            result = inner(*args, **kwargs)
            saved(number, name, False)
            return result

        return call

    for owner, name in places:
        setattr(owner, name, watched(f"{getattr(owner, '__name__', owner)}.{name}", getattr(owner, name)))
