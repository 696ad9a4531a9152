"""The page: one static HTML file that carries its figures, and the same figures and a CSV beside it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from robal.errors import RunFolderError
from robal.files import whole
from robal.report import figures, words
from robal.report.drawing import SERIES, Drawing
from robal.report.folder import RunRecord, is_auto_attack, mapping, read_all
from robal.report.rates import Rate
from robal.report.tables import as_csv, attacks_of

HARDWARE = ("platform", "cpu", "threads", "device", "gpu", "memory")


def _tile(name: str, rate: Rate | None) -> tuple[str, str, str]:
    if rate is None:
        return name, "–", "not measured"
    n = "" if rate.images is None else f"n = {rate.images:,}"
    return name, str(rate), " · ".join(word for word in (rate.range, n) if word)


def tiles(record: RunRecord) -> list[tuple[str, str, str]]:
    """The few numbers at the top: what it is, the number, and how sure."""
    row = record.last
    if row is None:
        return []
    shown = [("labels bought", f"{row.bought:,}", record.status), _tile("accuracy", row.accuracy)]
    shown += [
        _tile(f"under {attack}", row.robust[attack]) for attack in reversed(record.attacks) if attack in row.robust
    ]
    return [*shown, ("time, all rounds", words.duration(record.seconds), f"{len(record.rounds)} rounds")]


def versions(record: RunRecord) -> list[tuple[str, str]]:
    """Packages and hardware, flat, in the order in which they were written."""
    environment = record.environment
    found = [(name, str(value)) for name, value in mapping(environment.get("versions")).items()]
    return found + [(name, str(environment[name])) for name in HARDWARE if environment.get(name) not in (None, "")]


def _strip(png: bytes) -> tuple[str, int, int]:
    """A contact strip as a data URL, its widest and its narrowest width in the page [CSS pixels].

    Below 60 pixels of height a strip scrolls sideways, so that its images stay recognisable on a phone.
    """
    width, height = struct.unpack(">II", png[16:24]) if len(png) >= 24 else (400, 100)
    url = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return url, round(1.5 * width), min(width, 60 * width // max(1, height))


def _strips(record: RunRecord) -> dict[int, tuple[str, int, int]]:
    return {
        row.number: _strip(row.query.strip)
        for row in record.rounds
        if row.query is not None and row.query.strip is not None
    }


def view(record: RunRecord, drawings: Mapping[str, Drawing], index: int, prefix: str) -> dict[str, Any]:
    """All that the template says about one run, in words, numbers and inlined figures."""
    return {
        "record": record,
        "anchor": f"run-{index + 1}",
        "colour": f"var(--series-{index % len(SERIES)})",
        "headline": words.headline(record),
        "cautions": words.cautions(record),
        "free": words.free_labels(record),
        "findings": words.findings(record),
        "plan": words.plan_in_words(record),
        "chosen": words.component(record.plan.get("acquisition")),
        "tiles": tiles(record),
        "has_auto_attack": any(map(is_auto_attack, record.attacks)),
        "strips": _strips(record),
        "versions": versions(record),
        "command": str(record.environment.get("command") or ""),
        "figures": {name: Markup(drawing.inline(prefix)) for name, drawing in drawings.items()},
    }


def render(records: Sequence[RunRecord], drawn: Sequence[Mapping[str, Drawing]], shared: Sequence[Drawing]) -> str:
    """The page as one string; everything that comes from a run folder is escaped."""
    several = len(records) > 1
    runs = [
        view(record, drawings, index, f"run-{index + 1}-" if several else "")
        for index, (record, drawings) in enumerate(zip(records, drawn, strict=True))
    ]
    curves = [Markup(drawing.inline()) for drawing in shared]
    return filled("page.html", runs=runs, curves=curves, several=several, attacks=attacks_of(records))


def filled(template: str, package: str = "robal.report", **values: Any) -> str:
    """A template of a package with its values and the style sheet; what comes from files is escaped."""
    ours = resources.files("robal.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = words.duration
    # "93.1 %" must not break before its unit
    environment.filters["whole"] = lambda text: text.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")
    page = environment.from_string(resources.files(package).joinpath(template).read_text("utf-8"))
    return page.render(css=Markup(ours.joinpath("style.css").read_text("utf-8")), **values) + "\n"


def store(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or of several side by side.

    Args:
        folders: run folders, finished or not.
        out: where to write; `report/` inside the first run folder by default.

    Returns:
        The path of index.html, written last. Beside it stand table.csv, and figures/ as PNG and SVG.

    Raises:
        RunFolderError: no folder, one that is not a run folder, or a place that cannot be written.
    """
    records = read_all(folders)
    several = len(records) > 1
    shared = figures.of_runs(records, attacks_of(records)) if several else []
    drawn = [figures.of_run(record) for record in records]
    page = render(records, drawn, shared)
    named = {drawing.name: drawing for drawing in shared}
    for index, drawings in enumerate(drawn):
        prefix = f"run-{index + 1}-" if several else ""
        named |= {prefix + name: drawing for name, drawing in drawings.items()}
    out = records[0].folder / "report" if out is None else Path(out)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, drawing in named.items():
            store(out / "figures" / f"{name}.svg", drawing.standalone.encode())
            store(out / "figures" / f"{name}.png", drawing.png)
        store(out / "table.csv", as_csv(records).encode())
        store(out / "index.html", page.encode())
    except OSError as error:
        raise RunFolderError(f"the report cannot be written to {out}: {error}") from error
    return out / "index.html"
