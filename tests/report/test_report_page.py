"""Run folders in every state, and the page, figures and tables made of them."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from robal.errors import RunFolderError
from robal.report import report, table
from robal.report.folder import read, read_all

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Links(HTMLParser):
    """Collects tags, links and identifiers, and sees to it that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href", "srcset", "action"}]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(*folders: Path) -> str:
    return report(folders).read_text("utf-8")


def rows_of(report_folder: Path) -> list[dict[str, str]]:
    with (report_folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(name="page_of_two", scope="module")
def _page_of_two(tmp_path_factory, write_run) -> str:
    base = tmp_path_factory.mktemp("two")
    return page_of(write_run(base / "a", rounds=1, planned=1), write_run(base / "b", rounds=1))


def text_of(page: str) -> str:
    body = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body).replace("\u00a0", " "))


def test_the_page_of_a_finished_run_says_everything_in_order(tmp_path, write_run):
    page = page_of(write_run(tmp_path / "digits-dre"))
    text = text_of(page)
    said = [
        "digits-dre",
        "350 labels bought: 94.2 % accurate, 61.0 % under AutoAttack",
        "180 validation labels were free",
        "The plan in words",
        "Learning curve",
        "Rounds",
        "What was asked",
        "Each class",
        "Where the time went",
        "Where the labels went",
        "robal run plan.yaml",
        "plan.yaml, in full",
        "per_round: 50",
    ]
    places = [text.index(phrase) for phrase in said]
    assert places == sorted(places)
    assert page.count("data:image/png;base64,") == 7
    assert "unfinished" not in text


def test_the_page_needs_nothing_from_outside_and_runs_no_script(page_of_two):
    page = page_of_two
    found = Links(page)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_identifiers_on_the_page_are_unique_and_references_arrive(page_of_two):
    page = page_of_two
    found = Links(page)
    assert len(found.ids) == len(set(found.ids))
    wanted = {link[1:] for link in found.links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert wanted <= set(found.ids)


def test_an_unfinished_run_says_how_far_it_got(tmp_path, write_run):
    text = text_of(page_of(write_run(tmp_path / "run", rounds=1)))
    assert "round 1 of 6, unfinished" in text
    assert "PGD alone supports no conclusion" in text


def test_a_run_with_no_round_measured_has_a_page(tmp_path, write_run):
    folder = write_run(tmp_path / "run", rounds=0)
    for content in ("", None):
        (folder / "metrics.jsonl").unlink() if content is None else (folder / "metrics.jsonl").write_text(content)
        text = text_of(page_of(folder))
        assert "No round is measured yet." in text
        assert "no round measured yet, unfinished" in text
        assert rows_of(folder / "report") == []


def test_a_half_written_last_line_is_left_out_and_said(tmp_path, write_run):
    folder = write_run(tmp_path / "run", rounds=2)
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:200], "utf-8")
    assert [row.number for row in read(folder).rounds] == [0, 1]
    assert "The last line of metrics.jsonl is half-written" in text_of(page_of(folder))


def test_a_round_written_twice_counts_once_and_the_later_line_wins(tmp_path, write_run):
    folder = write_run(tmp_path / "run", rounds=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 2, "labelled": 150, "accuracy": 0.5, "images": {"clean": 10}}) + "\n")
    rounds = read(folder).rounds
    assert [row.number for row in rounds] == [0, 1, 2]
    assert rounds[2].accuracy.value == 0.5


def test_without_a_test_set_validation_is_shown_and_named(tmp_path, write_run):
    def no_test(row):
        row |= {"accuracy": None, "robust_accuracy": {"PGD-50": None}, "per_class": None}
        row["images"] = {}

    folder = write_run(tmp_path / "run", rounds=1, change=no_test)
    text = text_of(page_of(folder))
    assert "80.3 % accurate, 44.0 % under PGD-50 (180 validation images" in text
    assert "There is no test set" in text
    assert "Each class" not in text
    rows = rows_of(folder / "report")
    assert {row["measured_on"] for row in rows} == {"validation"}


def test_a_run_in_which_nothing_was_measured_still_has_a_page(tmp_path, write_run):
    def bare(row):
        for key in set(row) - {"round", "labelled"}:
            row[key] = None

    folder = write_run(tmp_path / "run", rounds=1, change=bare)
    assert "100 labels bought: accuracy not measured." in text_of(page_of(folder))


def test_two_runs_are_overlaid_compared_and_shown_one_by_one(tmp_path, write_run):
    one = write_run(tmp_path / "dre", rounds=1, planned=1)
    two = write_run(tmp_path / "random", rounds=1, planned=1, boost=-0.04, plan={"acquisition": {"name": "Random"}})
    index = report([one, two])
    assert index == one / "report" / "index.html"
    text = text_of(index.read_text("utf-8"))
    assert "2 runs compared" in text
    assert text.count("What was asked") == 2
    assert index.read_text("utf-8").count("data:image/png;base64,") == 4
    figures = {path.name for path in (index.parent / "figures").iterdir()}
    assert {"learning-curves-accuracy.svg", "learning-curves-attack-1.png", "run-2-query-001.svg"} <= figures
    rows = rows_of(index.parent)
    assert [row["run"] for row in rows] == ["dre"] * 2 + ["random"] * 2


def test_runs_of_the_same_name_are_told_apart_by_their_parents(tmp_path, write_run):
    folders = [write_run(tmp_path / parent / "seed-0", rounds=0) for parent in ("dre", "random")]
    assert [record.name for record in read_all(folders)] == ["dre/seed-0", "random/seed-0"]


@pytest.mark.parametrize("wicked", ["<b>", "</code></pre><script>alert(1)</script>", '" onload="x'])
def test_strings_from_the_run_folder_are_escaped(tmp_path, write_run, wicked):
    names = [wicked, "$1$", "_hidden", "猫", *"456789"]
    plan = {"acquisition": wicked, "network": {"name": wicked}}
    page = page_of(write_run(tmp_path / "run", plan=plan, classes=names, rounds=1))
    found = Links(page)
    assert "b" not in found.tags
    assert "script" not in found.tags
    assert "onload" not in re.sub(r">[^<]*<", "><", page)


def test_the_csv_has_a_row_per_round_and_columns_that_say_what_they_hold(tmp_path, write_run):
    folder = write_run(tmp_path / "run", rounds=1, planned=1)
    report([folder])
    rows = rows_of(folder / "report")
    assert len(rows) == 2
    rate = ["", "_low", "_high", "_images"]
    assert list(rows[0]) == [
        *("run", "round", "labels_bought", "labels_training", "labels_validation", "labels_meta", "labels_repeated"),
        *("labels_skipped", "labels_free_validation", "labels_audit", "measured_on"),
        *(f"{name}{end}" for name in ("accuracy", "PGD-50", "AutoAttack") for end in rate),
        *("validation_accuracy", "seconds", "seconds_choose", "seconds_label", "seconds_train", "seconds_evaluate"),
        *("kept_twin", "kept_pseudo", "pool_pseudo", "pool_collapsed", "gradient_evaluations", "epoch_kept"),
    ]
    last = rows[-1]
    assert (last["labels_bought"], last["labels_free_validation"], last["AutoAttack_images"]) == ("100", "180", "200")
    assert float(last["AutoAttack"]) == pytest.approx(0.395)
    assert rows[0]["AutoAttack"] == rows[0]["AutoAttack_low"] == ""


def test_every_figure_stands_beside_the_page_as_png_and_svg(tmp_path, write_run):
    index = report([write_run(tmp_path / "run", rounds=1)], out=tmp_path / "elsewhere" / "report")
    assert index == tmp_path / "elsewhere" / "report" / "index.html"
    names = ["learning-curve", "query-000", "query-001", "per-class", "time", "labels"]
    files = {path.name for path in (index.parent / "figures").iterdir()}
    assert files == {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
    for path in (index.parent / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
    assert {path.name for path in index.parent.iterdir()} == {"index.html", "table.csv", "figures"}


def test_two_calls_write_the_same_bytes(tmp_path, write_run):
    folder = write_run(tmp_path / "run", rounds=1)
    outs = [report([folder], out=tmp_path / name).parent for name in ("one", "two")]
    first, second = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in outs)
    assert first == second


def test_drawing_leaves_the_global_look_of_matplotlib_alone(tmp_path, write_run):
    import matplotlib

    before = dict(matplotlib.rcParams)
    report([write_run(tmp_path / "run", rounds=1)])
    assert dict(matplotlib.rcParams) == before


def test_the_terminal_table_shows_rates_intervals_and_what_is_unfinished(tmp_path, write_run):
    console = Console(width=140, file=io.StringIO())
    console.print(table([write_run(tmp_path / "done"), write_run(tmp_path / "[red]half", rounds=2)]))
    shown = console.file.getvalue()
    assert "94.2 (91–96)" in shown
    assert "[red]half: round 2 of 6, unfinished" in shown


def test_a_folder_without_a_plan_is_not_a_run_folder(tmp_path):
    for call in (report, table):
        with pytest.raises(RunFolderError, match=r"not a run folder: it has no plan\.yaml"):
            call([tmp_path])
        with pytest.raises(RunFolderError, match="none was named"):
            call([])


@pytest.mark.parametrize("content", ["a: [1", "- a\n- b", "\x00"])
def test_a_plan_that_is_no_mapping_is_refused(tmp_path, content):
    (tmp_path / "plan.yaml").write_text(content, "utf-8")
    with pytest.raises(RunFolderError, match=r"plan\.yaml"):
        report([tmp_path])


def test_damaged_side_files_are_left_out_and_said(tmp_path, write_run):
    folder = write_run(tmp_path / "run", rounds=1)
    (folder / "environment.json").write_text("{", "utf-8")
    (folder / "rounds" / "001" / "query.png").write_bytes(b"not a picture")
    text = text_of(page_of(folder))
    assert "environment.json cannot be read" in text
    assert "The image strip of round 1 is not a PNG file" in text


def test_a_report_that_cannot_be_written_says_where(tmp_path, write_run):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot be written to"):
        report([write_run(tmp_path / "run", rounds=0)], out=tmp_path / "file")


@pytest.mark.parametrize("junk", [None, "x", -1, float("nan"), [None, "a"], {}, 10**400])
def test_no_value_in_a_row_however_wrong_keeps_the_page_from_being_written(tmp_path, write_run, junk):
    def spoil(row):
        for key in set(row) - {"round", "labels", "query"}:
            row[key] = junk
        row["labels"]["bought"] = row["query"]["images"] = row["query"]["classes"][0] = junk

    assert report([write_run(tmp_path / "run", rounds=0, change=spoil)]).is_file()
