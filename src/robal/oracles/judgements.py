"""What people said of images: all of it is kept, with who and when, and the label of an image follows from it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robal.errors import InputError, RunFolderError
from robal.files import transaction

_TABLES = """
CREATE TABLE IF NOT EXISTS judgements (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, image INTEGER NOT NULL, who TEXT NOT NULL,
    label INTEGER, decides INTEGER NOT NULL, guess_seen INTEGER NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS judgements_of ON judgements (image);
CREATE TABLE IF NOT EXISTS new_classes (
    number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, round INTEGER NOT NULL, who TEXT NOT NULL, at TEXT NOT NULL);
"""
_COLUMNS = "number, key, image, who, label, decides, guess_seen, at"
LONGEST_NAME = 60
_RESERVED = ("skip", "none", "none of these")  # as files and Label Studio call them


@dataclass(frozen=True)
class Judgement:
    """One thing that somebody said of one image; a later one of the same person about the same image replaces it.

    Args:
        key: unlike any other judgement's; one that comes twice, sent again by a page that had no answer, counts once.
        image: position in the pool.
        who: a name.
        label: a class, SKIPPED or NONE_OF_THESE; None: what this person said before is taken back.
        decides: settles an image that people disagree on.
        guess_seen: the model's guess was shown before.
        at: ISO 8601, UTC; filled in when it is recorded.
        number: their order; filled in when it is recorded.
    """

    key: str
    image: int
    who: str
    label: int | None
    decides: bool = False
    guess_seen: bool = False
    at: str = ""
    number: int = 0


@dataclass(frozen=True)
class Settlement:
    """How far people are with the images of a question.

    Args:
        labels: the label of each image that is settled.
        disputed: images that enough people have judged, and none of whose labels has the most votes.
        missing: how many judgements each of the other images still waits for.
    """

    labels: dict[int, int]
    disputed: tuple[int, ...]
    missing: dict[int, int]

    def changed(self, images: Iterable[int], now: Settlement) -> Settlement:
        """The same, but for `images`, which stand as in `now`."""
        touched = set(images)
        labels = {image: label for image, label in self.labels.items() if image not in touched}
        disputed = [image for image in self.disputed if image not in touched]
        missing = {image: more for image, more in self.missing.items() if image not in touched}
        return Settlement(labels | now.labels, (*disputed, *now.disputed), missing | now.missing)


def class_name(said: str) -> str:
    """The name of a class, without spaces to spare. Raises InputError for what cannot be one.

    >>> class_name(" polar   bear ")
    'polar bear'
    """
    name = " ".join(said.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or "/" in name or name[0] == ".":
        raise InputError(
            f"the name of a class has 1 to {LONGEST_NAME} letters that can be seen, no /, and no point first; "
            f"{name!r} came"
        )
    if name.lower() in _RESERVED:
        raise InputError(f"{name!r} is an answer of its own already, and no class")
    return name


@dataclass(frozen=True)
class Judgements:
    """All that was said in a run: two tables in its state.sqlite. What `record` was given is on disk when it returns.

    Args:
        path: the database.
    """

    path: Path

    def prepare(self) -> None:
        """Make the tables where they are not there."""
        with transaction(self.path) as database:
            for statement in _TABLES.split(";"):
                database.execute(statement)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Inside this block to record waits for the disk once, not four times; what is killed in it loses nothing."""
        try:
            database = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
            database.execute("PRAGMA journal_mode=WAL").fetchall()
            database.execute("SELECT COUNT(*) FROM judgements").fetchall()  # a log stays while somebody has read it
        except sqlite3.Error as error:
            raise RunFolderError(f"{self.path} could not be used: {error}") from error
        try:
            yield
        finally:
            with suppress(sqlite3.Error), closing(database):
                database.execute("PRAGMA journal_mode=DELETE").fetchall()

    def record(self, said: Sequence[Judgement]) -> None:
        """Keep judgements, all of them or none; those whose key is there already are left as they are."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = [(one.key, one.image, one.who, one.label, one.decides, one.guess_seen, one.at or now) for one in said]
        with transaction(self.path) as database:
            database.executemany(
                "INSERT OR IGNORE INTO judgements (key, image, who, label, decides, guess_seen, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def all(self) -> list[Judgement]:
        """Everything that was said, in the order in which it came."""
        with transaction(self.path) as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM judgements ORDER BY number").fetchall()
        return [_judgement(row) for row in rows]

    def about(self, images: Sequence[int]) -> list[Judgement]:
        """What was said of some images, in the order in which it came."""
        with transaction(self.path) as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM judgements WHERE image IN (SELECT value FROM json_each(?)) ORDER BY number",
                (json.dumps(list(images)),),
            ).fetchall()
        return [_judgement(row) for row in rows]

    def add_class(self, known: Sequence[str], name: str, number: int, who: str) -> int:
        """Record a new class, named in round `number`, beside the `known` ones: the data's, or those and earlier ones.

        Returns:
            Its label. A class that is there already, whatever its capitals, keeps its own.

        Raises:
            InputError: for a name that is empty, too long, or has characters that are not to be seen.
        """
        name = class_name(name)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with transaction(self.path, alone=True) as database:
            new = [row[0] for row in database.execute("SELECT name FROM new_classes ORDER BY number")]
            names = [*known, *(one for one in new if one not in known)]
            lower = [one.lower() for one in names]
            if name.lower() in lower:
                return lower.index(name.lower())
            database.execute("INSERT INTO new_classes VALUES (?, ?, ?, ?, ?)", (len(names), name, number, who, now))
            return len(names)

    def new_classes(self, number: int | None = None) -> tuple[str, ...]:
        """The classes that people added, in order; those of rounds up to `number` where it is given."""
        with transaction(self.path) as database:
            rows = database.execute(
                "SELECT name FROM new_classes WHERE ? IS NULL OR round <= ? ORDER BY number", (number, number)
            ).fetchall()
        return tuple(name for (name,) in rows)

    def votes(self, images: Sequence[int]) -> dict[tuple[int, str], Judgement]:
        """By image and person, the last word of each person on each of `images`, decisions left out."""
        stand = standing(self.about(images))
        return {(one.image, one.who): one for said in stand.values() for one in said if not one.decides}

    def settled(self, images: Sequence[int], answers: int) -> Settlement:
        """What follows from the judgements when `answers` people are asked about each of `images`.

        A decision settles an image, the last one if there are several. Else, once enough people have judged it, the
        label with the most votes does, if it alone has the most.
        """
        by_image = standing(self.about(images))
        labels, disputed, missing = {}, [], {}
        for image in images:
            said = by_image.get(image, [])
            decisions = [one for one in said if one.decides]
            votes = Counter(label for one in said if not one.decides and (label := one.label) is not None)
            if decisions and decisions[-1].label is not None:
                labels[image] = decisions[-1].label
            elif votes.total() < answers:
                missing[image] = answers - votes.total()
            else:
                (first, most), *others = votes.most_common(2)
                if others and others[0][1] == most:
                    disputed.append(image)
                else:
                    labels[image] = first
        return Settlement(labels, tuple(disputed), missing)

    def repeated(self, images: Sequence[int]) -> int:
        """How many labels people gave to `images` beyond the first of each: they cost as much as others."""
        return sum(len(said) - 1 for said in standing(self.about(images)).values())


def _judgement(row: tuple[Any, ...]) -> Judgement:
    number, key, image, who, label, decides, guess_seen, at = row
    return Judgement(key, image, who, label, bool(decides), bool(guess_seen), at, number)


def standing(said: Iterable[Judgement]) -> dict[int, list[Judgement]]:
    """By image, the last word of each person, votes and decisions apart, in the order in which they came.

    >>> first, second = Judgement("a", 3, "Ada", 1), Judgement("b", 3, "Ada", -3)
    >>> [one.label for one in standing([first, second])[3]]
    [-3]
    >>> standing([first, Judgement("b", 3, "Ada", None)])
    {}
    """
    last: dict[tuple[int, str, bool], Judgement] = {}
    for one in said:
        last.pop((one.image, one.who, one.decides), None)  # so that it takes its place at the end
        last[(one.image, one.who, one.decides)] = one
    found: dict[int, list[Judgement]] = {}
    for one in last.values():
        if one.label is not None:
            found.setdefault(one.image, []).append(one)
    return found
