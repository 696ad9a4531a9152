"""One run of a study, in a process of its own; whatever ends it, called again it goes on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path

import torch

from robal.data import Data
from robal.errors import AwaitingLabels
from robal.files import write
from robal.folder import RunFolder
from robal.loop import rounds
from robal.machine import keep_freed_memory
from robal.oracles import FURTHER
from robal.plan import Plan
from robal.progress import quiet
from robal.records import begun, check_same_run, write_records
from robal.state import shared_out

FAILED = "failed.json"
_KEPT = ("question.png", "query.csv", "query.png", "model.safetensors", "kept.safetensors")  # of a finished round


@dataclass(frozen=True)
class Job:
    """What is done at once: a whole run, or round 0 of one, for all that share it.

    Args:
        plan: the run's.
        folder: the run's.
        start: where round 0 is taken from, unless it is there; None: it is computed.
        only_start: stop after round 0.
        data: where data sets are looked for that the plan does not place; "": where this process does.
    """

    plan: Plan
    folder: Path
    start: Path | None = None
    only_start: bool = False
    data: str = ""


def work(job: Job) -> None:
    """Carry out a job, or what is left of it. What went wrong is in the folder's failed.json.

    Raises:
        Exception: whatever the run raises.
    """
    keep_freed_memory()
    torch.set_num_threads(1)  # as many runs go side by side as there are processors
    if job.data:  # on another machine the environment is another
        os.environ["ROBAL_DATA"] = job.data
    failed = job.folder / FAILED
    failed.unlink(missing_ok=True)  # of another time
    try:
        with quiet():
            data = job.plan.data.load()
            if job.start is not None:
                take_over(job.start, job.folder, job.plan, data)
            for state in rounds(job.plan, data, job.folder):
                if job.only_start and state.round > 0:
                    break
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            job.folder.mkdir(parents=True, exist_ok=True)
            waits = isinstance(error, AwaitingLabels)
            said = {"why": f"{type(error).__name__}: {error}", "waits": waits, "trace": traceback.format_exc()}
            write(failed, json.dumps(said, indent=1) + "\n")
        raise


def lends(folder: Path) -> bool:
    """Whether a run has all of its round 0, and not its metrics alone."""
    return (folder / "state.sqlite").exists() and (folder / "rounds" / "000" / "model.safetensors").exists()


def take_over(start: Path, folder: Path, plan: Plan, data: Data) -> None:
    """Begin a run with round 0 of another one whose round 0 is the same.

    Nothing is taken where the run has a question already, where the other one was begun with other images, by another
    version or on another device, or lacks what it should have: then the run computes its own.
    """
    if not lends(start):
        return
    source = RunFolder(start)
    with RunFolder(folder).locked() as place:
        check_same_run(place, plan, data)
        write_records(place, plan, data)
        if place.history() or place.question(0) is not None:
            return
        asked, history = source.question(0), source.history()
        answers = None if asked is None else source.answers(0, asked[0])
        theirs, ours = begun(source), begun(place)
        is_same = theirs["data"]["fingerprint"] == ours["data"]["fingerprint"]
        is_same = is_same and all(theirs.get(key) == ours.get(key) for key in ("versions", "device", "threads"))
        if asked is None or answers is None or not history or not is_same:
            return
        for name in _KEPT:
            if (source.round(0) / name).exists():
                shutil.copy(source.round(0) / name, place.round(0) / name)
        place.save_question(0, *asked)
        meta = set(asked[0][shared_out(plan, 0, len(asked[0]))[1]].tolist())
        said = source.judgements.about(list(meta))
        place.judgements.record([one for one in said if one.key.startswith(FURTHER)])  # these were bought too
        place.save_answers(0, asked[0], answers, "Hidden")
        place.save_history([history[0] | {"shared_with": start.name}])


def at_work(job: Job) -> None:
    """`work` in a process that ends with the one that began it."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process lasts
    try:
        work(job)
    except BaseException:  # it is written down
        os._exit(1)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
