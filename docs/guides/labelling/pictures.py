"""The pictures of docs/guides/labelling: both modes of the page, light and dark, desktop and phone, on the digits.

python docs/guides/labelling/pictures.py        # needs the `dev` extra and Chromium
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from robal.errors import AwaitingLabels
from robal.folder import RunFolder
from robal.loop import run
from robal.oracles import Judgement
from robal.plans import read_plan

SETTINGS = ("dataset=digits", "oracle=Page", "start.labels=100", "per_round=80", "rounds=1", "acquisition=Random")
QUICK = (
    "start.recipe={budget: 100000, pool: null}",
    "evaluation={images: 20, each_round: [{name: PGD, steps: 2}], at_end: []}",
)
DEVICES = {"desktop": {"width": 1100, "height": 700}, "phone": {"width": 390, "height": 780}}


def asking(folder: Path) -> None:
    """A run whose first question is answered, all but one image of the second grid's kind rightly, and asks again."""
    plan = read_plan(None, [*SETTINGS, *QUICK])
    data = plan.data.load()
    assert data.hidden is not None
    for number in range(2):
        try:
            run(plan, data, folder)
        except AwaitingLabels:
            question = RunFolder(folder).question(number)
        assert question is not None
        images = question[0].tolist()[: 100 if number == 0 else 12]
        said = [Judgement(uuid.uuid4().hex, image, "Ada", int(data.hidden[image])) for image in images]
        RunFolder(folder).judgements.record(said)


def main() -> None:
    """Draw them all."""
    here = Path(__file__).parent
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "digits"
        asking(folder)
        words = [Path(sys.executable).with_name("robal"), "label", folder, "--port", "0", "--no-browser"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            assert server.stdout is not None
            link = re.search(r"http\S+", server.stdout.readline())
            assert link is not None
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for device, size in DEVICES.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
                    page.goto(link[0])
                    page.fill("#who", "Ada")
                    page.press("#who", "Enter")
                    page.evaluate("document.activeElement.blur()")
                    page.wait_for_selector("#classes img")
                    page.wait_for_load_state("networkidle")
                    picture(page.screenshot(), here / f"one-{device}-{scheme}.png")
                    page.click("[data-act=grid]")
                    page.wait_for_selector("#tiles button")
                    page.click("#tiles button:nth-child(3)")
                    page.evaluate("document.activeElement.blur()")
                    page.mouse.move(0, 0)
                    picture(page.screenshot(), here / f"many-{device}-{scheme}.png")
                    page.close()
            browser.close()
            server.kill()


def picture(png: bytes, path: Path) -> None:
    """Written small."""
    path.write_bytes(png)
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(128)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
