"""Studies whose runs take a second."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

from robal.plans import merge, parse_override
from robal.studies import Cell, Local, Place, compare
from tiny_runs import SETTINGS

TINY: dict[str, Any] = reduce(merge, map(parse_override, [*SETTINGS, "rounds=1"]), {})


def said(**more: Any) -> dict[str, Any]:
    """A study of four tiny runs, as its file says it."""
    return {"plan": TINY, "grid": {"acquisition": ["Random", "Margin"], "seed": 2}} | more


def carry_out(place: Place, workers: int = 2) -> list[tuple[str, str]]:
    """Until all has ended: each run's name, and what went wrong with it."""
    return [(cell.name, why) for now in compare(place, Local(workers)) for cell, why in now.ended]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without its times and what says where they come from."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("seconds", "times", "shared_with")} for row in rows]


def cell(place: Place, **labels: str) -> Cell:
    """The one with these labels."""
    return next(one for one in place.study.cells if labels.items() <= dict(one.labels).items())
