"""What `robal doctor` looks at: versions, devices, data sets, extras, room on the disk, and a run of some seconds."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from robal.machine import processors

# Extras of those who work on robal itself.
_FOR_DEVELOPERS = ("dev", "docs")
_ROOM = 2**30  # bytes: a run keeps a model a round
# Forty and twenty labels, two rounds, adversarial training, and the first of AutoAttack's parts at the end.
SELF_TEST = (
    "start={labels: 40, recipe: {epochs: 8, batch_size: 10, optimiser: {lr: 0.005}}}",
    "per_round=20",
    "rounds=1",
    "threat.eps=0.05",
    "acquisition=DRE",
    "recipe={epochs: 2, budget: null, batch_size: 10, pool: null, objective: {attack: {steps: 2, step_size: null}}}",
    "validation.images=0",
    "evaluation={images: 50, each_round: [{name: PGD, steps: 3}], at_end: [{name: APGD, steps: 5}]}",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        about: the group it is shown in.
        what: its name.
        said: what was found.
        state: "good"; "absent" where something optional is not there; "bad" where robal cannot work as it is.
        advice: what to do about it.
    """

    about: str
    what: str
    said: str
    state: Literal["good", "absent", "bad"] = "good"
    advice: str = ""


def examine(data: Path | str | None = None) -> Iterator[Finding]:
    """Look at one thing after the other; nothing is changed, and what the self-test writes is removed.

    Args:
        data: the folder that holds the data sets; else the environment's ROBAL_DATA, else ./data.
    """
    yield from _machine()
    yield from packages()
    yield from _devices()
    yield from _disk(Path.cwd())
    yield from data_sets(data)
    yield self_test()


def packages() -> Iterator[Finding]:
    """What robal needs, and what its extras need, as its metadata say, against what is installed."""
    known = distribution("robal")
    wanted = [Requirement(line) for line in known.requires or ()]
    extras = [extra for extra in known.metadata.get_all("Provides-Extra") or () if extra not in _FOR_DEVELOPERS]
    for need in wanted:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield _package(need, "needed", "bad", f"pip install '{need.name}{need.specifier}'")
    for extra in extras:
        for need in wanted:
            if need.marker is not None and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate():
                yield _package(need, "extras", "absent", f"pip install 'robal[{extra}]'")


def _package(need: Requirement, about: str, otherwise: Literal["absent", "bad"], advice: str) -> Finding:
    try:
        came = version(need.name)
    except PackageNotFoundError:
        return Finding(about, need.name, "not installed", otherwise, advice)
    if not need.specifier.contains(came, prereleases=True):
        return Finding(about, need.name, f"{came}, but {need.specifier} is needed", otherwise, advice)
    return Finding(about, need.name, came)


def _machine() -> Iterator[Finding]:
    yield Finding("here", "robal", f"{version('robal')} in {Path(__file__).parent}")
    yield Finding("here", "Python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("here", "system", platform.platform())


def _devices() -> Iterator[Finding]:
    import torch

    cores = processors()
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    yield Finding(
        "devices", "processor", f"{cores} cores, {capability}; torch takes {threads} thread{'s' * (threads > 1)}"
    )
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield Finding("devices", "GPU", f"none that torch can use{'; ' * bool(built)}{built}", "absent")
    for number in range(torch.cuda.device_count()):
        has = torch.cuda.get_device_properties(number)
        yield Finding("devices", f"cuda:{number}", f"{has.name}, {has.total_memory / 2**30:.0f} GB")


def _disk(folder: Path) -> Iterator[Finding]:
    room = shutil.disk_usage(folder).free
    said = f"{room / 2**30:,.0f} GB free in {folder}"
    yield Finding(
        "disk",
        "runs/",
        said if os.access(folder, os.W_OK) else f"{folder} cannot be written",
        "good" if room >= _ROOM and os.access(folder, os.W_OK) else "bad",
        "" if room >= _ROOM else "make room, or put the runs elsewhere: --out",
    )


def data_sets(data: Path | str | None) -> Iterator[Finding]:
    from robal.datasets import catalogue, data_folder, present

    folder = data_folder(data)
    about = f"data sets in {folder}"
    if not folder.is_dir():
        yield Finding(about, "folder", "not there", "absent", "the embedded digits alone; else --data DIR")
    for known in catalogue():
        if not folder.is_dir() and (known.files or known.archives):
            continue
        said, _, why = present(known.name, folder).partition(": ")
        fetch = f"robal data fetch {known.request or known.name} --data {folder}"
        if said == "missing":
            yield Finding(about, known.name, said, "absent", known.by_hand or fetch)
        elif why:
            yield Finding(about, known.name, why, "bad")
        else:
            yield Finding(about, known.name, said)


def self_test() -> Finding:
    """A whole run on the embedded digits in a temporary folder: choice, training under attack, evaluation, report."""
    import torch

    from robal.loop import run
    from robal.plans import read_plan
    from robal.report import report

    began = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batches on many threads wait more than they work
    try:
        with tempfile.TemporaryDirectory() as place:
            plan = read_plan(None, list(SELF_TEST))
            folder = Path(place, "run")
            state = run(plan, plan.data.load(), folder)
            again = run(plan, plan.data.load(), folder)
            page = report([folder])
            wrong = list(mistakes(state.history, page))
            if again.history != state.history:
                wrong.append("the run folder, read again, says something else")
    except Exception as error:  # whatever it is, it is the finding
        wrong = [f"{type(error).__name__}: {error}"]
    finally:
        torch.set_num_threads(threads)
    took = f"{time.perf_counter() - began:.1f} s"
    if wrong:
        return Finding("self-test", "a run", f"{'; '.join(wrong)} ({took})", "bad", "please report it")
    last = state.history[-1]
    rates = ", ".join(f"{rate:.0%} under {name}" for name, rate in last["robust_accuracy"].items())
    return Finding(
        "self-test", "a run", f"{last['labelled']} labels, {last['accuracy']:.0%} accurate, {rates} ({took})"
    )


def mistakes(history: Sequence[dict[str, Any]], page: Path) -> Iterator[str]:
    """What cannot be right in the rows of the self-test's run, or in its page."""
    last = history[-1]
    clean, robust = last["accuracy"], last["robust_accuracy"]
    if [row["labelled"] for row in history] != [40, 60]:
        yield f"40 and 60 labels were to be bought, not {[row['labelled'] for row in history]}"
    if not isinstance(clean, float) or clean < 0.3:
        yield f"a model of 60 digits should know at least 30 % of the others, not {clean}"
    elif not isinstance(robust, dict) or any(rate > clean for rate in robust.values()):
        yield f"no attack should raise the accuracy of {clean}: {robust}"
    if not page.stat().st_size:
        yield "the report is empty"
