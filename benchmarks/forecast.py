"""Do forecasts hold? The second half of recorded runs is hidden, forecast from the first, and compared.

    python benchmarks/forecast.py                          # on the runs that are kept here: seconds
    python benchmarks/forecast.py runs/study               # on one's own, all run folders below

Of each run and each rate that was measured in every round, the curve is fitted to the first half of its rounds and
carried on to the last. The prior in `robal.learning_curves` was chosen on the runs of seed 0 and the two dre-mnist
runs; the others say whether the band holds what it promises. The kept runs are those of learning_curves.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from robal.learning_curves import FEWEST, Expected, fitted
from robal.report.folder import RunRecord, mapping, read
from robal.report.forecast import comparable

HERE = Path(__file__).resolve().parent
KEPT = HERE / "runs" / "learning-curves"
CHOSEN_ON = (HERE / "runs" / "dre-mnist-DRE", HERE / "runs" / "dre-mnist-Random")


def hidden_half(record: RunRecord, probability: float) -> list[tuple[str, float, Expected, float]]:
    """Of each rate of a run: its name, what was last seen of it, what was expected, and what came at the end."""
    rows = comparable(record)
    half = len(rows) // 2
    if half < FEWEST:
        return []
    found = []
    names = [name for name in record.attacks if all(name in row.robust for row in rows)]
    for name in ("accuracy", *names):
        rates = [row.accuracy if name == "accuracy" else row.robust[name] for row in rows]
        values = [rate.value for rate in rates if rate is not None]
        if len(values) == len(rows):
            curve = fitted([row.bought for row in rows[:half]], values[:half])
            found.append((name, values[half - 1], curve.at(rows[-1].bought, probability), values[-1]))
    return found


def was_chosen_on(record: RunRecord) -> bool:
    """Whether the prior was chosen by this run."""
    return record.folder in CHOSEN_ON or (KEPT in record.folder.parents and record.plan.get("seed") == 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="run folders, or folders with some in them")
    parser.add_argument("--probability", type=float, default=0.9)
    options = parser.parse_args()
    roots = options.folders or [KEPT, *CHOSEN_ON]
    folders = sorted({path.parent.resolve() for root in roots for path in root.rglob("metrics.jsonl")})
    print("| run | rate | half-way | forecast | band | came | |\n|---|---|---|---|---|---|---|")
    inside: dict[bool, list[bool]] = {True: [], False: []}
    off: dict[bool, list[float]] = {True: [], False: []}
    for folder in folders:
        record = read(folder, strips=False)
        data = mapping(record.plan.get("data")).get("name", "")
        for name, seen, expected, came in hidden_half(record, options.probability):
            holds, chosen_on = expected.low <= came <= expected.high, was_chosen_on(record)
            inside[chosen_on].append(holds)
            off[chosen_on].append(abs(expected.rate - came))
            shown = " | ".join(f"{100 * one:.1f}" for one in (seen, expected.rate))
            band = f"{100 * expected.low:.1f}–{100 * expected.high:.1f}"
            came_of = f"{band} | {100 * came:.1f} | {'' if holds else 'missed'}"
            print(f"| {data}: {folder.name} | {name} | {shown} | {came_of} |")
    for chosen_on, said in ((True, "by which the prior was chosen"), (False, "which were not looked at before")):
        if inside[chosen_on]:
            share = sum(inside[chosen_on]) / len(inside[chosen_on])
            mean = sum(off[chosen_on]) / len(off[chosen_on])
            print(
                f"\nOf runs {said}: {share:.0%} of {len(inside[chosen_on])} final rates lie in the "
                f"{options.probability:.0%} band; the forecast is off by {100 * mean:.1f} points on average."
            )
    if not any(inside.values()):
        sys.exit("no run with six measured rounds was found")


if __name__ == "__main__":
    main()
