"""Where the files of a known data set lie, and whether they are the right ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from robal.datasets.catalogue import File, Known, catalogue, find_known
from robal.errors import DataCorrupt, DataMissing


def data_folder(folder: Path | str | None = None) -> Path:
    """The folder that holds the data sets: `folder`, else the environment's ROBAL_DATA, else ./data."""
    return Path(folder if folder is not None else os.environ.get("ROBAL_DATA") or "data").expanduser()


def locate(known: Known, root: Path) -> dict[str, Path]:
    """Where the files of `known` lie under `root`: in the first of its places that holds them all.

    Returns:
        file name -> path, in the order of the catalogue; of an archive alone, where that stands for the files.

    Raises:
        DataMissing: naming the missing files, the places looked into, and the command that gets them.
    """
    fewest = [file.name for file in known.files]
    for place in known.places:
        found = _found(known.files, root / place)
        missing = [file.name for file in known.files if file.name not in found]
        if known.pattern and len(matching := sorted((root / place).glob(known.pattern))) > 1:
            return {path.name: path for path in matching}
        if not missing:
            return found
        fewest = missing if len(missing) < len(fewest) else fewest
    for place in known.places:
        if found := _found(known.archives, root / place):
            return found
    raise DataMissing(missing_message(known, fewest, root))


def missing_message(known: Known, missing: list[str], root: Path) -> str:
    """What is missing, where it was looked for, and what to do about it."""
    places = [str(root / place) for place in known.places if (root / place).is_dir()]
    looked = ", ".join(places) if places else f"{root}, which is no folder"
    fetch = f"`robal data fetch {known.request or known.name} --data {root}` gets them"
    return f"{known.name} lacks {', '.join(missing)}; looked in {looked}. {known.by_hand or fetch}"


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def check_md5s(known: Known, found: dict[str, Path]) -> dict[str, str]:
    """File name -> md5 of the files `found`, each compared with the catalogue's.

    Raises:
        DataCorrupt: naming the file, what was expected, what came and what to do.
    """
    files = {file.name: file for file in (*known.files, *known.archives)}
    return {path.name: check_md5(known, files[name], path, md5_of(path)) for name, path in found.items()}


def check_md5(known: Known, file: File, path: Path, came: str) -> str:
    """`came`, the md5 of what lies at `path`, if it is the one that `file` of `known` should have.

    Raises:
        DataCorrupt: as `check_md5s`.
    """
    expected = file.expected(path)
    if expected is None or came == expected:
        return came
    size = f", {path.stat().st_size:,} bytes" if path.is_file() else ""
    owner = _owner(came)
    advice = f"That is {owner}: keep each data set in a folder of its own" if owner else "Delete it"
    raise DataCorrupt(
        f"{path} is not the {file.name} of {known.name}: its md5 should be {expected}, but is {came}{size}. "
        f"{advice}; `robal data fetch {known.name}` gets the right one"
    )


def present(name: str, folder: Path | str | None = None) -> str:
    """The state of a known data set: "embedded", "here", "missing: ..." or "wrong checksum: ...".

    Checksums are compared where the data set is `checked`.

    Raises:
        DataError: if no data set has that name.
    """
    known = find_known(name)
    if not (known.files or known.archives):
        return "embedded"
    try:
        found = locate(known, data_folder(folder))
    except DataMissing as error:
        return f"missing: {error}"
    try:
        if known.checked:
            check_md5s(known, found)
    except DataCorrupt as error:
        return f"wrong checksum: {error}"
    return "here"


def _found(files: tuple[File, ...], folder: Path) -> dict[str, Path]:
    forms = {file.name: [folder / form for form in file.forms() if (folder / form).is_file()] for file in files}
    return {name: paths[0] for name, paths in forms.items() if paths}


def _owner(md5: str) -> str:
    for known in catalogue():
        for file in (*known.files, *known.archives):
            if md5 in (file.md5, file.unpacked_md5):
                return f"the {file.name} of {known.name}"
    return ""
