"""A study as it is carried out: on a terminal a table that lives, elsewhere a line for each run that ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from robal.errors import PlanError, RobalError
from robal.folder import RunFolder
from robal.report.words import duration
from robal.studies.compare import Place, Progress
from robal.studies.study import Cell
from robal.studies.tracking import Tracker, mirrored


def read_text(path: Path) -> str:
    """A study file's text.

    Raises:
        PlanError: for one that is not there, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PlanError([f"there is no study file {path}"]) from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise PlanError([f"{path} is no study file: YAML with a plan and a grid"]) from None


def watch(
    place: Place, progress: Iterable[Progress], console: Console | None = None, tracker: Tracker | None = None
) -> dict[str, int]:
    """Show a study that is carried out; by status, how many of its runs have it at the end.

    A `tracker` is told of each run that ends, and of all at the end; what it does not take stops nothing.
    """
    console = console or Console(stderr=True)
    many = len(place.study.cells)
    with Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else _Still() as live:
        for now in progress:
            for cell, why in now.ended:
                console.print(Text(_line(place, cell, why, now)), soft_wrap=True)
                _tell(place, cell, tracker, console)
            if isinstance(live, Live):
                live.update(_view(now, many))
    counts = Counter[str]()
    for cell in place.study.cells:
        _tell(place, cell, tracker, console)
        standing = place.standing(cell)
        counts[standing.status] += 1
        if standing.status in ("failed", "waits", "damaged"):
            console.print(Text(f"{cell.name} {standing.status}: {standing.why}"), soft_wrap=True)
    return dict(counts)


def _tell(place: Place, cell: Cell, tracker: Tracker | None, console: Console) -> None:
    if tracker is not None:
        try:
            mirrored(place, cell, tracker)
        except RobalError as error:
            console.print(Text(f"not tracked: {error}"), soft_wrap=True)


class _Still:
    """Stands in for the table where nobody looks."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _line(place: Place, cell: Cell, why: str, now: Progress) -> str:
    done = sum(standing.status == "finished" for standing in now.standings.values())
    head = f"{done} of {len(now.standings)}: {cell.name}"
    if why:
        return f"{head} failed: {why}"
    history = RunFolder(place.folder(cell)).history()
    if not history:
        return f"{head} ended, and nothing of it lies in {place.folder(cell)}"
    row = history[-1]
    rates = [] if row["accuracy"] is None else [f"{row['accuracy']:.1%} accurate"]
    rates += [f"{rate:.1%} under {attack}" for attack, rate in row["robust_accuracy"].items()]
    return f"{head}, {row['labelled']:,} labels: {', '.join(rates)}"


def _view(now: Progress, many: int) -> Group:
    table = Table.grid(padding=(0, 2))
    for cell in now.running:
        table.add_row(cell.name, f"round {now.standings[cell.name].rounds} of {cell.plan.rounds}")
    counts = Counter(standing.status for standing in now.standings.values())
    left = "" if now.seconds_left is None else f", about {duration(now.seconds_left)} left"
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return Group(table, Text(f"{counts['finished']} of {many} runs finished{failed}{left}"))


def stop_code(counts: dict[str, int]) -> int:
    """0 where all runs are finished; 3 where people are waited for; 1 where one failed or is damaged."""
    if counts.get("failed") or counts.get("damaged"):
        return 1
    return 3 if counts.get("waits") else 0
