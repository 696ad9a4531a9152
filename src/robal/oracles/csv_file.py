"""A person with a spreadsheet: the run writes which images it asks about, the person fills in the labels."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from robal.errors import AwaitingLabels, InputError, did_you_mean
from robal.files import write_csv
from robal.images import Images, files_at
from robal.pool import NONE_OF_THESE, SKIPPED, Pool
from robal.progress import say

_WORDS = {"skip": SKIPPED, "none": NONE_OF_THESE}


@dataclass(frozen=True)
class CSVFile:
    """Reads labels from a CSV file with the columns `index` and `label`, and writes there what it does not know yet.

    A label is a class name or, where no class is so called, its number; "skip" for an image that nobody can tell,
    "none" for one that belongs to none of the classes. Where images are files, the column `file` says which, for
    people; what counts is the index.

    Args:
        path: the file; "": `labels.csv`. A relative path is one inside the run folder.

    Raises:
        AwaitingLabels: when labels are missing; the file then has a row for each of them, to be filled in.
        InputError: for a label that is no class, or a file without the two columns, naming the line.
    """

    path: str = ""

    def inside(self, folder: Path, number: int) -> CSVFile:
        """The oracle of the run in this folder, in any of its rounds."""
        return replace(self, path=str(folder / (self.path or "labels.csv")))

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        path = Path(self.path or "labels.csv")
        rows = read_rows(path)
        answers = {index: parse_label(text, pool.classes, f"{path}, image {index}") for index, text in rows if text}
        missing = [index for index in indices.tolist() if index not in answers]
        asked = set(indices.tolist())
        for index, label in answers.items():
            if index >= len(pool.labels):
                say(f"{path}: there is no image {index}; its label is left aside")
            elif index not in asked and pool.labels[index] >= 0 and label != pool.labels[index]:
                say(
                    f"{path} says {word_of(label, pool.classes)} of image {index}, which the run has learned as "
                    f"{word_of(int(pool.labels[index]), pool.classes)}: `robal labels correct` takes corrections"
                )
        if missing:
            listed = {index for index, _ in rows}
            new = [(index, "") for index in missing if index not in listed]
            if new:
                write_rows(path, [*rows, *new], pool.images)
            raise AwaitingLabels(
                f"{len(missing)} of {len(indices)} images wait for a label: fill in the column `label` of {path} "
                f"({', '.join(pool.classes[:12])}{', …' if len(pool.classes) > 12 else ''}; or skip, none), "
                "then `robal resume`"
            )
        return torch.tensor([answers[index] for index in indices.tolist()], dtype=torch.int64)


def word_of(label: int, classes: tuple[str, ...]) -> str:
    """What a label is called in the file: the opposite of `parse_label`."""
    return classes[label] if label >= 0 else next(word for word, code in _WORDS.items() if code == label)


def read_rows(path: Path) -> list[tuple[int, str]]:
    """(index, label text) of each row; empty when the file is not there yet."""
    if not path.exists():
        return []
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"index", "label"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path} needs the columns index and label; it has {reader.fieldnames}")
            for row in reader:
                if not (row["index"] or "").strip().isdecimal():
                    raise InputError(f"{path}, line {reader.line_num}: {row['index']!r} is no image index")
                rows.append((int(row["index"]), (row["label"] or "").strip()))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not written in UTF-8: save it as CSV UTF-8") from None
    return rows


def write_rows(path: Path, rows: list[tuple[int, str]], images: Images | None = None) -> None:
    """Write the file whole or not at all; further columns that a person added stay with their image."""
    columns, further = further_columns(path)
    there = [index for index, _ in rows if images is not None and index < len(images)]
    files = dict(zip(there, () if images is None else files_at(images, torch.tensor(there)), strict=False))
    named = bool(files) or "file" in columns
    others = [name for name in columns if name != "file"]
    table = []
    for index, label in rows:
        more = dict(zip(columns, further.get(index, []), strict=False))
        file = [more.get("file") or files.get(index, "")] if named else []
        table.append([index, *file, label, *(more.get(name, "") for name in others)])
    write_csv(path, ["index", *(["file"] if named else []), "label", *others], table)


def further_columns(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The names of the columns beside index and label, and what stands in them for each image."""
    if not path.exists():
        return [], {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or () if name not in ("index", "label")]
        return columns, {int(row["index"]): [row[name] or "" for name in columns] for row in reader}


def parse_label(text: str, classes: tuple[str, ...], where: str) -> int:
    """The class number that a person meant.

    >>> parse_label("cat", ("dog", "cat"), "line 2")
    1
    >>> parse_label("skip", ("dog", "cat"), "line 2")
    -2
    """
    if text in classes:
        return classes.index(text)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise InputError(f"{where}: {text!r} is no class; {did_you_mean(text, [*classes, *_WORDS])}")
