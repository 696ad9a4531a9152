"""The figures of a study: curves with bands, differences by seed, rates by class, and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from robal.report.drawing import GRID, INK, MUTED, SERIES, Drawing, canvas, draw, label, style
from robal.report.figures import PERCENT
from robal.studies.measures import in_words
from robal.studies.results import Bias, Block, Difference

Floats = NDArray[np.float64]
DASHES = ("-", "--", ":", "-.")


def look(place: int) -> dict[str, Any]:
    """Colour and dashes of the line at a place."""
    return {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place // len(SERIES) % len(DASHES)]}


def curves(
    block: Block, measure: str, name: str, published: Mapping[str, Sequence[tuple[int, float]]] | None = None
) -> Drawing | None:
    """Means over seeds against labels bought; bands reach from the lowest to the highest seed. None without a curve.

    `published`: by label, labels bought and rates, drawn as crosses as far as the curves go.
    """
    with style():
        figure = canvas(5.6, 3.8)
        axes = figure.add_subplot()
        handles, crossed = [], False
        for place, line in enumerate(block.lines):
            labels, mean, low, high = line.curve(measure)
            if len(labels) < 2:
                continue
            axes.plot(labels, mean, linewidth=1.8, **look(place))
            axes.fill_between(labels, low, high, color=look(place)["color"], alpha=0.12, linewidth=0)
            handles.append(Line2D([], [], label=f"{label(line.label)} ({line.finished})", **look(place)))
            theirs = [(at, rate) for at, rate in (published or {}).get(line.label, ()) if at <= labels[-1]]
            for at, rate in theirs:
                axes.plot(at, rate, "X", color=look(place)["color"], markeredgecolor=INK, markersize=8)
            crossed = crossed or bool(theirs)
        if not handles:
            return None
        if crossed:
            handles.append(
                Line2D([], [], marker="X", color=MUTED, markeredgecolor=INK, linestyle="", label="published")
            )
        axes.set_xlabel("labels bought")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(visible=True, axis="y")
        axes.set_title(in_words(measure), pad=8)
        figure.legend(handles=handles, loc="outside lower left", ncols=3)
        return draw(name, f"{measure} against labels bought, means over seeds.", figure)


def differences(block: Block, found: dict[str, Difference], measure: str, name: str) -> Drawing | None:
    """Each line less the reference, a dot a seed, and the mean; None where nothing is paired."""
    if not found:
        return None
    with style():
        figure = canvas(5.6, 0.9 + 0.3 * len(found))
        axes = figure.add_subplot()
        places = {line.label: place for place, line in enumerate(block.lines)}
        for row, (name_of_line, difference) in enumerate(found.items()):
            pairs, colour = difference.pairs, look(places[name_of_line])["color"]
            axes.plot(pairs.differences, [row] * len(pairs.seeds), "o", color=colour, alpha=0.45, markersize=5)
            axes.plot([pairs.mean], [row], "D", color=colour, markersize=7)
            if pairs.interval:
                axes.hlines(row, *pairs.interval, color=colour, linewidth=1.6)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(found)), [label(one, 24) for one in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:+.3g}"))
        axes.set_xlabel(f"{in_words(measure)}, points more than {block.reference}")
        axes.grid(visible=True, axis="x")
        return draw(name, f"Difference to {block.reference} by seed.", figure)


def bias(found: Bias, labels: Sequence[str], name: str) -> Drawing:
    """Mean bias of each line by measure: the darker, the less like the pool."""
    measures = list(found.mean)
    values = np.array([[found.mean[measure].get(one, np.nan) for measure in measures] for one in labels])
    with style():
        figure = canvas(5.6, 1.1 + 0.32 * len(labels))
        _heat_map(figure.add_subplot(), values, labels, measures, "{:.2f}")
        return draw(name, "Bias of each choice by measure, in bits over a random choice.", figure)


def classes(block: Block, measures: Sequence[str], name: str) -> Drawing | None:
    """Rates of each class by what is compared, means over seeds, a panel a measure; None where no class was told."""
    rows = {measure: [line.by_class(measure) for line in block.lines] for measure in measures}
    rows = {measure: found for measure, found in rows.items() if any(found)}
    if not rows:
        return None
    labels = [line.label for line in block.lines]
    with style():
        figure = canvas(5.6, len(rows) * (1.1 + 0.32 * len(labels)))
        panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
        for axes, (measure, found) in zip(panels, rows.items(), strict=True):
            names = list(dict.fromkeys(one for rates in found for one in rates))
            values = 100 * np.array([[rates.get(one, np.nan) for one in names] for rates in found])
            _heat_map(axes, values, labels, [label(one, 12) for one in names], "{:.0f}")
            axes.tick_params(axis="x", labelrotation=35)
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("left")
            axes.set_title(f"{in_words(measure)}, %", pad=8)
        return draw(name, "Rates of each class, means over seeds.", figure)


def _heat_map(axes: Axes, values: Floats, rows: Sequence[str], columns: Sequence[str], said: str) -> None:
    most = max(float(np.nanmax(values)) if np.isfinite(values).any() else 1.0, 0.05)
    axes.imshow(np.maximum(values, 0), cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        if np.isfinite(values[row, column]):
            shade = "white" if values[row, column] > 0.6 * most else INK
            told = said.format(values[row, column])
            axes.text(column, row, told, ha="center", va="center", color=shade, fontsize=8.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [label(one, 24) for one in rows])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def correlations(found: Bias, name: str) -> Drawing | None:
    """Pearson's r of bias and robustness over acquisition functions, round by round, with bands of 95 %."""
    with style():
        figure = canvas(5.6, 3.0)
        axes = figure.add_subplot()
        drawn = False
        for place, (measure, points) in enumerate(found.correlations.items()):
            at = [(number, point.r) for number, point in zip(found.rounds, points, strict=True) if point.r is not None]
            if not at:
                continue
            drawn = True
            axes.plot(*zip(*at, strict=True), marker="o", markersize=4, label=measure, **look(place))
            banded = [(n, p.interval) for n, p in zip(found.rounds, points, strict=True) if p.interval]
            if measure == "entropy" and len(banded) > 1:
                low, high = zip(*(interval for _, interval in banded), strict=True)
                axes.fill_between(
                    [n for n, _ in banded], low, high, color=look(place)["color"], alpha=0.12, linewidth=0
                )
        if not drawn:
            return None
        axes.axhline(0, color=GRID)
        axes.set_ylim(-1.05, 1.05)
        axes.set_xlabel("round")
        axes.set_ylabel("r")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.legend(loc="upper right", ncols=3)
        return draw(name, "Correlation of bias and robustness over acquisition functions, by round.", figure)
