"""The figures of a report, each drawn from a run record alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from robal.report.drawing import GRID, INK, MUTED, SERIES, SURFACE, Drawing, canvas, draw, label, legend_above, style
from robal.report.folder import PHASES, Query, Round, RunRecord, is_auto_attack
from robal.report.rates import Rate

BLUE, ORANGE, GREEN, VIOLET, YELLOW = SERIES[:5]
MARKERS = ("o", "s", "D", "^", "v")
MOST_BINS = 25
PERCENT = FuncFormatter(lambda rate, _: f"{round(100 * rate, 2):g} %")

Read = Callable[[Round], Rate | None]


def _accuracy(row: Round) -> Rate | None:
    return row.accuracy


def _under(attack: str) -> Read:
    return lambda row: row.robust.get(attack)


def _curve(axes: Axes, record: RunRecord, read: Read, colour: str, marker: str, name: str, shift: float = 0.0) -> bool:
    """One line of rates against labels bought, with its 95 % band; False where there is nothing to draw.

    A lone point is moved by `shift`, so that the bars of several runs stand side by side.
    """
    seen = [(row.bought, rate) for row in record.rounds if (rate := read(row)) is not None]
    if not seen:
        return False
    shift = shift if len(seen) == 1 else 0.0
    bought, values = [labels + shift for labels, _ in seen], [rate.value for _, rate in seen]
    size = 15.0 if marker == "*" else 6.5
    axes.plot(bought, values, color=colour, marker=marker, markersize=size, markeredgecolor=SURFACE, label=label(name))
    ends = [(labels, rate.interval) for labels, rate in seen if rate.interval]
    if len(ends) > 1:
        low, high = zip(*(interval for _, interval in ends if interval), strict=True)
        axes.fill_between([labels for labels, _ in ends], low, high, color=colour, alpha=0.14, linewidth=0)
    elif ends and ends[0][1]:
        axes.vlines(ends[0][0] + shift, *ends[0][1], color=colour, linewidth=1.4)
    return True


def _finish(axes: Axes, title: str = "") -> None:
    axes.set_xlabel("labels bought")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.yaxis.set_major_formatter(PERCENT)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.025), min(high, 1.025))
    axes.grid(visible=True, axis="y")
    if title:
        axes.set_title(title, pad=8)


def _marker(attack: str, attacks: Sequence[str]) -> str:
    return "*" if is_auto_attack(attack) else MARKERS[attacks.index(attack) % len(MARKERS)]


def learning_curve(record: RunRecord) -> Drawing:
    """Accuracy and robust accuracy of one run against the labels bought."""
    figure = canvas(4.8, 3.4)
    axes = figure.add_subplot()
    drawn = _curve(axes, record, _accuracy, BLUE, "o", "accuracy")
    others = [colour for colour in SERIES if colour not in (BLUE, VIOLET)]
    for index, attack in enumerate(record.attacks):
        colour = VIOLET if is_auto_attack(attack) else others[index % len(others)]
        marker = _marker(attack, record.attacks)
        drawn |= _curve(axes, record, _under(attack), colour, marker, f"under {attack}")
    if drawn:
        legend_above(axes, 3)
    axes.set_ylim(-0.025, 1.025)
    _finish(axes)
    return draw("learning-curve", f"Learning curve of {record.name}: rates against labels bought.", figure)


def learning_curves(records: Sequence[RunRecord], attacks: Sequence[str]) -> list[Drawing]:
    """Several runs over each other: one figure for accuracy, one for each attack; a colour is a run throughout."""
    measures: list[tuple[str, str, Read, str]] = [("accuracy", "Accuracy", _accuracy, "o")]
    measures += [(f"attack-{i}", f"Under {a}", _under(a), _marker(a, attacks)) for i, a in enumerate(attacks)]
    bought = [row.bought for record in records for row in record.rounds] or [0]
    least, most = min(bought), max(bought)
    drawings = []
    for name, title, read, marker in measures:
        figure = canvas(4.4, 3.4)
        axes = figure.add_subplot()
        for index, record in enumerate(records):
            shift = (index - (len(records) - 1) / 2) * 0.03 * (most - least)
            _curve(axes, record, read, SERIES[index % len(SERIES)], marker, record.name, shift)
        margin = 0.06 * (most - least) or 1.0
        axes.set_xlim(least - margin, most + margin)
        _finish(axes, title)
        handles = [Line2D([], [], color=SERIES[i % len(SERIES)], label=label(r.name)) for i, r in enumerate(records)]
        figure.legend(handles=handles, loc="outside lower left", ncols=1 if _is_long(records) else 2)
        drawings.append(
            draw(f"learning-curves-{name}", f"{title} of {len(records)} runs against labels bought.", figure)
        )
    return drawings


def _is_long(records: Sequence[RunRecord]) -> bool:
    return any(len(record.name) > 18 for record in records)


def _are_turned(names: Sequence[str]) -> bool:
    return sum(map(len, names)) > 22


def _class_ticks(axes: Axes, classes: Sequence[str], count: int) -> None:
    every = max(1, -(-count // 25))
    shown = [label(name, 12) for name in classes[:count:every]]
    turned = _are_turned(shown)
    axes.set_xticks(range(0, count, every), shown, rotation=55 if turned else 0, ha="right" if turned else "center")
    if turned:
        for text in axes.get_xticklabels():
            text.set_rotation_mode("anchor")
    axes.tick_params(axis="x", length=0)


def _histogram(axes: Axes, query: Query, classes: Sequence[str]) -> None:
    axes.bar(range(len(query.classes)), query.classes, width=0.72, color=BLUE)
    axes.set_title("classes, in images")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.grid(visible=True, axis="y")
    _class_ticks(axes, classes, len(query.classes))


def density(edges: Sequence[float], counts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A histogram as a density, in at most 25 bins, so that few images do not look like noise.

    >>> edges, heights = density([0.0, 0.5, 1.0], [1, 3])
    >>> heights.tolist()
    [0.5, 1.5]
    """
    step = -(-len(counts) // MOST_BINS)
    starts = range(0, len(counts), step)
    merged = np.array([sum(counts[at : at + step]) for at in starts], dtype=float)
    kept = np.array([edges[at] for at in starts] + [edges[-1]], dtype=float)
    widths = np.diff(kept)
    area = merged.sum() * np.where(widths > 0, widths, 1.0)
    return kept, np.divide(merged, area, out=np.zeros_like(merged), where=area > 0)


def _entropy(axes: Axes, query: Query) -> None:
    edges, pool = density(query.edges, query.pool)
    axes.stairs(pool, edges, fill=True, color=MUTED, alpha=0.35, label="pool")
    _, chosen = density(query.edges, query.chosen)
    axes.stairs(chosen, edges, color=ORANGE, linewidth=1.8, label="chosen")
    axes.set_title("entropy, as densities")
    axes.set_xlabel("entropy [nats]")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.legend(loc="upper right", handlelength=1.2, borderpad=0)


def query(row: Round, classes: Sequence[str]) -> Drawing | None:
    """What one round asked for: classes, and entropy of the chosen against the pool's; None where not recorded."""
    parts = [part for part in ("classes", "edges") if row.query and getattr(row.query, part)]
    if row.query is None or not parts:
        return None
    figure = canvas(4.5, 2.35 if _are_turned(classes) else 1.95)
    grid = figure.subplots(1, len(parts), squeeze=False, gridspec_kw={"wspace": 0.12})[0]
    for axes, part in zip(grid, parts, strict=True):
        if part == "classes":
            _histogram(axes, row.query, classes)
        else:
            _entropy(axes, row.query)
    about = f"Round {row.number}: classes of the images asked for, and their entropy against the pool's."
    return draw(f"query-{row.number:03d}", about, figure)


def per_class(record: RunRecord) -> Drawing | None:
    """Clean and robust accuracy of each class in the last round; None where not recorded."""
    row = record.last
    if row is None or not row.per_class:
        return None
    attacks = sorted((name for name in row.per_class if name != "clean"), key=lambda n: (is_auto_attack(n), n))
    count = max(map(len, row.per_class.values()))
    figure = canvas(4.6, 0.75 + count * max(0.2, 0.32 - 0.002 * count))
    axes = figure.add_subplot()
    others = [colour for colour in SERIES if colour not in (BLUE, VIOLET)]
    clean = row.per_class.get("clean", ())
    axes.barh(range(len(clean)), [v or 0.0 for v in clean], height=0.78, color=BLUE, alpha=0.28, label="clean")
    height = 0.5 / max(1, len(attacks))
    for index, attack in enumerate(attacks):
        values = row.per_class[attack]
        at = [position - 0.25 + (index + 0.5) * height for position in range(len(values))]
        colour = VIOLET if is_auto_attack(attack) else others[index % len(others)]
        axes.barh(at, [v or 0.0 for v in values], height=height, color=colour, label=f"under {label(attack)}")
    before = record.rounds[0].per_class if row.changes else {}
    for index, name in enumerate(name for name in ("clean", row.attack) if name in before):
        shares = [(value, position) for position, value in enumerate(before[str(name)]) if value is not None]
        told = "before retraining" if index == 0 else None
        axes.plot(*zip(*shares, strict=True), "|", color=INK, markersize=9, markeredgewidth=1.2, label=told)
    for position, value in enumerate(clean):
        if value is None:
            axes.text(0.005, position, "no test image", color=MUTED, va="center", fontsize=8)
    axes.set_yticks(range(count), [label(name, 16) for name in record.classes[:count]])
    axes.set_ylim(count - 0.45, -0.55)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(visible=True, axis="x")
    legend_above(axes, 3)
    return draw("per-class", "Clean and robust accuracy of each class in the last round.", figure)


def _unit(most: float) -> tuple[float, str]:
    return (1.0, "seconds") if most < 180 else (60.0, "minutes") if most < 3 * 3600 else (3600.0, "hours")


def times(record: RunRecord) -> Drawing | None:
    """Where the time of each round went; None where it was not recorded."""
    totals = [sum(row.times.values()) for row in record.rounds]
    if not any(totals):
        return None
    unit, name = _unit(max(totals))
    count = len(record.rounds)
    figure = canvas(4.6, 0.95 + 0.27 * count)
    axes = figure.add_subplot()
    left = np.zeros(count)
    for phase, colour in zip(PHASES, (ORANGE, YELLOW, BLUE, GREEN), strict=True):
        spent = np.array([row.times[phase] for row in record.rounds]) / unit
        axes.barh(
            range(count), spent, left=left, height=0.7, color=colour, label=phase, edgecolor=SURFACE, linewidth=0.8
        )
        left += spent
    axes.set_yticks(range(count), [f"round {row.number}" for row in record.rounds])
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlabel(name)
    axes.grid(visible=True, axis="x")
    legend_above(axes, 4)
    return draw("time", f"Time of each round by phase, in {name}.", figure)


LABEL_PARTS = (
    ("training", "training", BLUE),
    ("validation", "validation", GREEN),
    ("meta", "meta", VIOLET),
    ("repeated", "repeated answers", YELLOW),
)


def _beside(axes: Axes, right: int, row: int, count: int | None = None) -> None:
    """Write a number at the end of its bar."""
    text = f"{right if count is None else count:,}"
    axes.annotate(text, (right, row), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)


def labels(record: RunRecord) -> Drawing | None:
    """What the labels bought were used for; beside them skips, labels that were free, and those of the audit."""
    row = record.last
    if row is None:
        return None
    figure = canvas(4.6, 1.55)
    axes = figure.add_subplot()
    left = 0
    for key, name, colour in LABEL_PARTS:
        count = row.labels.get(key, 0)
        if count:
            axes.barh(0, count, left=left, height=0.7, color=colour, label=name, edgecolor=SURFACE, linewidth=0.8)
            left += count
    names = ["bought"]
    for key, name in (("free_validation", "free, validation"), ("audit", "audit (test)"), ("skipped", "skipped")):
        count = row.labels.get(key, 0)
        if count:
            axes.barh(len(names), count, height=0.7, color=GRID, edgecolor=MUTED, linewidth=0.8)
            _beside(axes, count, len(names))
            names.append(name)
    _beside(axes, left, 0, row.bought)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if left:
        legend_above(axes, 4)
    return draw("labels", "Labels bought by use, and those that were free, of the audit, or skipped.", figure)


def discovery(record: RunRecord) -> Drawing | None:
    """How many classes have been met, against answers; None where the first round met them all."""
    found = record.discovered
    if not found or len({count for _, count in found}) < 2:
        return None
    figure = canvas(4.6, 2.2)
    axes = figure.add_subplot()
    labels, classes = zip(*found, strict=True)
    axes.step(labels, classes, where="post", color=BLUE)
    axes.plot(labels, classes, "o", color=BLUE, markersize=5, markeredgecolor=SURFACE)
    axes.set_xlabel("answers")
    axes.set_ylabel("classes met")
    axes.set_ylim(0, max(classes) + 0.9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.grid(visible=True, axis="y")
    return draw("discovery", f"Classes met against answers: {classes[-1]} in the end.", figure)


def of_run(record: RunRecord) -> dict[str, Drawing]:
    """Every figure of one run that its files allow, by name."""
    with style():
        made = [learning_curve(record), *(query(row, record.classes) for row in record.rounds)] if record.rounds else []
        made += [per_class(record), times(record), labels(record), discovery(record)]
    return {drawing.name: drawing for drawing in made if drawing is not None}


def of_runs(records: Sequence[RunRecord], attacks: Sequence[str]) -> list[Drawing]:
    """The figures that lay several runs over each other."""
    with style():
        return learning_curves(records, attacks)
