"""Downloading the files of a known data set: into a temporary file, checked, then renamed."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from robal.datasets.catalogue import File, Known, find_known
from robal.datasets.places import check_md5s, data_folder, locate, md5_of
from robal.errors import DataCorrupt, DataMissing
from robal.progress import track

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


def fetch(name: str, folder: Path | str | None = None, *, mirrors: Sequence[str] | None = None) -> Path:
    """Download what is missing of a known data set; call again to go on after a failure.

    Files that are there and right are left alone; one that is there and wrong is replaced.

    Args:
        name: a name of the catalogue.
        folder: the root under which data sets are kept, as for `load`; the files go to its sub-folder `name`.
        mirrors: URLs to try in turn in place of the catalogue's; a file lies at URL + its name.

    Returns:
        the folder that holds the files.

    Raises:
        DataMissing: if no mirror gave a file: the URLs, what went wrong, and what to do by hand.
        DataCorrupt: if every mirror gave another file than the one expected.
        DataError: if no data set has that name.
    """
    known = find_known(name)
    root = data_folder(folder)
    target = root / known.name
    bases = known.mirrors if mirrors is None else tuple(mirrors)
    if not known.wanted() or _complete(known, root):
        return target
    for file in known.wanted():
        path = target / file.name
        if path.is_file() and (file.md5 is None or md5_of(path) == file.md5):
            continue
        if not bases:
            raise DataMissing(f"{file.name} of {known.name} cannot be fetched: {known.by_hand} into {target}")
        target.mkdir(parents=True, exist_ok=True)
        _from_any(known, file, path, bases)
    return target


def _complete(known: Known, root: Path) -> bool:
    try:
        found = locate(known, root)
        if known.checked:
            check_md5s(known, found)
    except (DataMissing, DataCorrupt):
        return False
    return set(found) >= {file.name for file in known.files} or set(found) >= {file.name for file in known.archives}


def _from_any(known: Known, file: File, path: Path, bases: Sequence[str]) -> None:
    failures: list[str] = []
    corrupt = False
    for base in bases:
        url = f"{base.rstrip('/')}/{file.name}"
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            came = _download(url, part, file.name)
            if file.md5 is None or came == file.md5:
                part.replace(path)
                return
            corrupt = True
            failures.append(f"{url}: its md5 should be {file.md5}, but is {came}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {str(error) or type(error).__name__}")
        finally:
            part.unlink(missing_ok=True)
    message = f"{file.name} of {known.name} could not be fetched. {'; '.join(failures)}. "
    message += f"Try again, or get it by hand (from {bases[0]} or elsewhere) and put it at {path}"
    raise DataCorrupt(message) if corrupt else DataMissing(message)


def _download(url: str, path: Path, what: str) -> str:
    """The md5 of what came from `url`, now at `path`."""
    digest = hashlib.md5()
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as reply, path.open("wb") as stream:
        length = reply.headers.get("Content-Length")
        chunks = -(-int(length) // _CHUNK) if length else None
        for chunk in track(iter(lambda: reply.read(_CHUNK), b""), f"fetching {what} (MiB)", total=chunks):
            stream.write(chunk)
            digest.update(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    if length and path.stat().st_size != int(length):
        raise OSError(f"the connection ended after {path.stat().st_size:,} of {int(length):,} bytes")
    return digest.hexdigest()
