"""Servers and a browser for the tests of the labelling page."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from serving import FLAGS, Server, Starter, asking


@contextmanager
def servers(logs: Path) -> Iterator[Starter]:
    """A function that starts servers; all are stopped at the end."""
    begun: list[Server] = []

    def begin(folder: Path, *options: str, port: int = 0) -> Server:
        log = logs / f"server-{len(begun)}.log"
        robal = Path(sys.executable).with_name("robal")
        words = [str(robal), "label", str(folder), "--port", str(port), "--no-browser", *options]
        with log.open("w") as errors:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        begun.append(Server(process, "", log, folder))
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 60)
        line = process.stdout.readline() if ready else "no link after a minute: "
        found = re.search(r"http://\S+", line)
        assert found, f"{line}{log.read_text()}"
        begun[-1].link = found[0]
        return begun[-1]

    try:
        yield begin
    finally:
        for server in begun:
            server.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start servers for one test."""
    with servers(tmp_path) as begin:
        yield begin


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests of a file that leave its run as it is: nothing is said in it."""
    place = tmp_path_factory.mktemp("shared")
    asking(place / "run", "start.labels=40")
    with servers(place) as begin:
        yield begin(place / "run")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    where = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if where is None:
        pytest.fail("the page is tested in Chromium and there is none: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=where, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must not complain: errors and messages on its console fail the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 760})
    context.set_default_timeout(60_000)
    found = context.new_page()
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda request: None if "://127.0.0.1:" in request.url else complaints.append(request.url))
    yield found
    context.close()
    assert complaints == []
