"""A team that labels in Label Studio: tasks go there, annotations come back, and the run waits in between."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import torch
from PIL import Image
from torch import Tensor

from robal.errors import AwaitingLabels, InputError, LabelStudioError
from robal.files import write
from robal.images import picture
from robal.oracles.judgements import Judgement, Judgements
from robal.oracles.people import People
from robal.pool import NONE_OF_THESE, SKIPPED, Pool
from robal.progress import say, track

TOKEN = "LABEL_STUDIO_API_KEY"
NONE = "none of these"
_FROM_HERE = "label-studio-"  # how the keys of such judgements begin
_SMALLEST_SIDE = 256  # pixels; Label Studio blurs what it enlarges
_LARGEST_SIDE = 1024
_BATCH = 50  # tasks a request
_KEYS = "1234567890"


@dataclass(frozen=True, kw_only=True)
class LabelStudio(People):
    """Answers with what people annotate in a project of Label Studio.

    The project is made, with a choice of class for each image, where there is none of its name. An existing one needs
    an Image and a single Choices that offers the classes. Each image is one task, whatever happens in between; skipped
    tasks are SKIPPED, the choice "none of these" is NONE_OF_THESE, and a choice that somebody added to the project is a
    new class. The token comes from the environment's LABEL_STUDIO_API_KEY: a personal access token, or a legacy one.

    Args:
        url: where Label Studio is.
        project: its title, or its number in the address of its page; "": "robal" and the run's name.
        every: seconds between two looks, so that the run waits; 0: it looks once and stops.
        predictions: send what the model says, with the probability as its score. It is shown pre-selected there, which
            biases people.
        guesses: by image, the model's class and its probability, filled in by the run where `predictions` wants them.

    Further fields are those of `People`; on what people disagree is decided by `robal label`.

    Raises:
        AwaitingLabels: as long as annotations are missing and `every` is 0.
        LabelStudioError: when it cannot be reached, refuses the token, or the project does not fit.
        InputError: for settings that make no sense.
    """

    url: str = "http://127.0.0.1:8080"
    project: str = ""
    every: float = 0.0
    predictions: bool = False
    guesses: Mapping[int, tuple[int, float]] = field(default_factory=dict)

    PRIVATE = (*People.PRIVATE, "guesses")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.match(r"https?://[^/]", self.url):
            raise InputError(f"url is where Label Studio is, as in http://127.0.0.1:8080; {self.url!r} came")
        if not 0 <= self.every < float("inf"):
            raise InputError(f"every is the seconds between two looks, 0 or more; {self.every} came")

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        images, judgements = indices.tolist(), self.said
        project = _Project.found_or_made(self, pool.classes)
        project.send(pool, images, self.guesses)
        while True:
            try:
                project.fetch(images, judgements, pool.classes, self.round)
            except LabelStudioError as error:
                if not self.every:
                    raise
                say(f"{error} It is asked again in {self.every:.0f} s")  # it may be restarted just now
            found = judgements.settled(images, self.answers)
            if not found.missing or not self.every:
                break
            say(f"{len(found.missing)} of {len(images)} images wait for an annotation: {project.page}")
            time.sleep(self.every)
        if found.missing:
            raise AwaitingLabels(
                f"{len(found.missing)} of {len(images)} images wait for an annotation: {project.page}, "
                "then `robal resume`"
            )
        if found.disputed:
            raise AwaitingLabels(
                f"people disagree on {len(found.disputed)} of {len(images)} images: decide on the page that "
                f"`robal label {self.place}` opens, then `robal resume`"
            )
        return torch.tensor([found.labels[image] for image in images], dtype=torch.int64)


@dataclass(frozen=True)
class _Project:
    """A project that is there, and how to talk to it.

    Args:
        url: without a slash at its end.
        token: the environment's.
        run: unlike any other run's; part of the name of each image that is sent.
        number: the project's.
        choices: (from_name, to_name) of its Choices.
    """

    url: str
    token: str
    run: str
    number: int = 0
    choices: tuple[str, str] = ("", "")

    @property
    def page(self) -> str:
        return f"{self.url}/projects/{self.number}"

    @classmethod
    def found_or_made(cls, oracle: LabelStudio, classes: Sequence[str]) -> _Project:
        """The run's project: the one it began with, else the one that is called so, else a new one."""
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            raise InputError(f"Label Studio needs a token: export {TOKEN}=…, from its page Account & Settings")
        where = Path(oracle.place)
        record = where / "label-studio.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"run": uuid.uuid4().hex[:12]}
        project = cls(oracle.url.rstrip("/"), token, known["run"])
        title = oracle.project or f"robal {where.resolve().name}"
        number = known.get("project") or project._find(title)
        made = known.get("made", number is None)
        if number is None:
            body = {"title": title[:50], "label_config": _config(classes), "maximum_annotations": oracle.answers}
            number = project._call("/api/projects", body)["id"]
        about = project._call(f"/api/projects/{number}")
        if made and not all(quoteattr(name) in about["label_config"] for name in classes):  # one was named since
            about = project._call(f"/api/projects/{number}", {"label_config": _config(classes)}, method="PATCH")
        choices = _choices(about["label_config"], classes, f"{project.url}/projects/{number}")
        if "project" not in known:
            write(record, json.dumps(known | {"project": number, "made": made}) + "\n")
        return replace(project, number=int(number), choices=choices)

    def send(self, pool: Pool, images: Sequence[int], guesses: Mapping[int, tuple[int, float]]) -> None:
        """Make a task of each image that has none yet."""
        there = self._tasks()
        missing = [image for image in images if image not in there]
        for first in track(range(0, len(missing), _BATCH), "images to Label Studio"):
            some = missing[first : first + _BATCH]
            files = {f"robal-{self.run}-{image}.png": _png(pool, image) for image in some}
            self._call(f"/api/projects/{self.number}/import", files=files)
        if guesses:
            tasks = self._tasks()
            for image, task in [(one, task) for one in images if one in guesses for task in tasks.get(one, [])]:
                if not task["predictions"]:
                    label, score = guesses[image]
                    self._call(
                        "/api/predictions",
                        {
                            "task": task["id"],
                            "score": score,
                            "model_version": "robal",
                            "result": [self._choice(pool.classes[label])],
                        },
                    )

    def fetch(self, images: Sequence[int], judgements: Judgements, classes: Sequence[str], number: int) -> None:
        """Keep what people said since the last look; what they deleted is taken back. New classes get this round."""
        people = {one["id"]: one["email"] or one["username"] for one in self._call("/api/users")}
        tasks = self._tasks()
        found: dict[tuple[int, str], Judgement] = {}  # the last word of each person
        annotations = [(image, one) for image in images for task in tasks.get(image, []) for one in task["annotations"]]
        for image, one in sorted(annotations, key=lambda pair: pair[1]["updated_at"]):
            label = self._label(one, judgements, classes, number)
            if label is not None:
                who = people.get(one["completed_by"]) or f"user {one['completed_by']}"
                key = f"{_FROM_HERE}{one['id']}-{uuid.uuid4().hex}"
                found[image, who] = Judgement(key, image, who, label, at=one["updated_at"])
        votes = judgements.votes(images)
        before = {whose: one.label for whose, one in votes.items() if one.key.startswith(_FROM_HERE)}
        gone = [Judgement(_FROM_HERE + uuid.uuid4().hex, *whose, None) for whose in before if whose not in found]
        new = [one for whose, one in found.items() if before.get(whose) != one.label]
        judgements.record([*gone, *new])

    def _label(
        self, annotation: Mapping[str, Any], judgements: Judgements, classes: Sequence[str], number: int
    ) -> int | None:
        """What an annotation says; None for one without a choice."""
        if annotation["was_cancelled"]:
            return SKIPPED
        said = [one for one in annotation["result"] if one.get("from_name") == self.choices[0]]
        chosen = [word for one in said for word in one["value"].get("choices", [])]
        if len(chosen) != 1:
            return None
        if chosen[0] in classes:
            return list(classes).index(chosen[0])
        if chosen[0] == NONE:
            return NONE_OF_THESE
        return judgements.add_class(classes, chosen[0], number, "Label Studio")

    def _choice(self, word: str) -> dict[str, Any]:
        name, of = self.choices
        return {"from_name": name, "to_name": of, "type": "choices", "value": {"choices": [word]}}

    def _tasks(self) -> dict[int, list[dict[str, Any]]]:
        """By image, this run's tasks: one, or more where a kill and a restart came in the middle of an import."""
        found: dict[int, list[dict[str, Any]]] = {}
        path = f"/api/projects/{self.number}/export?exportType=JSON&download_all_tasks=true"
        for task in self._call(path):
            name = re.search(rf"robal-{self.run}-(\d+)\.png$", task.get("file_upload") or "")
            if name:
                found.setdefault(int(name[1]), []).append(task)
        return found

    def _find(self, title: str) -> int | None:
        if title.isdecimal():
            return int(title)
        page = "/api/projects?page_size=100"
        while page:
            listed = self._call(page)
            for one in listed["results"]:
                if one["title"] == title[:50]:
                    return int(one["id"])
            following = urllib.parse.urlsplit(listed["next"] or "")
            page = f"{following.path}?{following.query}" if following.path else ""
        return None

    def _call(
        self, path: str, body: Any = None, files: Mapping[str, bytes] | None = None, method: str | None = None
    ) -> Any:
        headers = {"Authorization": _authorization(self.url, self.token)}
        return _asked(self.url + path, headers, body, files, method)


def _asked(
    url: str,
    headers: Mapping[str, str],
    body: Any = None,
    files: Mapping[str, bytes] | None = None,
    method: str | None = None,
) -> Any:
    """The JSON that comes back.

    Raises:
        LabelStudioError: naming the address and what came.
    """
    data, kind = None, {}
    if files is not None:
        line = uuid.uuid4().hex
        parts = [
            f'--{line}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: image/png\r\n\r\n".encode()
            + content
            + b"\r\n"
            for name, content in files.items()
        ]
        data, kind = (
            b"".join(parts) + f"--{line}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={line}"},
        )
    elif body is not None:
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, {**headers, **kind}, method=method), timeout=120
        ) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        said = error.read(300).decode("utf-8", "replace")
        hint = (
            f"; is {TOKEN} a token of this Label Studio, and are tokens of its kind enabled there?"
            if error.code == 401
            else ""
        )
        raise LabelStudioError(f"Label Studio refused {url} ({error.code}): {said}{hint}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise LabelStudioError(f"Label Studio does not answer at {url}: {error}; is it running there?") from None


def _authorization(url: str, token: str) -> str:
    """The header: legacy tokens go as they are, personal ones are exchanged for one that lasts five minutes."""
    if token.count(".") != 2:
        return f"Token {token}"
    return f"Bearer {_asked(url + '/api/token/refresh', {}, {'refresh': token})['access']}"


def _config(classes: Sequence[str]) -> str:
    """A project's page: the image, and one choice, whose keys are as on robal's own page."""
    single = [name if len(name) == 1 and name.isalnum() and name.isascii() else "" for name in classes]
    free = [key for key in _KEYS if key not in single]
    keys = [one or (free.pop(0) if len(classes) <= len(_KEYS) and free else "") for one in single]
    choices = [
        f"<Choice value={quoteattr(name)}" + (f" hotkey={quoteattr(key.lower())}" if key else "") + "/>"
        for name, key in zip(classes, keys, strict=True)
    ]
    return (
        '<View><Image name="image" value="$image"/>'
        '<Choices name="class" toName="image" choice="single" required="true">'
        + "".join(choices)
        + f'<Choice value="{NONE}" hotkey="-"/></Choices></View>'
    )


def _choices(config: str, classes: Sequence[str], page: str) -> tuple[str, str]:
    """The names of a project's Choices and of the image it is about.

    Raises:
        LabelStudioError: where it has none, or some of the classes are not among them.
    """
    try:
        view = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise LabelStudioError(f"{page}: its labelling setup cannot be read: {error}") from None
    images = {one.get("name") for one in view.iter("Image")}
    for one in view.iter("Choices"):
        offered = {choice.get("value") for choice in one.iter("Choice")}
        lacking = [name for name in classes if name not in offered]
        if one.get("toName") in images and not lacking:
            return str(one.get("name")), str(one.get("toName"))
    wanted = ", ".join(classes[:12])
    raise LabelStudioError(
        f"{page} has no Choices about an Image that offers all of {wanted}; add it to its labelling setup, or name "
        "another project: oracle.project=…"
    )


def _png(pool: Pool, image: int) -> bytes:
    shown = picture(pool.images, image)
    times = -(-_SMALLEST_SIDE // max(shown.size))
    if times > 1:
        shown = shown.resize((times * shown.width, times * shown.height), Image.Resampling.NEAREST)
    shown.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    file = io.BytesIO()
    shown.save(file, "PNG")
    return file.getvalue()
