"""Tables: for the terminal, and as CSV with one row per run and round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from robal.files import csv_text
from robal.report.folder import PHASES, Round, RunRecord, is_auto_attack, read_all
from robal.report.rates import Rate
from robal.report.words import audit, duration, free_labels

LABELS = ("training", "validation", "meta", "repeated", "skipped", "free_validation", "audit")


def attacks_of(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Every attack that any run measured, AutoAttack last."""
    return tuple(sorted({name for record in records for name in record.attacks}, key=lambda n: (is_auto_attack(n), n)))


def _cell(rate: Rate | None, between: str = " ") -> Text:
    if rate is None:
        return Text("–", style="dim")
    if rate.interval is None:
        return Text(f"{100 * rate.value:.1f}")
    low, high = rate.interval
    return Text.assemble(f"{100 * rate.value:.1f}", (f"{between}({100 * low:.0f}–{100 * high:.0f})", "dim"))


def table(folders: Sequence[Path]) -> Table:
    """One line per run and round, with 95 % intervals, for the terminal.

    Args:
        folders: run folders, finished or not.

    Raises:
        RunFolderError: one of them is not a run folder.
    """
    records = read_all(folders)
    attacks = attacks_of(records)
    said = ["rates in percent, with their 95 % Wilson intervals"]
    said += [f"{record.name}: {record.status}" for record in records if not record.is_finished]
    said += [f"{record.name}: {free}" for record in records if (free := free_labels(record))]
    said += [
        f"{record.name}: there is no test set, rates are of {record.last.of_what}"
        for record in records
        if record.last and record.last.measured_on != "test"
    ]
    said += [
        f"{record.name}: {audit(record.last.audit)}"
        for record in records
        if record.last and record.last.audit and record.last.measured_on == "test"
    ]
    shown = Table(caption=Text("\n".join(said)), caption_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    several = len(records) > 1
    if several:
        shown.add_column("run", overflow="fold")
    many = len(attacks) > 2  # then names and intervals take a second line, to fit a terminal
    for head in ("round", "labels", "accuracy", *attacks, "time"):
        shown.add_column(Text(head), justify="right", no_wrap=not many and not several, overflow="fold")
    for record in records:
        for row in record.rounds:
            every = (row.accuracy, *(row.robust.get(attack) for attack in attacks))
            rates = [_cell(rate, "\n" if many else " ") for rate in every]
            name = [Text(record.name)] if several else []
            shown.add_row(*name, str(row.number), f"{row.bought:,}", *rates, duration(row.seconds))
        shown.add_section()
    return shown


def _figures(name: str, rate: Rate | None) -> dict[str, object]:
    low, high = (rate.interval if rate else None) or ("", "")
    value, images = (rate.value, rate.images) if rate else ("", "")
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_images": "" if images is None else images}


def _row(record: RunRecord, row: Round, attacks: Sequence[str]) -> dict[str, object]:
    cells: dict[str, object] = {"run": record.name, "round": row.number, "labels_bought": row.bought}
    cells |= {f"labels_{key}": row.labels.get(key, 0) for key in LABELS}
    cells |= {"measured_on": row.measured_on} | _figures("accuracy", row.accuracy)
    for attack in attacks:
        cells |= _figures(attack, row.robust.get(attack))
    if row.audit:
        cells |= _figures("audit_accuracy", row.audit.accuracy)
        for attack in attacks:
            cells |= _figures(f"audit_{attack}", row.audit.robust.get(attack))
    cells |= {"validation_accuracy": row.validation.value if row.validation else "", "seconds": row.seconds}
    cells |= {f"seconds_{phase}": row.times[phase] for phase in PHASES}
    evaluations, epoch = row.gradient_evaluations, row.epoch_kept
    cells |= {f"kept_{kind}": row.kept.get(kind, 0) for kind in ("twin", "pseudo")}
    if row.taught:
        cells |= {"pool_pseudo": row.taught.pseudo, "pool_collapsed": int(row.taught.collapsed)}
    return cells | {
        "gradient_evaluations": "" if evaluations is None else evaluations,
        "epoch_kept": "" if epoch is None else epoch,
    }


def columns(attacks: Sequence[str], audited: bool = False) -> list[str]:
    """The columns of table.csv, in order; rates of an audit set where a run has one."""
    names = [f"{of}{name}" for of in ("", *(["audit_"] if audited else [])) for name in ("accuracy", *attacks)]
    rates = [f"{name}{end}" for name in names for end in ("", "_low", "_high", "_images")]
    head = ["run", "round", "labels_bought", *(f"labels_{key}" for key in LABELS), "measured_on"]
    times = ["seconds", *(f"seconds_{phase}" for phase in PHASES)]
    return [
        *head,
        *rates,
        "validation_accuracy",
        *times,
        "kept_twin",
        "kept_pseudo",
        "pool_pseudo",
        "pool_collapsed",
        "gradient_evaluations",
        "epoch_kept",
    ]


def as_csv(records: Sequence[RunRecord]) -> str:
    """One row per run and round; rates in [0, 1]; a cell is empty where nothing was measured."""
    attacks = attacks_of(records)
    names = columns(attacks, any(row.audit for record in records for row in record.rounds))
    rows = (_row(record, row, attacks) for record in records for row in record.rounds)
    return csv_text(names, ([row.get(name, "") for name in names] for row in rows))
