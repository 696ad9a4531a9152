"""Progress bars that appear when somebody is looking: on a terminal, for work that takes a while, and nowhere else.

A page that shows how far the work is listens instead: `heard_by`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

_live: list[Progress] = []
_quiet: list[bool] = []
_listeners: list[Callable[[str, int, int | None], None]] = []
_EVERY = 0.2  # seconds between two calls of a listener


@contextmanager
def quiet() -> Iterator[None]:
    """No bars inside this block, terminal or not."""
    _quiet.append(True)
    try:
        yield
    finally:
        _quiet.pop()


@contextmanager
def heard_by(listener: Callable[[str, int, int | None], None]) -> Iterator[None]:
    """Inside this block, tell `listener` of all work: what it is, how much is done, and of how much, where known."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


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
        task = None if progress is None else progress.add_task(what, total=total, completed=done)
        told = float("-inf")
        try:
            for item in items:
                if _listeners and time.monotonic() > told + _EVERY:
                    told = time.monotonic()
                    _listeners[-1](what, done, total)
                yield item
                done += 1
                if progress is not None and task is not None:
                    progress.advance(task)
        finally:
            if progress is not None and task is not None:
                progress.remove_task(task)


def say(text: str) -> None:
    """A line on standard error, on a terminal or in a log; nothing inside `quiet`."""
    if _live:
        _live[-1].console.print(text)
    elif not _quiet:
        print(text, file=sys.stderr)
