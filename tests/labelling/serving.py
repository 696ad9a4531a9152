"""A run that asks people, and the server of its page in a process of its own."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page

from robal.errors import AwaitingLabels
from robal.folder import RunFolder
from robal.loop import run
from robal.oracles import Judgement
from tiny_runs import tiny_plan

# Without these, Chromium calls home, and no sandbox starts for the user that tests often run as.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def asking(folder: Path, *settings: str) -> list[int]:
    """Begin a run, or go on with it, until it asks people; the images asked about, in order."""
    plan = tiny_plan("oracle=Page", "rounds=1", *settings)
    with pytest.raises(AwaitingLabels, match="robal label"):
        run(plan, plan.data.load(), folder)
    place = RunFolder(folder)
    question = place.question(len(place.history()))
    assert question is not None
    return list(question[0].tolist())


def truth() -> list[int]:
    """The true label of each image of the pool."""
    plan = tiny_plan()
    hidden = plan.data.load().hidden
    assert hidden is not None
    return list(hidden.tolist())


def say(folder: Path, labels: dict[int, int | None], who: str = "Ada", **more: Any) -> None:
    """Judgements, as if given on the page."""
    RunFolder(folder).judgements.record(
        [Judgement(uuid.uuid4().hex, image, who, label, **more) for image, label in labels.items()]
    )


@dataclass
class Server:
    """`robal label` in a process of its own.

    Args:
        process: the server.
        link: what it printed.
        log: its standard error.
        folder: its run.
        question: as the page calls it; found out by the first judgement.
    """

    process: subprocess.Popen[str]
    link: str
    log: Path
    folder: Path
    question: str = ""

    @property
    def port(self) -> int:
        return urlsplit(self.link).port or 0

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.link).query)["token"][0]

    def headers(self) -> dict[str, str]:
        """Those of the page itself."""
        return {"Cookie": f"robal-{self.port}={self.token}", "Origin": f"http://127.0.0.1:{self.port}"}

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON (else text) of a call; `headers` come on top of the page's own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            text = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            mine = self.headers() | ({"Content-Type": "application/json"} if text is not None else {})
            kept = {name: value for name, value in (mine | (headers or {})).items() if value != ""}
            connection.request(method or ("GET" if text is None else "POST"), path, text, kept)
            answer = connection.getresponse()
            found = answer.read()
            try:
                return answer.status, json.loads(found)
            except ValueError:
                return answer.status, found.decode("latin-1")
        finally:
            connection.close()

    def judge(self, image: int, label: int | None, who: str = "Ada", key: str | None = None) -> tuple[int, Any]:
        one = {"key": key or uuid.uuid4().hex, "image": image, "label": label}
        self.question = self.question or self.ask("/api/view")[1]["question"]
        return self.ask("/api/judgements", {"who": who, "question": self.question, "judgements": [one]})

    def kill(self) -> None:
        """No goodbye."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


Starter = Callable[..., Server]


def answered(page: Page, count: int, of: int, seconds: float = 60) -> None:
    """Wait until the page says so."""
    page.wait_for_function(
        "([count, of]) => document.getElementById('progress').textContent.includes(`${count} of ${of}`)",
        arg=[count, of],
        timeout=1000 * seconds,
    )


def labels_of(folder: Path, images: Sequence[int]) -> list[int]:
    """The settled labels."""
    return [RunFolder(folder).judgements.settled(images, 1).labels.get(image, -99) for image in images]
