"""An evaluation in words and numbers: the table that `robal evaluate` prints, and its page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from robal.errors import RunFolderError
from robal.report.drawing import GRID, INK, MUTED, SERIES, Drawing, canvas, draw, legend_above, style
from robal.report.figures import PERCENT
from robal.report.page import filled, store
from robal.report.rates import Rate


def evaluation_table(outcome: Mapping[str, Any]) -> Group:
    """What `evaluation.json` holds, for a terminal: rates with intervals, the worst class, and what is doubtful."""
    about = outcome["about"]
    table = Table("", "accuracy", "95 % interval", "seconds", title=f"{about['threat']}, {about['images']:,} images")
    for name, *cells in rows_of(outcome):
        table.add_row(escape(name), *cells)
    return Group(table, *(escape(sentence) for sentence in remarks(outcome)))


def remarks(outcome: Mapping[str, Any]) -> list[str]:
    """What a reader must know before quoting a figure."""
    about, robust = outcome["about"], outcome["per_class"]["robust"]
    worst = about["classes"][robust["worst_class"]]
    said = [
        f"Worst class: {worst}, {1 - robust['worst']:.1%} robust (average over classes {1 - robust['average']:.1%})."
    ]
    if not about.get("test_split", True):
        said.append(
            f"{about['data']} has no test split, so all its labelled images were drawn from: figures on images "
            "that the model was trained on say nothing."
        )
    if "AutoAttack" not in outcome["attacks"]:
        said.append("AutoAttack standard was not run: these figures support no claim.")
    elif about["images"] < 1000:
        said.append(f"{about['images']} images are few: a claim needs at least 1,000.")
    if outcome["certified"]["note"]:
        said.append(f"Not certified: {outcome['certified']['note']}")
    if not outcome["sandwich"]["holds"]:
        said.append(f"Contradiction: {outcome['sandwich']['text']}")
    calibration = outcome["reliability"]
    said.append(
        f"Calibration error: {calibration['clean']['calibration_error']:.3f} clean, "
        f"{calibration['adversarial']['calibration_error']:.3f} attacked (by all attacks; what stands, by PGD-20)."
    )
    fell = outcome["adversarial_by"]["stood_and_fell"]
    if fell:
        advice = "" if "AutoAttack" in outcome["attacks"] else " Add AutoAttack."
        counted = "the worst case counts them"
        said.append(f"Too weak: {fell} of the images that stand under these attacks fell to PGD-20; {counted}.{advice}")
    said += _told_apart(outcome)
    if "corruptions" in outcome:
        said.append(f"Under common corruptions, on average: {outcome['corruptions']['mean']:.1%} accurate.")
        flagged = [finding for finding in outcome["checks"] if not finding["passed"]]
        said += [f"FLAGGED {one['name']}: {one['meaning']} {one['advice']}" for one in flagged]
        if not outcome["checks"]:
            said.append("Masked gradients were not looked for: the checks are for Linf and L2, with a radius above 0.")
        elif not flagged:
            said.append(f"None of {len(outcome['checks'])} checks found signs of masked gradients.")
    return said


def _told_apart(outcome: Mapping[str, Any]) -> list[str]:
    """How well low confidence tells images of something else; nothing where none were given."""
    if "outside" not in outcome:
        return []
    told = outcome["outside"]
    rates = ", ".join(
        f"{told[name]['confidence']:.3f} by confidence and {told[name]['entropy']:.3f} by entropy {words}"
        for name, words in (("clean", "from the test images"), ("adversarial", "from them as attacked"))
    )
    name = outcome["about"].get("outside") or "something else"
    return [f"AUROC of telling {told['images']:,} images of {name}: {rates} (0.5 is chance)."]


def evaluation_page(folder: Path) -> Path:
    """Write `index.html` beside an `evaluation.json`, from that file and the picture of broken images alone.

    Raises:
        RunFolderError: if there is no evaluation in the folder, or it is damaged.
    """
    try:
        outcome = json.loads((folder / "evaluation.json").read_text("utf-8"))
        drawings = (confusion_figure(outcome), class_figure(outcome), curve_figure(outcome))
        page = filled(
            "evaluation.html",
            title=outcome["about"].get("model", "an evaluation"),
            headline=headline(outcome),
            remarks=remarks(outcome),
            rows=rows_of(outcome),
            figures={drawing.name: Markup(drawing.inline()) for drawing in drawings},
            broken=_picture(folder / "broken.png"),
            checks=outcome.get("checks", []),
            corruptions=outcome.get("corruptions", {}).get("accuracy", {}),
            stages={name: one["stages"] for name, one in outcome["attacks"].items() if one["stages"]},
            sandwich=outcome["sandwich"]["text"],
            adversarial_by=outcome["adversarial_by"]["text"],
            curve_by=outcome["curve"]["text"],
            facts=[(name, str(value)) for name, value in _facts(outcome["about"])],
            command=outcome["about"].get("command", ""),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder} holds no whole evaluation ({error}); `robal evaluate` makes one") from error
    for drawing in drawings:
        store(folder / f"{drawing.name}.png", drawing.png)
    store(folder / "index.html", page.encode())
    return folder / "index.html"


def headline(outcome: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    about, name = outcome["about"], outcome["strongest"]
    clean, robust = Rate(outcome["clean"], about["images"]), Rate(outcome["worst_case"], about["images"])
    under = name if len(outcome["attacks"]) == 1 else "all attacks together"
    return f"{clean} accurate, {robust} under {under} ({about['images']:,} images, {about['threat']})."


def rows_of(outcome: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, accuracy, interval and seconds of each line of the table; other threats last, under a line of their own."""
    count, rows = outcome["about"]["images"], [("clean", outcome["clean"], None)]
    rows += [(name, one["accuracy"], one["seconds"]) for name, one in outcome["attacks"].items()]
    rows += [("worst case", outcome["worst_case"], None), ("certified", outcome["certified"]["accuracy"], None)]
    further = [(name, one["accuracy"], one["seconds"]) for name, one in outcome["beyond"].items()]
    rows += [("beyond the threat:", None, None), *further] if further else []
    shown = []
    for name, value, seconds in rows:
        rate = None if value is None else Rate(value, count)
        took = "" if seconds is None else f"{seconds:.0f}"
        blank = "" if name.endswith(":") else "–"
        shown.append((name, blank if rate is None else str(rate), "" if rate is None else rate.range, took))
    return shown


def confusion_figure(outcome: Mapping[str, Any]) -> Drawing:
    """Two matrices, clean and as attacked: shares of each true class."""
    names, parts = outcome["about"]["classes"], outcome["confusion"]
    with style():
        figure = canvas(8.2, 4.1)
        for axes, (title, part) in zip(figure.subplots(1, 2), parts.items(), strict=True):
            counts = np.array(part, dtype=float)
            shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            few = len(names) <= 12
            for row, column in np.argwhere(counts > 0) if few else ():
                colour = "white" if shares[row, column] > 0.6 else INK
                text = f"{int(counts[row, column])}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
            places = range(len(names)) if few else []
            short = [str(name)[:8] for name in names] if few else []
            axes.set_xticks(places, short, rotation=90 if len("".join(short)) > 36 else 0)
            axes.set_yticks(places, short)
            axes.set(title=title, xlabel="predicted", ylabel="true")
        return draw("confusion", "Confusion matrices, clean and under all attacks together.", figure)


def class_figure(outcome: Mapping[str, Any]) -> Drawing:
    """Each class: accuracy on clean images, and inside it what is left under all attacks together."""
    names, parts = outcome["about"]["classes"], outcome["per_class"]
    with style():
        figure = canvas(8.2, max(2.0, 0.28 * len(names) + 0.8))
        axes, places = figure.subplots(), np.arange(len(names))
        for key, colour, words in (("natural", GRID, "clean"), ("robust", SERIES[0], "under attack")):
            rates = [0.0 if rate is None else 1 - rate for rate in parts[key]["rates"]]
            axes.barh(places, rates, 0.72, color=colour, label=words)
        axes.set_yticks(places, [str(name)[:16] for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PERCENT)
        legend_above(axes, 2)
        return draw("classes", "Accuracy of each class, clean and under attack.", figure)


def curve_figure(outcome: Mapping[str, Any]) -> Drawing:
    """Accuracy against ε, an upper bound, and the attacks' figures at the threat's ε."""
    curve = outcome["curve"]
    with style():
        figure = canvas(8.2, 3.2)
        axes = figure.subplots()
        axes.plot(curve["eps"], curve["accuracy"], color=MUTED, label=f"{curve['by']}, an upper bound")
        radius = float(outcome["about"]["eps"])
        for number, (name, one) in enumerate(outcome["attacks"].items()):
            axes.plot([radius], [one["accuracy"]], "o", color=SERIES[number % len(SERIES)], label=name)
        axes.set(xlabel=f"ε, {outcome['about']['threat'].split(',')[0]}", ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(visible=True, axis="y")
        legend_above(axes, 4)
        return draw("curve", "Accuracy against the size of the perturbation.", figure)


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii") if path.exists() else ""


def _facts(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    names = ("model", "weights", "data", "images", "outside", "seed")
    plain = [(name, about[name]) for name in names if about.get(name)]
    return [
        *plain,
        *about.get("versions", {}).items(),
        ("cpu", about.get("cpu", "")),
        ("threads", about.get("threads")),
    ]
