"""What the page shows and takes: the pending question of a run, and with `watch` the training between two questions."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robal.data import Data
from robal.errors import FolderInUse, InputError
from robal.evaluation import predict
from robal.folder import RunFolder
from robal.images import picture
from robal.loop import load
from robal.oracles import Judgement, People, Settlement, standing
from robal.plan import Plan
from robal.pool import NONE_OF_THESE, SKIPPED
from robal.records import begun, check_same_run, plan_of, same_numerics
from robal.state import State
from robal.training import Trained

LARGEST_SIDE = 1024  # pixels; larger images are sent smaller
_EXAMPLES = 4  # of each class


class NotPending(InputError):
    """A judgement of an image that is not asked about now: the page is behind."""


@dataclass(eq=False)
class Desk:
    """A run at which people label.

    Args:
        folder: the run's.
        data: where its data sets lie now, or None.
        watch: train as soon as people say so, and ask again.
        you: who somebody is that gives no name.

    Raises:
        InputError: for a run whose oracle is neither `Page` nor `LabelStudio` (where it is for decisions).
        RunFolderError: for a folder without a run, or one in use (unless `watch`, which waits).
    """

    folder: Path
    data: Path | None = None
    watch: bool = False
    you: str = "somebody"
    _phase: dict[str, Any] = field(default_factory=lambda: {"name": "training"})
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _held: ExitStack = field(default_factory=ExitStack)
    _child: subprocess.Popen[str] | None = None
    _state: State | None = None
    _previous: Trained | None = None
    _question: str = ""  # unlike any other run's, and any other round's
    _settlement: Settlement = field(default_factory=lambda: Settlement({}, (), {}))
    _guesses: dict[int, int] | None = None
    _closed: bool = False

    def __post_init__(self) -> None:
        self._plan: Plan = plan_of(self.folder, self.data)
        if not isinstance(self._plan.oracle, People):
            raise InputError(
                f"{self.folder} takes its labels from {type(self._plan.oracle).__name__}; a run that people label on "
                "the page is begun with oracle=Page"
            )
        self._answers = self._plan.oracle.answers
        self._source: Data = self._plan.data.load()
        self._place = RunFolder(self.folder)
        self._said = self._place.judgements
        self.version = self._source.fingerprint()[:12]

    # ── the run ──

    def open(self) -> None:
        """Look what the run asks; where it asks nothing, train with `watch`, and say what to do without."""
        with self._lock:
            try:
                self._look(self._held.enter_context(self._place.locked()))
            except FolderInUse:
                if not self.watch:
                    raise
                self._phase = {"name": "training", "what": "another process is at work in this folder"}
                threading.Thread(target=self._try_again, daemon=True).start()
                return
            except BaseException:
                self._held.close()
                raise
            assert self._state is not None
            if self._state.is_over(self._plan):
                self._phase = {"name": "done", "report": str(self.folder / "report" / "index.html")}
            elif self._state.question is not None and self._state.answers is None:
                self._phase = {"name": "asking"}
            elif self.watch:
                self._train()
            else:
                self._held.close()
                raise InputError(f"{self.folder} asks nothing now: `robal resume {self.folder}` trains until it does")

    def _look(self, place: RunFolder) -> None:
        """Read the run, and keep its database at hand."""
        self._held.enter_context(self._said.at_hand())
        check_same_run(place, self._plan, self._source)
        self._state, self._previous = load(self._plan, self._source, place)
        self._guesses = None
        begun_at = begun(place)["started"]
        about = f"{self.folder.resolve()} {begun_at} {self._state.round}"
        self._question = hashlib.sha256(about.encode()).hexdigest()[:16]
        if self._state.question is not None:
            self._settlement = self._said.settled(self._state.question.tolist(), self._answers)

    def go_on(self) -> None:
        """Train with the answers; without `watch` that is for `robal resume`."""
        with self._lock:
            if self._phase["name"] == "failed":
                self.open() if self._state is None else self._train()
                return
            if self._phase["name"] != "asking" or not self.watch:
                raise InputError("there is nothing to train with now")
            if self._settlement.missing or self._settlement.disputed:
                raise InputError("not every image has its label yet")
            self._train()

    def close(self) -> None:
        """Stop a training that is under way; it goes on from there another time."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.terminate()
            child.wait()
        self._held.close()

    def _train(self) -> None:
        self._held.close()
        self._state = self._previous = self._guesses = None
        self._phase = {"name": "training"}
        words = [sys.executable, "-P", "-m", "robal.labelling.training", str(self.folder)]
        words += [] if self.data is None else [str(self.data)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        try:  # in a session of its own: Ctrl-C is for the server, which ends it
            self._child = subprocess.Popen(words, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]
        except OSError as error:
            self._phase = {"name": "failed", "why": f"the training could not be started: {error}"}
            return
        threading.Thread(target=self._listen, args=(self._child,), daemon=True).start()

    def _listen(self, child: subprocess.Popen[str]) -> None:
        """Until the training ends: how far it is, and then what it asks."""
        assert child.stdout is not None
        began: tuple[str, float, int] = ("", 0.0, 0)
        last: dict[str, Any] = {}
        for line in child.stdout:
            try:
                last = dict(json.loads(line))
            except (ValueError, TypeError):
                sys.stderr.write(line)  # something that the user's own code printed
                continue
            what, done, total = last.get("what", ""), last.get("done", 0), last.get("total")
            if what != began[0]:
                began = (what, time.monotonic(), done)
            seconds, gained = time.monotonic() - began[1], done - began[2]
            left = seconds * (total - done) / gained if total and gained > 0 and seconds > 1 else None
            with self._lock:
                self._phase = {"name": "training", "what": what, "done": done, "total": total, "seconds_left": left}
        child.wait()
        with self._lock:
            if self._closed or self._child is not child:
                return
            self._child = None
            if "error" in last or not ("asks" in last or "report" in last):
                why = (
                    last.get("error") or f"the training ended with exit code {child.returncode}; the terminal says why"
                )
                self._phase = {"name": "failed", "why": why}
                return
            self._open_again()

    def _try_again(self) -> None:
        time.sleep(2)
        if not self._closed:
            self._open_again()

    def _open_again(self) -> None:
        try:
            self.open()
        except Exception as error:  # a thread has nobody to raise it to; the page shows it
            self._phase = {"name": "failed", "why": str(error)}

    # ── the question ──

    def view(self, who: str) -> dict[str, Any]:
        """All that the page of one person shows, as JSON."""
        with self._lock:
            state = self._state
            found: dict[str, Any] = {
                "run": self.folder.resolve().name,
                "folder": str(self.folder),
                "rounds": self._plan.rounds,
                "watch": self.watch,
                "you": self.you,
                "phase": self._phase,
                "answers": self._answers,
                "classes": self._classes(),
                "skipped": SKIPPED,
                "none": NONE_OF_THESE,
                "finished": [
                    {name: row[name] for name in ("round", "labelled", "accuracy", "robust_accuracy")}
                    for row in self._place.history()
                ],
            }
            if state is None or self._phase["name"] != "asking":
                return found
            asked = self._asked()
            said = self._said.about(list(asked))
            last = {(one.image, one.decides): one for one in said if one.who == who}
            ordered = sorted((one for one in last.values() if one.label is not None), key=lambda one: one.number)
            by_image = standing(said)
            return found | {
                "round": state.round,
                "question": self._question,
                "images": self._in_order(list(asked), who, said),
                "mine": [[one.image, one.label, one.decides] for one in ordered],
                "missing": list(self._settlement.missing),
                "disputed": [
                    {"image": image, "votes": [[one.who, one.label] for one in by_image[image]]}
                    for image in self._settlement.disputed
                ],
                "examples": self._examples(),
                "version": self.version,
                "size": list(self._source.images.shape[1:]),
                "can_guess": state.round > 0,
            }

    def judge(self, judgements: Sequence[Judgement], question: str) -> dict[str, Any]:
        """Keep what somebody said. With the return it is on disk.

        Raises:
            NotPending: for an image that is not asked about now.
            InputError: for a label that there is not.
        """
        with self._lock:
            asked, classes = self._asked(), len(self._classes())
            if question != self._question:
                raise NotPending("this was said of another question")
            for one in judgements:
                if one.image not in asked:
                    raise NotPending(f"image {one.image} is not asked about now")
                if one.label is not None and not (one.label in (SKIPPED, NONE_OF_THESE) or 0 <= one.label < classes):
                    raise InputError(f"{one.label} is no label: there are {classes} classes")
            self._said.record(judgements)
            images = list(dict.fromkeys(one.image for one in judgements))
            self._settlement = self._settlement.changed(images, self._said.settled(images, self._answers))
            return {"missing": list(self._settlement.missing)}

    def add_class(self, name: str, who: str) -> int:
        """The label of a class that somebody names; a class that is known already keeps its own."""
        with self._lock:
            self._asked()
            assert self._state is not None
            return self._said.add_class(self._source.classes, name, self._state.round, who)

    def guesses(self) -> dict[int, int]:
        """What the model of the round before would say of each image asked about; nothing in round 0."""
        with self._lock:
            images = list(self._asked())
            if self._guesses is None:
                assert self._state is not None
                assert self._previous is not None
                self._guesses = {}
                if self._state.round > 0:
                    with same_numerics(self._place):
                        pixels = self._source.images.at_rest(torch.tensor(images))
                        labels = predict(self._previous.model, pixels).tolist()
                    self._guesses = {image: label for image, label in zip(images, labels, strict=True) if label >= 0}
            return self._guesses

    def png(self, index: int) -> bytes:
        """An image of the pool.

        Raises:
            InputError: for one that there is not.
        """
        if not 0 <= index < len(self._source.images):
            raise InputError(f"there is no image {index}")
        shown = picture(self._source.images, index)
        shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        file = io.BytesIO()
        shown.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def _in_order(self, images: list[int], who: str, said: Sequence[Judgement]) -> list[int]:
        """As one person is shown them: where one answer will do, a second one begins at the end, others elsewhere."""
        people = list(dict.fromkeys(one.who for one in said))
        place = people.index(who) if who in people else len(people)
        if self._answers > 1 or place == 0:
            return images
        if place == 1:
            return images[::-1]
        start = zlib.crc32(who.encode()) % len(images)
        return images[start:] + images[:start]

    def _asked(self) -> dict[int, None]:
        """The images asked about, in order."""
        if self._phase["name"] != "asking" or self._state is None or self._state.question is None:
            raise NotPending("nothing is asked now")
        return dict.fromkeys(self._state.question.tolist())

    def _classes(self) -> list[str]:
        return [*self._source.classes, *self._said.new_classes()]

    def _examples(self) -> dict[int, list[int]]:
        """Some images of each class whose label is known, from earlier rounds first."""
        assert self._state is not None
        labels = self._state.pool.labels
        known = {image: int(labels[image]) for image in self._state.pool.labelled.tolist()} | self._settlement.labels
        found: dict[int, list[int]] = {}
        for image, label in known.items():
            if label >= 0 and len(found.setdefault(label, [])) < _EXAMPLES:
                found[label].append(image)
        return found
