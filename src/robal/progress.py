"""Progress bars that appear when somebody is looking: on a terminal, for work that takes a while, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

_live: list[Progress] = []
_quiet: list[bool] = []


@contextmanager
def quiet() -> Iterator[None]:
    """No bars inside this block, terminal or not."""
    _quiet.append(True)
    try:
        yield
    finally:
        _quiet.pop()


@contextmanager
def display() -> Iterator[Progress | None]:
    """One live display for all bars inside the block; None when nobody is looking."""
    if _live or _quiet or not sys.stderr.isatty():
        yield _live[-1] if _live else None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        _live.append(progress)
        try:
            yield progress
        finally:
            _live.pop()


def track(items: Iterable[T], what: str, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Yield `items`, with a bar called `what` while they last.

    Args:
        items: anything iterable; its length is taken where it has one.
        what: a few words, "round 3: training".
        total: how many in all, where `items` cannot say.
        done: how many of `total` were done before this call, for work that was resumed.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items) + done  # type: ignore[arg-type]
    with display() as progress:
        if progress is None:
            yield from items
            return
        task = progress.add_task(what, total=total, completed=done)
        try:
            for item in items:
                yield item
                progress.advance(task)
        finally:
            progress.remove_task(task)


def say(text: str) -> None:
    """A line on standard error, on a terminal or in a log; nothing inside `quiet`."""
    if _live:
        _live[-1].console.print(text)
    elif not _quiet:
        print(text, file=sys.stderr)
