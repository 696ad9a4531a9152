"""The run folder, the only truth about a run: what is in it is written whole or not at all, and nothing is pickled.

plan.yaml          the whole plan                  environment.json   versions, hardware, the data's fingerprint
state.sqlite       questions, and answers with who and when, saved before and after asking
metrics.jsonl      one object a round              rounds/003/        query.csv, query.png, model.safetensors, …
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robal.errors import FolderInUse, RunFolderError
from robal.files import transaction, write, write_csv
from robal.oracles import Judgements

_TABLES = """
CREATE TABLE IF NOT EXISTS questions (
    round INTEGER, position INTEGER, image INTEGER, PRIMARY KEY (round, position));
CREATE TABLE IF NOT EXISTS notes (round INTEGER PRIMARY KEY, note TEXT);
CREATE TABLE IF NOT EXISTS answers (
    round INTEGER, image INTEGER, label INTEGER, who TEXT, at TEXT, PRIMARY KEY (round, image));
CREATE TABLE IF NOT EXISTS relabelled (
    round INTEGER, image INTEGER, label INTEGER, at TEXT, PRIMARY KEY (round, image));
"""


_OF_A_RUN = {".lock", "plan.yaml", "rounds", "state.sqlite"}
_WITHOUT_A_RUN = {"labels.csv", ".DS_Store"}  # what may lie there before a run begins


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run.

    Args:
        path: the folder; made by `locked` where it is not there.
    """

    path: Path

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Nobody else runs here inside the block; the lock goes with the process, whatever ends it.

        Raises:
            FolderInUse: if another process runs here.
            RunFolderError: if the folder cannot be made or written.
        """
        try:
            self._is_for_runs()
            (self.path / "rounds").mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be used as a run folder: {error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUse(
                    f"another process is running in {self.path}; wait for it, or choose another folder with --out"
                ) from None
            inside = [(self.path / name).rglob("*.part") for name in ("rounds", "report", "features")]
            for unfinished in chain(self.path.glob("*.part"), *inside):  # what a killed process was writing
                unfinished.unlink(missing_ok=True)
            with self._database() as database:
                database.executescript(_TABLES)
            self.judgements.prepare()
            yield self

    def _is_for_runs(self) -> None:
        """Refuse a folder where somebody keeps other things."""
        there = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if "study.yaml" in there:
            raise RunFolderError(f"{self.path} holds a study; name another folder for a run by --out")
        if there - _WITHOUT_A_RUN and not there & _OF_A_RUN:
            raise RunFolderError(
                f"{self.path} holds other things and no run ({', '.join(sorted(there)[:3])}, …); name a new folder by "
                "--out"
            )

    def round(self, number: int) -> Path:
        """The folder of a round, made where it is not there."""
        path = self.path / "rounds" / f"{number:03d}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def save_question(self, number: int, indices: Tensor, note: Mapping[str, Any]) -> None:
        """Remember what round `number` asks about, before anybody is asked."""
        with self._database() as database:
            rows = [(number, position, image) for position, image in enumerate(indices.tolist())]
            database.executemany("INSERT INTO questions VALUES (?, ?, ?)", rows)
            database.execute("INSERT INTO notes VALUES (?, ?)", (number, json.dumps(note)))

    def question(self, number: int) -> tuple[Tensor, dict[str, Any]] | None:
        """[n] int64 in order of choice and its note, or None where round `number` has not asked yet."""
        with self._database() as database:
            rows = database.execute(
                "SELECT image FROM questions WHERE round = ? ORDER BY position", (number,)
            ).fetchall()
            note = database.execute("SELECT note FROM notes WHERE round = ?", (number,)).fetchone()
        if note is None:
            return None
        return torch.tensor([image for (image,) in rows], dtype=torch.int64), json.loads(note[0])

    def save_answers(self, number: int, indices: Tensor, labels: Tensor, who: str) -> None:
        """Remember answers; one that is there already is kept."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            (number, image, label, who, now) for image, label in zip(indices.tolist(), labels.tolist(), strict=True)
        ]
        with self._database() as database:
            database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)

    def answers(self, number: int, indices: Tensor) -> Tensor | None:
        """[n] int64, the answers to `indices`, or None as long as one is missing."""
        with self._database() as database:
            known = dict(database.execute("SELECT image, label FROM answers WHERE round = ?", (number,)).fetchall())
        if any(image not in known for image in indices.tolist()):
            return None
        return torch.tensor([known[image] for image in indices.tolist()], dtype=torch.int64)

    def save_relabelled(self, number: int, indices: Tensor, labels: Tensor) -> None:
        """Remember what round `number` found when it asked again; the last word on an image counts."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [(number, image, label, now) for image, label in zip(indices.tolist(), labels.tolist(), strict=True)]
        with self._database() as database:
            database.executemany("INSERT OR REPLACE INTO relabelled VALUES (?, ?, ?, ?)", rows)

    def relabelled(self, number: int) -> tuple[Tensor, Tensor]:
        """[q] int64 each: images that round `number` asked about again, and their labels now."""
        with self._database() as database:
            rows = database.execute(
                "SELECT image, label FROM relabelled WHERE round = ? ORDER BY image", (number,)
            ).fetchall()
        found = torch.tensor(rows, dtype=torch.int64).view(-1, 2)
        return found[:, 0], found[:, 1]

    def corrections(self) -> dict[int, int]:
        """By image, the label that the last asking again, or the last correction, gave it."""
        with self._database() as database:
            rows = database.execute("SELECT image, label FROM relabelled ORDER BY round, rowid").fetchall()
        return dict(rows)

    def given(self, number: int) -> dict[int, tuple[int, str, str]]:
        """By image, the label that round `number` got, from whom and when; empty before all are there."""
        with self._database() as database:
            rows = database.execute("SELECT image, label, who, at FROM answers WHERE round = ?", (number,)).fetchall()
        return {image: (label, who, at) for image, label, who, at in rows}

    def new_classes(self, number: int) -> tuple[str, ...]:
        """The classes that people named in rounds up to `number`, in order."""
        return self.judgements.new_classes(number)

    def repeated(self, number: int, without: Sequence[int] = ()) -> int:
        """How many further answers people gave to images that had one, in rounds up to `number`; some left out."""
        with self._database() as database:
            asked = database.execute("SELECT image FROM questions WHERE round <= ?", (number,)).fetchall()
        left_out = set(without)
        return self.judgements.repeated([image for (image,) in asked if image not in left_out])

    @property
    def judgements(self) -> Judgements:
        """What people said of its images."""
        return Judgements(self.path / "state.sqlite")

    def history(self) -> list[dict[str, Any]]:
        """The metrics of the finished rounds."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:  # no JSON, or no text
            raise RunFolderError(f"{path} is damaged ({error}); remove its last line, then `robal resume`") from None

    def save_history(self, rows: list[dict[str, Any]]) -> None:
        """Write the metrics of all finished rounds; with this a round is finished."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write(self.path / "metrics.jsonl", text)

    def save_query(
        self, number: int, indices: Tensor, labels: Tensor, classes: tuple[str, ...], files: tuple[str, ...] = ()
    ) -> None:
        """Write `query.csv` of a round: the absolute indices in order of choice, the labels, and names of files."""
        rows = [
            [order, index, label, classes[label] if label >= 0 else "", *files[order : order + 1]]
            for order, (index, label) in enumerate(zip(indices.tolist(), labels.tolist(), strict=True))
        ]
        columns = ["order", "index", "label", "class", *(["file"] if files else [])]
        write_csv(self.round(number) / "query.csv", columns, rows)

    def _database(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path / "state.sqlite")


def is_over(rounds: int, history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these metrics are of a whole run of so many rounds after round 0, or of one that ended early.

    >>> is_over(2, [{}, {}]), is_over(2, [{}, {}, {}]), is_over(2, [{}, {"stopped": {"probability": 0.9}}])
    (False, True, True)
    """
    return len(history) > rounds or bool(history and history[-1].get("stopped"))
