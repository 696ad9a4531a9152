"""Files are written whole or not at all, and stay written: temp file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robal.errors import RunFolderError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it becomes `path`; else `path` stays as it was.

    Raises:
        RunFolderError: when the disk is full, the folder is not to be written, or `path` is a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise RunFolderError(f"{path} is no file, so nothing can be written there; name one")
    temporary = path.with_name(path.name + ".part")
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
        raise RunFolderError(
            f"{path} could not be written: {error}. Free some space, then repeat the command (a run: `robal resume`)"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all. Raises RunFolderError as `whole`."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
