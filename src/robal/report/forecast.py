"""What further labels would bring a run, and cost: its learning curves carried on, in numbers and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE
from rich.table import Table

from robal.errors import InputError, RunFolderError
from robal.learning_curves import FEWEST, Curve, Expected, fitted
from robal.report.drawing import SERIES, SURFACE, canvas, draw, label, legend_above, style
from robal.report.figures import PERCENT
from robal.report.folder import Round, RunRecord, mapping, read, whole
from robal.report.page import store
from robal.report.words import duration, threat

_RECENT = 3  # rounds by which the cost of the next ones is told


@dataclass(frozen=True, eq=False)
class Series:
    """A rate over the rounds, and the curve fitted to it.

    Args:
        name: "accuracy", or an attack's.
        labels, rates: the measured points.
        curve: of them.
    """

    name: str
    labels: tuple[int, ...]
    rates: tuple[float, ...]
    curve: Curve

    @property
    def of(self) -> str:
        """As it stands in a sentence.

        >>> Series("PGD-50", (), (), None).of
        'under PGD-50'
        """
        return self.name if self.name == "accuracy" else f"under {self.name}"


@dataclass(frozen=True)
class Outlook:
    """What some more labels would bring and cost.

    Args:
        more: how many.
        rates: by measure, what to expect.
        compute, labelling: seconds, as the last rounds took them; labelling is 0 where nobody waited for labels.
        price: of the labels, or None where nobody says what one costs.
    """

    more: int
    rates: dict[str, Expected]
    compute: float
    labelling: float
    price: float | None

    @property
    def cost(self) -> str:
        """In words."""
        said = [f"{self.more:,} labels" + ("" if self.price is None else f" for {self.price:,.2f}")]
        said += [f"{duration(self.labelling)} of labelling"] if self.labelling >= 1 else []
        return ", ".join([*said, f"{duration(self.compute)} of computing"])


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run: what it is of, and an outlook for each number of further labels."""

    record: RunRecord
    series: tuple[Series, ...]
    outlooks: tuple[Outlook, ...]
    probability: float
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs: rates and probabilities in [0, 1], seconds."""
        last = self.record.last
        rows = [asdict(one) | {"gains": {k: v.gain for k, v in one.rates.items()}} for one in self.outlooks]
        return {"run": str(self.record.folder), "labels": last.bought if last else 0, "outlooks": rows}


def forecast(folder: Path, more: Sequence[int] = (), probability: float = 0.9, price: float | None = None) -> Forecast:
    """Carry on the learning curves of a run, finished or not.

    Args:
        folder: the run folder.
        more: how many further labels, each at least 1; else the next round's, and as many again as were bought.
        probability: that what a run would measure lies in the band, in (0, 1).
        price: of one label, in any currency.

    Raises:
        RunFolderError: for a folder that holds no run.
        InputError: for fewer than three measured rounds, or numbers that cannot be.
    """
    if not 0 < probability < 1 or any(count < 1 for count in more) or (price is not None and price < 0):
        raise InputError("a forecast needs labels >= 1, a probability in (0, 1) and a price >= 0")
    record = read(folder, strips=False)
    rows = comparable(record)
    if len(rows) < FEWEST:
        left_out = (
            "; round 0 is trained otherwise than the later ones and does not count" if _starts_apart(record) else ""
        )
        raise InputError(
            f"{folder} has {len(rows)} measured rounds to fit a learning curve to, and {FEWEST} are needed{left_out}"
        )
    last = rows[-1]
    found = [_series("accuracy", [(row.bought, row.accuracy.value) for row in rows if row.accuracy])]
    found += [
        _series(name, [(row.bought, row.robust[name].value) for row in rows if name in row.robust])
        for name in record.attacks
    ]
    series = tuple(one for one in found if one is not None)
    measured = {one.name for one in series}
    notes = [f"{name} was measured in too few rounds for a curve." for name in record.attacks if name not in measured]
    per_round = whole(record.plan.get("per_round")) or max(last.bought - rows[-2].bought, 1)
    counts = tuple(more) or tuple(dict.fromkeys((per_round, last.bought)))
    recent = rows[-_RECENT:]
    each = {phase: sum(row.times[phase] for row in recent) / len(recent) for phase in last.times}
    if mapping(record.plan.get("oracle")).get("name") == "Hidden":
        each["label"] = 0.0  # a simulation
    pool = whole(mapping(record.environment.get("data")).get("pool"))
    apart = last.labels.get("known", 0) + (last.audit.asked + last.audit.alike if last.audit else 0)
    if pool is not None and last.bought - last.labels.get("repeated", 0) + max(counts) > pool - apart:
        notes.append(f"The pool has {pool - apart:,} images to ask about in all, fewer than these labels need.")
    outlooks = []
    for count in counts:
        rounds = -(-count // per_round)
        rates = {one.name: one.curve.at(last.bought + count, probability) for one in series}
        labelling = each.get("label", 0.0) * rounds
        compute = sum(seconds for phase, seconds in each.items() if phase != "label") * rounds
        outlooks.append(Outlook(count, rates, compute, labelling, None if price is None else price * count))
    return Forecast(record, series, tuple(outlooks), probability, tuple(notes))


def _starts_apart(record: RunRecord) -> bool:
    """Whether round 0 is trained for another aim than the later ones, so that it lies on no curve with them."""
    first, later = mapping(mapping(record.plan.get("start")).get("recipe")), mapping(record.plan.get("recipe"))
    return mapping(first.get("objective")).get("name") != mapping(later.get("objective")).get("name")


def comparable(record: RunRecord) -> list[Round]:
    """The rounds of one curve: each with more labels than the one before."""
    rows = [row for row in record.rounds if row.accuracy and not (row.number == 0 and _starts_apart(record))]
    rising: list[Round] = []
    for row in rows:
        if row.bought > (rising[-1].bought if rising else 0):
            rising.append(row)
    return rising


def _series(name: str, points: Sequence[tuple[int, float]]) -> Series | None:
    if len(points) < FEWEST:
        return None
    labels, rates = zip(*points, strict=True)
    return Series(name, labels, rates, fitted(labels, rates))


def sentences(found: Forecast) -> list[str]:
    """The forecast in words: a sentence for each number of further labels, and what it is of."""
    said = []
    for one in found.outlooks:
        gains = []
        for series in found.series:
            expected, of = one.rates[series.name], "of accuracy" if series.name == "accuracy" else series.of
            gains.append(
                f"{100 * expected.gain:+.1f} ± {100 * expected.sure:.1f} points {of} "
                f"(to {100 * expected.low:.1f}–{100 * expected.high:.1f} %)"
            )
        said.append(f"The next {one.more:,} labels: {', '.join(gains)}. Cost: {one.cost}.")
    last = found.record.last
    assert last is not None
    under = threat(found.record.plan)
    said.append(
        f"Fitted to {len(found.series[0].labels)} rounds, up to {last.bought:,} labels, on {last.of_what}"
        f"{f', {under}' if under else ''}. ± is of the curve; the ranges hold what a run would measure with "
        f"{100 * found.probability:.0f} % probability, if it goes on as it did."
    )
    return [*said, *found.notes]


def as_table(found: Forecast) -> Table:
    """For the terminal: a line a measure and number of further labels."""
    shown = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for head in ("more labels", "rate", "measured", "curve", "gain", "then", f"{100 * found.probability:.0f} % band"):
        shown.add_column(head, justify="right" if head != "rate" else "left")
    for one in found.outlooks:
        for series in found.series:
            expected = one.rates[series.name]
            shown.add_row(
                f"{one.more:,}",
                series.of,
                f"{100 * series.rates[-1]:.1f} %",
                f"{100 * (expected.rate - expected.gain):.1f} %",
                f"{100 * expected.gain:+.1f} ± {100 * expected.sure:.1f}",
                f"{100 * expected.rate:.1f} %",
                f"{100 * expected.low:.1f}–{100 * expected.high:.1f}",
            )
        shown.add_section()
    return shown


def picture(found: Forecast, out: Path) -> Path:
    """Draw the measured rates and their curves, carried on as far as the outlooks go, as a PNG at `out`."""
    furthest = max(series.labels[-1] for series in found.series) + max(one.more for one in found.outlooks)
    with style():
        figure = canvas(5.2, 3.6)
        axes = figure.add_subplot()
        for series, colour in zip(found.series, SERIES, strict=False):
            axes.plot(series.labels, series.rates, "o", color=colour, markeredgecolor=SURFACE, label=label(series.of))
            ahead = np.unique(np.linspace(series.labels[-1], furthest, 40).round().astype(int))
            curve = [series.curve.at(int(labels), found.probability) for labels in ahead]
            axes.plot(ahead, [one.rate for one in curve], color=colour, linestyle="--", linewidth=1.4)
            axes.fill_between(
                ahead, [one.low for one in curve], [one.high for one in curve], color=colour, alpha=0.14, linewidth=0
            )
        axes.axvline(found.series[0].labels[-1], color="#8a8f98", linewidth=0.8)
        axes.set_xlabel("labels bought")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_ylim(-0.025, 1.025)
        axes.grid(visible=True, axis="y")
        legend_above(axes, 3)
        drawing = draw("forecast", "Rates against labels bought, carried on with their bands.", figure)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"the picture cannot be written to {out}: {error}") from error
    store(out, drawing.png)
    return out
