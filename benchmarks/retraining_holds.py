"""Does retraining hold? Runs of `retraining.yaml` before and after, under attacks that nothing was crafted for.

    OMP_NUM_THREADS=1 python benchmarks/retraining_holds.py RUNS --folder DATA --out holds.csv
    … --only MNIST-robal-s-own-s --only MNIST-as-in-DRE                  # some of the runs

RUNS is a folder of finished retrainings with their models (`robal compare benchmarks/retraining.yaml --out RUNS`). On
the first 1,000 test images, as they are, under Square with 5,000 queries, and under Monitor in L2 (of the size that
`robal retrain` measures beside Linf): accuracy before and after, what is forgotten of the images that the model was
right on, and what is learned of the others. What is in the CSV file already is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robal.attacks import Monitor, Square
from robal.evaluation import clean, under_attack
from robal.files import write_csv
from robal.folder import RunFolder
from robal.loop import initial
from robal.measure import changes
from robal.records import plan_of
from robal.retraining.retrain import in_the_other_norm
from robal.threats import Linf
from robal.training import Trained

IMAGES = 1000
COLUMNS = ("way", "seed", "attack", "before", "after", "forgotten", "learned")


def verdicts(run: Path, number: int, attack: str, folder: Path | None) -> Tensor:
    """[IMAGES] bool: on which of the first test images the model after round `number` is right."""
    plan = plan_of(run, folder)
    data = plan.data.load()
    assert data.test is not None
    assert isinstance(plan.threat, Linf)
    inputs, labels = data.test.images.at_rest(torch.arange(IMAGES)), data.test.labels[:IMAGES]
    model = initial(plan, data, data.classes).model
    model = Trained.load(RunFolder(run).round(number) / "model.safetensors", model).model
    if attack == "clean":
        return clean(model, inputs, labels).correct
    other = in_the_other_norm(plan.threat, data.images.shape)
    one = Square(threat=plan.threat) if attack == "Square" else Monitor(threat=other)
    return under_attack(model, inputs, labels, one, 0, what=f"{run.name}, round {number}, {attack}").correct


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, means over seeds in percent; shares of no image count nowhere."""
    lines = ["| way | attack | models | before | after | forgotten | learned |", "|---|---|---|---|---|---|---|"]
    for way, attack in dict.fromkeys((row["way"], row["attack"]) for row in rows):
        mine = [row for row in rows if (row["way"], row["attack"]) == (way, attack)]
        cells = []
        for column in COLUMNS[3:]:
            values = [100 * float(row[column]) for row in mine if row[column] not in ("", None)]
            cells.append(f"{statistics.mean(values):.1f}" if values else "–")
        lines.append(f"| {way} | {attack} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--folder", type=Path, help="where the data sets lie")
    parser.add_argument("--only", action="append", default=[], help="runs whose names begin so")
    parser.add_argument("--out", type=Path, default=Path("holds.csv"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.out.exists():
        with options.out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    shared: dict[tuple[bytes, str], Tensor] = {}  # several ways begin with one model
    for run in sorted(path.parent for path in options.runs.glob("*/metrics.jsonl")):
        if options.only and not run.name.startswith(tuple(options.only)):
            continue
        way, seed = run.name.rsplit("-", 2)[0], run.name.rsplit("-", 2)[1].removeprefix("s")
        first = (run / "rounds" / "000" / "model.safetensors").read_bytes()
        for attack in ("clean", "Square", "Monitor (L2)"):
            if any((row["way"], row["seed"], row["attack"]) == (way, seed, attack) for row in rows):
                continue
            asked = (attack, options.folder)
            if (first, attack) not in shared:
                shared[first, attack] = verdicts(run, 0, *asked)
            was = shared[first, attack]
            now = verdicts(run, 1, *asked)
            found = changes(was, now)
            rates = (was.double().mean().item(), now.double().mean().item(), found["forgotten"], found["learned"])
            rows.append(dict(zip(COLUMNS, (way, seed, attack, *rates), strict=True)))
            write_csv(options.out, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    print(table(rows))


if __name__ == "__main__":
    main()
