"""The card of a model: what it is, what it was trained on, what its figures are worth, and what nobody has tried.

Made of a run folder alone, for whoever gets the model and not the folder.

Source: of the idea, Mitchell et al., FAT* 2019, arXiv 1810.03993.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from robal.errors import InputError
from robal.report.folder import Round, RunRecord, is_auto_attack, mapping, sequence
from robal.report.rates import Rate
from robal.report.words import cautions, component, free_labels, headline, plan_in_words, threat

PARTS = ("model", "input", "classes", "data", "labels", "training", "threat", "figures", "untested", "cautions", "run")


def card(record: RunRecord, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The card of a run's last model, ready for JSON: every part of `PARTS`, none of them empty but perhaps cautions.

    Args:
        record: the run.
        given: parts that a folder does not tell, such as "input", and figures beyond the run's; they come on top.

    Raises:
        InputError: for a run without a measured round.
    """
    row, plan, data = record.last, record.plan, mapping(record.environment.get("data"))
    if row is None:
        raise InputError(f"{record.folder} has no finished round, hence no model that a card could be of")
    shape = [int(side) for side in sequence(data.get("shape"))]
    found: dict[str, Any] = {
        "model": f"{component(plan.get('network')) or 'a network'}, round {row.number} of {record.name}",
        "input": {"shape": ["N", *shape], "unit": "intensities in [0, 1]"},
        "classes": list(record.classes),
        "data": {"name": data.get("name") or "unknown", "about": str(data.get("about") or "not recorded")}
        | {key: data[key] for key in ("fingerprint", "pool", "validation", "test") if key in data},
        "labels": {"bought": row.bought} | dict(row.labels),
        "training": plan_in_words(record) or "not recorded",
        "threat": threat(plan) or "not recorded",
        "figures": figures(row),
        "untested": untested(record),
        "cautions": cautions(record) + [said for said in (free_labels(record),) if said],
        "run": {
            "status": record.status,
            "headline": headline(record),
            "plan": record.environment.get("plan", "not recorded"),
            "versions": mapping(record.environment.get("versions")),
            "command": str(record.environment.get("command") or "not recorded"),
        },
    }
    more = dict(given or {})
    found["figures"] = [*found["figures"], *more.pop("figures", [])]
    return found | more


def figure(what: str, of: str, rate: Rate) -> dict[str, Any]:
    """A figure as a card has it: what, of which images, the rate and its 95 % interval in [0, 1], of how many."""
    low, high = rate.interval or (None, None)
    return {"what": what, "of": of, "rate": rate.value, "low": low, "high": high, "images": rate.images}


def figures(row: Round) -> list[dict[str, Any]]:
    """Every rate of a round, of the test and of the audit set."""
    rates = [("accuracy", row.of_what, row.accuracy)] if row.accuracy else []
    rates += [(f"accuracy under {name}", row.of_what, rate) for name, rate in row.robust.items()]
    if row.audit and row.measured_on != "audit":
        of = "images of the audit set"
        rates += [("accuracy", of, row.audit.accuracy)] if row.audit.accuracy else []
        rates += [(f"accuracy under {name}", of, rate) for name, rate in row.audit.robust.items()]
    return [figure(*one) for one in rates] or [{"what": "nothing was measured", "of": row.of_what, "rate": None}]


def untested(record: RunRecord) -> list[str]:
    """What nobody has tried on this model."""
    row, under = record.last, threat(record.plan)
    assert row is not None
    said = [f"Perturbations other than {under}." if under else "Perturbations of any kind that is written down."]
    if not any(is_auto_attack(name) for name in row.robust):
        said.append("AutoAttack: stronger attacks than those above may find more.")
    if row.measured_on == "validation":
        said.append("Images that nobody chose the model by: there was no test set.")
    said.append("Images from elsewhere than this data set: other cameras, weather, noise, compression, later times.")
    said.append("Images of none of the classes, which it will give one.")
    if not row.taught:
        return said
    return [*said, "Whether images that trained under pseudo-labels were put into the pool to mislead it."]


def as_json(found: Mapping[str, Any]) -> str:
    """The card as text, for programs."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def as_markdown(found: Mapping[str, Any]) -> str:
    """The card as text, for people."""
    rows = ["| what | of | % | 95 % interval | images |", "|---|---|---|---|---|"]
    for one in found["figures"]:
        interval = "–" if one.get("low") is None else f"{100 * one['low']:.1f}–{100 * one['high']:.1f}"
        rate = "–" if one["rate"] is None else f"{100 * one['rate']:.1f}"
        rows.append(f"| {one['what']} | {one['of']} | {rate} | {interval} | {one.get('images') or '–'} |")
    parts = [
        ("Model", [found["model"]]),
        ("Input", [f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in found["input"].items()]),
        ("Classes", [", ".join(f"{number} = {name}" for number, name in enumerate(found["classes"]))]),
        ("Data", [f"{key}: {_plain(value)}" for key, value in found["data"].items()]),
        ("Labels", [f"{key.replace('_', ' ')}: {value:,}" for key, value in found["labels"].items()]),
        ("Training", [found["training"]]),
        ("Threat", [found["threat"]]),
    ]
    text = ["# Model card"]
    for head, lines in parts:
        text += ["", f"## {head}", "", *(lines if len(lines) == 1 else [f"- {line}" for line in lines])]
    text += ["", "## Figures", "", *rows]
    for key, head in (("untested", "What it was not tested on"), ("cautions", "Cautions")):
        if found[key]:
            text += ["", f"## {head}", "", *(f"- {line}" for line in found[key])]
    run = found["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    text += ["", "## Run", "", f"- {run['status']}", f"- {run['headline']}", f"- plan {run['plan']}", f"- {versions}"]
    return "\n".join([*text, f"- `{run['command']}`", ""])


def _plain(value: Any) -> str:
    return " × ".join(str(part) for part in value) if isinstance(value, list) else str(value)
