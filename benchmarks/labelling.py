"""From a key to the next image on the labelling page: 200 images at 20 keys a second, in headless Chromium.

    python benchmarks/labelling.py          # needs the `dev` extra and Chromium; half a minute

Milliseconds from the key's event until the next picture stands in the page; in between the answer goes to the server's
disk. Beside them, how long the server alone takes for an answer among 1,000 images.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from playwright.sync_api import sync_playwright

from robal.errors import AwaitingLabels
from robal.labelling import Desk
from robal.loop import run
from robal.oracles import Judgement
from robal.plans import read_plan

WATCH = """
window.waits = []; let pressed = [];
addEventListener('keydown', () => pressed.push(performance.now()), true);
new MutationObserver(() => { if (pressed.length) waits.push(performance.now() - pressed.shift()); })
    .observe(document.getElementById('picture'), {childList: true});
"""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def asking(folder: Path, *settings: str) -> Path:
    """A run that waits for people."""
    plan = read_plan(None, ["oracle=Page", *settings])
    try:
        run(plan, plan.data.load(), folder)
    except AwaitingLabels:
        return folder
    raise SystemExit("the run should wait for labels")


def in_the_page(folder: Path, keys: int = 200) -> list[float]:
    """Milliseconds from each key to the next image."""
    words = [str(Path(sys.executable).with_name("robal")), "label", str(folder), "--port", "0", "--no-browser"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        link = re.search(r"http://\S+", server.stdout.readline())
        assert link, "the server did not start"
        with sync_playwright() as playwright:
            chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page()
            page.goto(link[0])
            shown = "(many) => document.getElementById('progress').textContent.includes(`0 of ${many}`)"
            page.wait_for_function(shown, arg=keys)
            page.evaluate(WATCH)
            for key in range(keys):
                began = time.perf_counter()
                page.keyboard.press(str(key % 10))
                time.sleep(max(0.0, 0.05 - (time.perf_counter() - began)))
            page.wait_for_selector("#rest:not([hidden])")
            waits = page.evaluate("waits")
            browser.close()
        return [float(wait) for wait in waits]
    finally:
        server.kill()
        server.wait()


def on_the_server(folder: Path) -> list[float]:
    """Milliseconds of the server for each of 300 answers, among the images of a question."""
    desk = Desk(folder)
    desk.open()
    try:
        view, times = desk.view("Ada"), []
        for image in view["images"][:300]:
            began = time.perf_counter()
            desk.judge([Judgement(uuid.uuid4().hex, image, "Ada", 3)], view["question"])
            times.append(1000 * (time.perf_counter() - began))
        return times
    finally:
        desk.close()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as place:
        few, many = Path(place) / "few", Path(place) / "many"
        for what, times in (
            ("key to next image, 200 images", in_the_page(asking(few, "start.labels=200", "rounds=0"))),
            ("server, an answer among 1,000", on_the_server(asking(many, "start.labels=1000", "rounds=0"))),
        ):
            cut = statistics.quantiles(times, n=20)[-1]
            print(f"{what}: median {statistics.median(times):.1f} ms, 95 % under {cut:.1f}, longest {max(times):.1f}")


if __name__ == "__main__":
    main()
