"""Files are written whole or not at all, and stay written: temp file, fsync, rename, fsync of the folder.

Databases too: one transaction, all of it or nothing.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robal.errors import RunFolderError


def absolute(path: str) -> str:
    """The absolute path, so that it means the same from another working folder; "" stays ""."""
    return str(Path(path).expanduser().resolve()) if path else ""


@contextmanager
def whole(path: Path, alone: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it becomes `path`; else `path` stays as it was.

    Args:
        path: where to.
        alone: no other process writes the same file meanwhile; else each has a temporary path of its own.

    Raises:
        RunFolderError: when the disk is full, the folder is not to be written, or `path` is a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise RunFolderError(f"{path} is no file, so nothing can be written there; name one")
    temporary = path.with_name(f"{path.name}.part" if alone else f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "Free some space" if full else "Mend that, or name another place"
        raise RunFolderError(
            f"{path} could not be written: {error}. {advice}, then repeat the command (a run: `robal resume`)"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all. Raises RunFolderError as `whole`."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all. Raises RunFolderError as `whole`."""
    write(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with its head, a row a line.

    >>> csv_text(["index", "label"], [[3, "cat, dog"]])
    'index,label\\n3,"cat, dog"\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def transaction(path: Path, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """One transaction in a SQLite file, made where it is not there; it waits up to ten seconds for others to finish.

    Args:
        path: the file.
        alone: nobody else writes between what the block reads and what it writes.

    Raises:
        RunFolderError: when the disk is full, or the file is no database.
    """
    try:
        database = sqlite3.connect(path, timeout=10)
        try:
            with database:
                if alone:
                    database.execute("BEGIN IMMEDIATE")
                yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise RunFolderError(
            f"{path} could not be used: {error}. Free some space or mend the folder, then try again (`robal resume`)"
        ) from error
