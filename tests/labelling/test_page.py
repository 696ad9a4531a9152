"""The labelling page in Chromium: at the keyboard, with the mouse, by touch."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from serving import Server, Starter, answered, asking, labels_of, say, truth

from robal.folder import RunFolder
from robal.pool import NONE_OF_THESE, SKIPPED

# Milliseconds from a key to the next image, gathered by the page itself.
WATCH = """
window.waits = [];
let pressed = [];
addEventListener('keydown', () => pressed.push(performance.now()), true);
new MutationObserver(() => { if (pressed.length) waits.push(performance.now() - pressed.shift()); })
    .observe(document.getElementById('picture'), {childList: true});
"""


def press(page: Page, keys: list[str], pause: float = 0.05) -> None:
    """Twenty keys a second, whether or not the page is ready."""
    for key in keys:
        began = time.monotonic()
        page.keyboard.press(key)
        time.sleep(max(0.0, pause - (time.monotonic() - began)))


def test_two_hundred_images_at_twenty_keys_a_second_with_all_that_happens(
    page: Page, start: Starter, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    images, known = asking(folder, "start.labels=200"), truth()
    keys = [str(known[image]) for image in images]
    wanted = [known[image] for image in images]
    server = start(folder)
    page.goto(server.link)
    answered(page, 0, 200)
    page.evaluate(WATCH)
    waits = []
    for first in (0, 10, 20):  # the machine may be busy with other things for a while
        press(page, keys[first : first + 10], pause=0.15)
        answered(page, first + 10, 200)
        waits.append(page.evaluate("waits.splice(0)"))
    assert min(len(some) for some in waits) >= 9
    assert min(statistics.median(some) for some in waits) < 50
    press(page, keys[30:50])
    answered(page, 50, 200)
    for _ in range(5):  # a wrong key, taken back
        press(page, [str((known[images[50]] + 1) % 10), "Backspace"])
    answered(page, 50, 200)
    press(page, keys[50:80])
    page.reload()  # whatever is still in the queue comes along
    answered(page, 80, 200)
    press(page, [*keys[80:90], "Space", "Space", "-"])
    wanted[90:93] = [SKIPPED, SKIPPED, NONE_OF_THESE]
    press(page, keys[93:120])
    server.kill()
    press(page, keys[120:125])
    page.wait_for_selector("#trouble:not([hidden])")
    again = start(folder, port=server.port)
    assert again.link == server.link
    answered(page, 125, 200)
    press(page, keys[125:160])
    page.reload()
    answered(page, 160, 200)
    press(page, ["Space", *keys[161:]])
    wanted[160] = SKIPPED
    page.wait_for_selector("#rest:not([hidden])")
    assert "All 200 images" in page.inner_text("#rest-title")
    assert labels_of(folder, images) == wanted
    kept = RunFolder(folder).judgements.all()
    assert len(kept) == 200 + 5 + 5  # each answer once, and each undo
    assert not any(one.guess_seen for one in kept)


def test_two_tabs_answer_one_question(page: Page, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    images = asking(folder, "start.labels=20")
    server = start(folder)
    other = page.context.new_page()
    for tab in (page, other):
        tab.goto(server.link)
        answered(tab, 0, 20)
    press(page, list("12345"))
    answered(page, 5, 20)
    other.bring_to_front()
    other.evaluate("dispatchEvent(new Event('focus'))")
    answered(other, 5, 20)
    press(other, list("67"))
    answered(other, 7, 20)
    assert labels_of(folder, images)[:8] == [1, 2, 3, 4, 5, 6, 7, -99]


def test_the_mouse_a_new_class_and_a_guess(page: Page, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, known = asking(folder, "start.labels=40"), truth()
    say(folder, {image: known[image] for image in first})
    images = asking(folder, "start.labels=40")
    assert not set(images) & set(first)
    server = start(folder)
    page.goto(server.link)
    answered(page, 0, 10)
    page.click('#classes button[data-label="4"]')
    answered(page, 1, 10)
    page.keyboard.press("?")
    page.wait_for_selector("#guess:not([hidden])")
    assert "The model says" in page.inner_text("#guess")
    page.keyboard.press("5")
    answered(page, 2, 10)
    assert page.is_hidden("#guess")  # of the next image nobody has asked yet
    page.keyboard.press("+")
    page.fill("#new-name", "smudge <b>")
    page.keyboard.press("Enter")
    answered(page, 3, 10)
    assert page.inner_text('#classes button[data-label="10"]').strip() == "smudge <b>"
    page.click("[data-act=undo]")
    answered(page, 2, 10)
    page.fill("#filter", "smud")
    page.keyboard.press("Enter")
    answered(page, 3, 10)
    assert labels_of(folder, images)[:3] == [4, 5, 10]
    seen = {one.image for one in RunFolder(folder).judgements.all() if one.guess_seen}
    assert seen == {images[1]}


def test_many_at_once(page: Page, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, known = asking(folder, "start.labels=40", "per_round=60"), truth()
    say(folder, {image: known[image] for image in first})
    images = asking(folder, "start.labels=40", "per_round=60")
    server = start(folder)
    page.goto(server.link)
    answered(page, 0, 60)
    page.keyboard.press("#")
    page.wait_for_selector("#grid:not([hidden])")
    rounds = 0
    while page.is_visible("#grid"):
        shown = [int(tile.get_attribute("data-image") or -1) for tile in page.query_selector_all("#tiles button")]
        label = int(page.get_attribute("#grid", "data-label") or -1)
        assert 0 < len(shown) <= 20
        for image in shown:
            if known[image] != label:
                page.click(f'#tiles button[data-image="{image}"]')
        before = page.inner_text("#grid-title") + str(shown)
        page.keyboard.press("Enter")
        page.wait_for_function(
            "([before]) => document.getElementById('grid').hidden || before !== "
            "document.getElementById('grid-title').textContent + "
            "'[' + [...document.querySelectorAll('#tiles button')].map((b) => b.dataset.image).join(', ') + ']'",
            arg=[before],
        )
        rounds += 1
    assert rounds > 1
    open_ones = [image for image, label in zip(images, labels_of(folder, images), strict=True) if label == -99]
    press(page, [str(known[image]) for image in open_ones])
    page.wait_for_selector("#rest:not([hidden])")
    assert labels_of(folder, images) == [known[image] for image in images]
    seen = [one.guess_seen for one in RunFolder(folder).judgements.all() if one.image in images]
    assert sum(seen) >= 60 - len(open_ones) > 0


def test_people_disagree_and_one_decides(page: Page, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    images = asking(folder, "start.labels=40", "oracle.answers=2")
    say(folder, dict.fromkeys(images, 3), "Bert")
    server = start(folder)
    page.goto(server.link)
    page.fill("#who", "Ada")
    page.press("#who", "Enter")
    page.keyboard.press("Tab")
    answered(page, 0, 40)
    press(page, ["4", *["3"] * 39])
    page.wait_for_function("() => document.getElementById('caption').textContent.includes('Bert says 3, Ada says 4')")
    page.keyboard.press("5")
    page.wait_for_selector("#rest:not([hidden])")
    assert RunFolder(folder).judgements.settled(images, 2).labels[images[0]] == 5
    page.keyboard.press("Backspace")  # the decision is taken back, and nothing else
    page.wait_for_selector("#single:not([hidden])")
    page.keyboard.press("4")
    page.wait_for_selector("#rest:not([hidden])")
    assert RunFolder(folder).judgements.settled(images, 2).labels == dict.fromkeys(images, 3) | {images[0]: 4}
    assert RunFolder(folder).judgements.repeated(images) == 41


def test_a_name_typed_while_the_page_still_loads_stays(page: Page, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    images = asking(folder, "start.labels=20")
    server = start(folder)
    page.route("**/page.js", lambda route: (time.sleep(1), route.continue_()))
    page.goto(server.link)
    page.fill("#who", "Ada")
    page.press("#who", "Enter")
    answered(page, 0, 20)
    page.keyboard.press("Tab")
    page.keyboard.press("3")
    answered(page, 1, 20)
    assert [(one.image, one.who) for one in RunFolder(folder).judgements.all()] == [(images[0], "Ada")]
    page.reload()
    answered(page, 1, 20)
    assert page.input_value("#who") == "Ada"


def test_it_trains_between_questions(page: Page, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    known = truth()
    images = asking(folder, "start.labels=40")
    server = start(folder, "--watch")
    page.goto(server.link)
    answered(page, 0, 40)
    press(page, [str(known[image]) for image in images])
    page.wait_for_selector("#go-on:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('rest-title').textContent === 'Training'")
    answered(page, 0, 10, seconds=300)
    press(page, list("0123456789"))
    page.wait_for_selector("#go-on:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.getElementById('rest-title').textContent === 'The run is finished'", timeout=300_000
    )
    assert len(RunFolder(folder).history()) == 2
    assert [line.inner_text()[:24] for line in page.query_selector_all("#rest-rounds li")] == [
        "after round 0, 40 labels",
        "after round 1, 50 labels",
    ]
    assert (folder / "report" / "index.html").exists()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_nothing_serious_is_in_the_way_of_a_screen_reader(
    browser: Browser, start: Starter, tmp_path: Path, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    folder = tmp_path / "run"
    first, known = asking(folder, "start.labels=40"), truth()
    say(folder, {image: known[image] for image in first})
    asking(folder, "start.labels=40")
    server = start(folder)
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme, has_touch=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.link)
    answered(page, 0, 10)
    page.tap('#classes button[data-label="3"]')
    answered(page, 1, 10)
    serious(Axe(), page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.tap("[data-act=grid]")
    page.wait_for_selector("#grid:not([hidden])")
    serious(Axe(), page)
    page.tap("#grid-leave")
    page.tap("[data-act=new]")
    serious(Axe(), page)
    page.keyboard.press("Escape")
    press(page, list("123456789"))
    page.wait_for_selector("#rest:not([hidden])")
    serious(Axe(), page)
    context.close()


def serious(axe: object, page: Page) -> None:
    found = axe.run(page).response["violations"]  # type: ignore[attr-defined]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_it_can_be_read_at_two_hundred_percent(browser: Browser, start: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asking(folder, "start.labels=40")
    server: Server = start(folder)
    context = browser.new_context(viewport={"width": 640, "height": 400})  # 1280 by 800 at 200 %
    page = context.new_page()
    page.goto(server.link)
    answered(page, 0, 40)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.is_visible('#classes button[data-label="9"]')
    context.close()
