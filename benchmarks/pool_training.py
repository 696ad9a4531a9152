"""What recipe, pool and acquisition bring, each alone, at equal cost, beside the ceiling: all labels bought.

    python benchmarks/pool_training.py mnist --data DATA                # every arm, seeds 0 to 2: hours
    python benchmarks/pool_training.py mnist --data DATA --only pool-1000 --seeds 0
    python benchmarks/pool_training.py mnist --table                    # what is finished, without training anything
    python benchmarks/pool_training.py mnist --table --picture mnist.png

Other studies: fashion and fashion-0.1 (eps 0.3 and 0.1), cifar10.

An arm is a preset and settings of `robal run`, so each can be repeated alone: the command is printed. Work lies under
runs/; of a finished run, plan, metrics and environment are copied to benchmarks/runs/pool, and what lies there is not
run again. A killed study goes on where it was. AutoAttack standard on 1,000 test images a run; how the presets were
chosen, and what had been seen of the test before: README.md. An arm with DRE trains twice, the first time to choose by.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from robal import presets
from robal.plans import read_plan, read_yaml
from robal.records import digest

HERE = Path(__file__).resolve().parent
KEPT = HERE / "runs" / "pool"
SMALL = ("plan.yaml", "metrics.jsonl", "environment.json")


def trained(*settings: str) -> list[str]:
    """The settings for the first round's recipe and for the later ones'."""
    return [f"{where}.{setting}" for setting in settings for where in ("start.recipe", "recipe")]


ALONE = trained("pool=null")  # labels only
DRE = ["rounds=1", "start.labels=500", "per_round=500", "acquisition=DRE", "recipe.warm_start=false"]
# As published for MNIST (arXiv 2112.02542): PGD-40 from a naturally trained model; but the last epoch, not the one that
# is best on thousands of validation labels, which are labels too.
PUBLISHED = [
    *trained("pool=null", "ramp=0", "average=0", "schedule=Constant", "optimiser.lr=0.001", "batch_size=100"),
    *["rounds=1", "start.labels=500", "per_round=500", "start.recipe.objective=Natural", "start.recipe.budget=100000"],
    "recipe.objective={name: Adversarial, attack: {name: PGD, steps: 40, step_size: 0.01, random_start: false}}",
]

LARGE = trained("batch_size=128")  # as the preset had it first

Arms = dict[str, list[str]]
THREE: Arms = {"labels": ALONE, "pool": [], "ceiling": [*ALONE, "start.labels=55000"]}
STUDIES: dict[str, tuple[str, list[str], Arms]] = {
    "mnist": (
        "few-labels-mnist",
        [],
        {
            "published-1000": PUBLISHED,
            "labels-1000": ALONE,
            "labels-1000-DRE": [*ALONE, *DRE],
            "pool-200": ["start.labels=200"],
            "pool-1000": [],
            "pool-1000-DRE": DRE,
            "pool-5000": ["start.labels=5000", *trained("pool.share=0.1")],
            "ceiling": [*ALONE, "start.labels=55000"],
            "labels-1000-128": [*ALONE, *LARGE],
            "pool-200-128": ["start.labels=200", *LARGE],
            "pool-1000-128": LARGE,
            "ceiling-128": [*ALONE, "start.labels=55000", *LARGE],
        },
    ),
    "fashion": ("few-labels-fashion", [], {**THREE, "pool-128": LARGE}),
    "fashion-0.1": ("few-labels-fashion", ["threat.eps=0.1"], THREE),
    "cifar10": ("few-labels-cifar10", [], {**THREE, "ceiling": [*ALONE, "start.labels=45000"]}),
}


def carry_out(preset: str, settings: Sequence[str], name: str, data: Path | None, work: Path, kept: Path) -> None:
    """`robal run` in work/name, its small files copied to kept/name, unless they lie there already."""
    if (kept / name).exists():
        wanted = digest(read_plan(None, settings, read_yaml(presets.text(preset), preset)))
        if digest(read_plan(kept / name / "plan.yaml")) != wanted:
            raise SystemExit(f"{kept / name} is a run of another plan: move it away, or ask for what it was")
        return
    shown = ["run", "--preset", preset, *settings, "--out", name]
    print("PYTHONPATH=benchmarks robal", shlex.join(shown), flush=True)
    source = {} if data is None else {"ROBAL_DATA": str(data.resolve())}
    environment = {**os.environ, **source, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    work.mkdir(parents=True, exist_ok=True)  # run from there, so that no path of the machine is in what is kept
    subprocess.run([Path(sys.executable).with_name("robal"), *shown], check=True, cwd=work, env=environment)
    beside = kept / f".{name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for file in SMALL:
        shutil.copy(work / name / file, beside / file)
    beside.rename(kept / name)


def table(study: str) -> str:
    """Markdown: an arm a row, means over its finished seeds, AutoAttack seed by seed too."""
    lines = [
        "| arm | labels | seeds | pool's labels right | clean | PGD-50 | AutoAttack | seed by seed | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, runs in _finished(study).items():
        rows = [rounds[-1] for rounds in runs]
        right = [row["pool"]["pseudo_right"] for row in rows if row.get("pool")]
        clean, steps, auto = ([value(row) for row in rows] for value in (_clean, _pgd, _auto))
        minutes = [sum(row["times"]["train"] for row in rounds) / 60 for rounds in runs]
        lines.append(
            f"| {arm} | {rows[0]['labels']['bought']:,} | {len(rows)} | {_mean(right) if right else ''} | "
            f"{_mean(clean)} | {_mean(steps)} | {_mean(auto)} | {', '.join(f'{100 * value:.1f}' for value in auto)} | "
            f"{statistics.mean(minutes):.0f} |"
        )
    return "\n".join(lines)


# Table 4 of arXiv 2112.02542: labels chosen by DRE, and all; models chosen by 5,000 validation labels more.
PUBLISHED_POINTS = {"mnist": {5_000: 67.69, 60_000: 76.17}, "fashion": {6_000: 33.79, 60_000: 34.06}}


def picture(study: str, path: Path) -> None:
    """Labels bought against AutoAttack: seeds as dots, lines through their means, what was published beside them."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    finished = _finished(study)
    ticks = set(PUBLISHED_POINTS.get(study, {}))
    kinds = {"pool": ("labels and the pool", "#1baf7a"), "labels": ("labels alone", "#eb6834")}
    for kind, (label, colour) in kinds.items():
        points = sorted(
            (runs[0][-1]["labels"]["bought"], [100 * _auto(rounds[-1]) for rounds in runs])
            for arm, runs in finished.items()
            if arm.partition("-")[0] == kind and not arm.endswith(("-DRE", "-128"))
        )
        ticks |= {labels for labels, _ in points}
        for labels, values in points:
            axes.plot([labels] * len(values), values, ".", color=colour)
        means = [statistics.mean(values) for _, values in points]
        axes.plot([labels for labels, _ in points], means, "-o", color=colour, label=label)
    ceiling = [100 * _auto(rounds[-1]) for rounds in finished.get("ceiling", [])]
    if ceiling:
        label = f"all labels, same recipe and cost ({len(ceiling)} seeds)"
        axes.axhline(statistics.mean(ceiling), color="#5c5b57", linestyle="--", label=label)
    for number, (labels, value) in enumerate(PUBLISHED_POINTS.get(study, {}).items()):
        axes.plot(
            labels, value, "x", color="#4a3aa7", label="published; 5,000 more to choose by" if number == 0 else None
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xticks(sorted(ticks))
    axes.set_xlabel("labels bought")
    axes.set_ylabel("% right under AutoAttack")
    axes.grid(visible=True, axis="y", color="#e1e0d9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _finished(study: str) -> dict[str, list[list[dict]]]:  # type: ignore[type-arg]
    """By arm, the rounds of each finished run, in the order of seeds."""
    found = {}
    for arm in STUDIES[study][2]:
        start = f"{study}-{arm}-"
        folders = [folder for folder in KEPT.glob(f"{start}*") if folder.name.removeprefix(start).isdecimal()]
        if folders:
            found[arm] = [_rounds(folder) for folder in sorted(folders)]
    return found


def _rounds(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _clean(row: dict) -> float:  # type: ignore[type-arg]
    return float(row["accuracy"])


def _pgd(row: dict) -> float:  # type: ignore[type-arg]
    return float(row["robust_accuracy"]["PGD-50"])


def _auto(row: dict) -> float:  # type: ignore[type-arg]
    return float(row["robust_accuracy"]["AutoAttack"])


def _mean(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f}"


def main() -> None:
    """Read the command line, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", type=Path, help="the folder with the data sets; else ROBAL_DATA, else ./data")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where run folders lie while at work")
    parser.add_argument("--only", nargs="*", help="arms; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print what is finished and run nothing")
    parser.add_argument("--picture", type=Path, help="draw labels bought against robustness: a PNG or SVG file")
    chosen = parser.parse_args()
    arms = chosen.only or list(STUDIES[chosen.study][2])
    for unknown in set(arms) - set(STUDIES[chosen.study][2]):
        parser.error(f"no arm is called {unknown!r}; there are {', '.join(STUDIES[chosen.study][2])}")
    for seed in [] if chosen.table else chosen.seeds:
        for arm in arms:
            preset, common, of_arm = STUDIES[chosen.study]
            settings = [*common, *of_arm[arm], f"seed={seed}"]
            carry_out(preset, settings, f"{chosen.study}-{arm}-{seed}", chosen.data, chosen.work, KEPT)
    print(table(chosen.study))
    if chosen.picture:
        picture(chosen.study, chosen.picture)


if __name__ == "__main__":
    main()
