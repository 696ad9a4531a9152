"""A study's report: one page, a table as CSV and LaTeX, and the figures, from its folder alone."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from robal.errors import RunFolderError
from robal.files import csv_text
from robal.report.drawing import Drawing
from robal.report.page import filled, store
from robal.report.words import duration
from robal.studies import figures
from robal.studies.beside import Beside, Correlated, Source, beside, correlated
from robal.studies.beside import points as points_of
from robal.studies.compare import Place
from robal.studies.measures import in_words, is_by_class, without_kind
from robal.studies.results import Block, Difference, Line, Results, bias_of, results_of

FEW = "too few seeds"


def points(rate: float | None, sign: bool = False) -> str:
    """A rate in percent, or a difference in points.

    >>> points(0.123), points(-0.02, sign=True), points(None)
    ('12.3', '-2.0', '–')
    """
    return "–" if rate is None else f"{100 * rate:+.1f}" if sign else f"{100 * rate:.1f}"


def span(ends: tuple[float, float] | None, sign: bool = False) -> str:
    """An interval, or ""."""
    return "" if ends is None else f"{points(ends[0], sign)} to {points(ends[1], sign)}"


def p_value(p: float | None, least: float) -> str:
    """p, or why there is none: where the least possible p is above 0.05, nothing could be shown.

    >>> p_value(0.25, 0.25), p_value(0.002, 0.002)
    ('too few seeds (p cannot be below 0.25)', '0.002')
    """
    if p is None or least > 0.05:
        return f"{FEW} (p cannot be below {least:.2g})"
    return f"{p:.2g}"


def verdict(results: Results) -> str:
    """The primary comparison in a sentence."""
    primary = results.place.study.primary
    if primary is None:
        return "No comparison was fixed beforehand: all that follows explores, and proves nothing."
    block = next((block for block in results.blocks if block.primary is not None), None)
    better, other = primary.compare
    at = ", mean height of the curve" if primary.at == "area" else " at the end"
    what = in_words(primary.measure) + at
    pairs = None if block is None else block.pairs(primary.measure, primary.at).get(better)
    if pairs is None:
        return f"{better} against {other}, {what}: nothing to compare yet."
    planned = len(results.place.study.axes["seed"])
    interval = f", 95 % interval over seeds {span(pairs.interval, True)}" if pairs.interval else ""
    tested = p_value(pairs.p, pairs.least_p)
    tested = tested if tested.startswith(FEW) else f"p = {tested} (least possible {pairs.least_p:.2g})"
    return (
        f"{better} less {other}, {what}: {points(pairs.mean, True)} points over {len(pairs.seeds)} "
        f"seed{'s' if len(pairs.seeds) > 1 else ''}{interval}; two-sided sign-flip test: {tested}."
        + (f" {planned - len(pairs.seeds)} of {planned} seeds are missing yet." if planned > len(pairs.seeds) else "")
    )


def row_of(results: Results, block: Block, line: Line, found: Difference | None) -> dict[str, Any]:
    """A line of the table, as words; also what CSV and LaTeX hold."""
    measure, at = results.main
    row: dict[str, Any] = dict(block.fixed) | {
        results.axis: line.label,
        "runs": line.finished,
    }
    row["labels"] = f"{line.bought:,}"
    for name in results.measures:
        row[name] = points(line.mean(name))
    if at == "area":
        row[f"{measure}, area"] = points(line.mean(measure, at))
    values = list(line.values(measure, at).values())
    row["over seeds"] = span(line.over_seeds(measure, at)) or (
        span((min(values), max(values))) + " (range)" if values else ""
    )
    row["over images"] = span(line.over_images(measure)) if at == "end" else ""
    row[f"less {block.reference}"] = "" if found is None else points(found.pairs.mean, True)
    row["interval"] = "" if found is None else span(found.pairs.interval, True)
    row["effect"] = "" if found is None or found.pairs.effect is None else f"{found.pairs.effect:+.1f}"
    row["pairs"] = "" if found is None else len(found.pairs.seeds)
    row["p"] = "" if found is None else _tested(found)
    row[f"labels to {block.reference}'s end"] = _needed(block, found)
    row["time"] = duration(line.seconds)
    row["of it choosing"] = duration(line.choosing)
    row["gradient evaluations"] = f"{line.evaluations:,}"
    return row


def paired_rows(results: Results, block: Block) -> list[dict[str, Any]]:
    """Every measure at the end: each line less the reference, paired by seed, with the 95 % interval over seeds."""
    rows = {line.label: dict[str, Any]() for line in block.lines if line.label != block.reference}
    for name in results.measures:
        for label, pairs in block.pairs(name).items():
            interval = span(pairs.interval, True)
            rows[label][name] = points(pairs.mean, True) + (f" ({interval})" if interval else "")
            rows[label]["pairs"] = len(pairs.seeds)
    columns = ["pairs", *results.measures]
    return [
        {**block.fixed, f"{results.axis}, less {block.reference}": label}
        | {name: row.get(name, "") for name in columns}
        for label, row in rows.items()
        if row
    ]


def _tested(found: Difference) -> str:
    if found.is_primary:
        return f"{p_value(found.pairs.p, found.least_p)}, primary"
    shown = p_value(found.adjusted, found.least_p)
    return shown if shown.startswith(FEW) else f"{shown}, Holm, explores"


def _needed(block: Block, found: Difference | None) -> str:
    if found is None:
        return ""
    if found.needed is None:
        return "never"
    if math.isnan(found.needed):
        return "–"
    whole = block.line(block.reference).bought
    return f"{found.needed:,.0f} ({100 * (1 - found.needed / whole):+.0f} % saved)" if whole else f"{found.needed:,.0f}"


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The table, a row a line of a block."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return csv_text(columns, ([row.get(name, "") for name in columns] for row in rows))


def as_latex(rows: Sequence[dict[str, Any]]) -> str:
    """The table for a paper (booktabs)."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    body = [" & ".join(_tex(str(row.get(key, ""))) for key in columns) + r" \\" for row in rows]
    head = " & ".join(_tex(key) for key in columns) + r" \\"
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    """
    >>> _tex("50 % of A_1")
    '50 \\\\% of A\\\\_1'
    """
    text = re.sub(r"([%&#_${}])", r"\\\1", text)
    return text.replace("–", "--").replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")


def _drawn(
    results: Results, source: Source, block: Block, place: int, found: dict[str, Difference]
) -> list[tuple[str, Drawing | None]]:
    measure, _ = results.main
    start = f"block-{place + 1}"
    so_far = source.about is not None and source.about.running_maximum and source.comparable
    shown: list[tuple[str, Drawing | None]] = [
        (
            "Means over seeds, whose number stands in brackets; bands from the lowest to the highest seed."
            + (" The published points seem to be the highest so far, where ours are as they were." * so_far),
            figures.curves(
                block,
                name,
                f"{start}-{'accuracy' if name == 'accuracy' else f'attack-{index}'}",
                points_of(source, name),
            ),
        )
        for index, name in enumerate(results.measures)
    ]
    shown.append(
        (
            f"By seed: each less {block.reference}. Diamonds are means, bars 95 % intervals over five seeds or more.",
            figures.differences(block, found, measure, f"{start}-differences"),
        )
    )
    parts = dict.fromkeys(without_kind(name) for name in results.measures if is_by_class(name))
    if parts:
        caption = "By class: means over seeds, at the end."
        shown.append((caption, figures.classes(block, list(parts), f"{start}-classes")))
    by_round = block.curve_measure(measure)
    bias = bias_of(block, by_round or measure)
    if bias is not None:
        labels = [line.label for line in block.lines]
        shown.append(
            (
                "Bias: how unlike the pool the chosen images are (Jensen-Shannon divergence in bits, mean over rounds "
                "and seeds), less what a random choice of the same size has.",
                figures.bias(bias, labels, f"{start}-bias"),
            )
        )
        most = max((point.points for points in bias.correlations.values() for point in points), default=0)
        shown.append(
            (
                f"Correlation of bias and robustness ({by_round or measure}) over {most} ways to choose, round by "
                f"round; the band is the 95 % interval for entropy. {'So few points prove little.' * (most < 30)}",
                figures.correlations(bias, f"{start}-correlation"),
            )
        )
    return shown


def study_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a study: index.html, table.csv, table.tex, differences.csv and figures/.

    Args:
        folder: of the study, finished or not.
        out: where to write; `report/` in it by default.

    Returns:
        The path of index.html, written last.

    Raises:
        RunFolderError: no study, or a place that cannot be written.
    """
    results = results_of(Place.of(folder))
    source = Source.of(results.place.study)
    out = folder / "report" if out is None else out
    blocks, rows, drawings, differences = [], [], [], []
    measure, at = results.main
    for place, block in enumerate(results.blocks):
        found = block.differences(measure, at)
        mine = [row_of(results, block, line, found.get(line.label)) for line in block.lines]
        beyond = paired_rows(results, block)
        differences += beyond
        drawn = [
            (caption, drawing)
            for caption, drawing in _drawn(results, source, block, place, found)
            if drawing is not None
        ]
        rows += mine
        drawings += [drawing for _, drawing in drawn]
        blocks.append(
            {
                "said": block.said,
                "columns": _told(block, mine),
                "untested": _untested(mine),
                "rows": mine,
                "paired": [{key: value for key, value in row.items() if key not in block.fixed} for row in beyond],
                "figures": [(caption, Markup(drawing.inline())) for caption, drawing in drawn],
                "papers": _papers(block, results),
                "reference": block.reference,
                "by_round": block.curve_measure(measure) or "nothing that was measured each round",
            }
        )
    counts = Counter(standing.status for standing in results.standings.values())
    about = source.about
    shown = [_shown(one) for one in beside(results, source)]
    related = [_related(block, one) for block in results.blocks for one in correlated(results, block, source)]
    page = filled(
        "study.html",
        "robal.studies",
        name=folder.resolve().name,
        verdict=verdict(results),
        status=", ".join(f"{count} {status}" for status, count in counts.items()),
        notes=results.notes,
        blocks=blocks,
        runs=_runs(results, out),
        about=about,
        otherwise=[] if about is None else [*about.deviations, *source.otherwise.values()],
        beside=shown,
        correlated=related,
        main=f"{measure}{' (area under the curve)' if at == 'area' else ''}",
    )
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            store(out / "figures" / f"{drawing.name}.svg", drawing.standalone.encode())
            store(out / "figures" / f"{drawing.name}.png", drawing.png)
        store(out / "table.csv", as_csv(rows).encode())
        store(out / "table.tex", as_latex(rows).encode())
        store(out / "differences.csv", as_csv(differences).encode())
        if shown:
            store(out / "published.csv", as_csv(shown).encode())
        store(out / "index.html", page.encode())
    except OSError as error:
        raise RunFolderError(f"the report cannot be written to {out}: {error}") from error
    return out / "index.html"


def _told(block: Block, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of the page: those that say something of a line; the files have all."""
    said = [key for key in rows[0] if key not in block.fixed and any(row[key] != "" for row in rows)]
    return [key for key in said if key != "p" or not _untested(rows)]


def _untested(rows: Sequence[dict[str, Any]]) -> str:
    """Why there is no p at all, where there is none for one and the same reason; else ""."""
    words = {str(row["p"]) for row in rows if row["p"] != ""}
    alike = words.pop().partition(",")[0] if len(words) == 1 else ""
    return alike if alike.startswith(FEW) else ""


def _shown(one: Beside) -> dict[str, Any]:
    """A published figure and ours, as words."""
    so_far = {} if one.highest is None else {"ours, highest so far": points(one.highest)}
    return {
        "what": one.label,
        "labels": f"{one.labels:,}",
        "measure": one.measure,
        "published": points(one.published),
        "ours": points(one.ours),
        **so_far,
        "95 % interval": span((one.low, one.high)),
        "seeds": one.seeds,
        "difference": points(one.ours - one.published, True),
        "differs": "differs" if one.differs else "",
    }


def _related(block: Block, one: Correlated) -> dict[str, Any]:
    """A published correlation of bias and robustness and ours, as words."""
    return {
        **block.fixed,
        "bias of": one.measure,
        "published, mean r": f"{one.mean:+.2f}",
        "ours, mean r": f"{one.ours_mean:+.2f}",
        "published, extreme r": f"{one.extreme:+.2f}",
        "ours, extreme r": f"{one.ours_extreme:+.2f}",
        "our stages": one.stages,
    }


def _papers(block: Block, results: Results) -> list[str]:
    """The paper's own test, for those who compare with it."""
    measure = block.curve_measure(results.main[0])
    if measure is None:
        return []
    said = []
    for line in block.lines:
        if line.label != block.reference and (found := block.papers_test(line.label, measure)):
            said.append(f"{line.label} over {block.reference}: p = {found[0]:.2g} over {found[1]} stages, {measure}")
    return said


def _runs(results: Results, out: Path) -> list[dict[str, Any]]:
    """Each run with the way to its plan."""
    shown = []
    for cell in results.place.study.cells:
        standing = results.standings[cell.name]
        folder = results.place.folder(cell)
        plan = os.path.relpath(folder / "plan.yaml", out)
        link = Markup(f'<a href="{escape(plan)}">plan</a>') if (folder / "plan.yaml").exists() else ""
        shown.append({"name": cell.name, "status": standing.status, "plan": link, "said": cell.said})
    return shown
