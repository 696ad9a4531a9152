"""Which labels help most where the unlabelled pool trains too, under a teacher's labels: Fashion-MNIST, eps 0.1.

    python benchmarks/which_labels.py fashion --data DATA   # the whole pool; hours. --table: what is finished, no runs
    python benchmarks/which_labels.py tail --data DATA      # a long-tailed pool: the rarest class 1 in 100
    python benchmarks/which_labels.py fashion --quick --work /tmp/q  # digits and tiny budgets: does it run at all?

100 random labels, then one question of 400 by the rule. Of equal seed, all rules have the same first 100 labels and the
same initial weights. Models are measured on development images, the last 5,000 for training, taken out of the pool:
clean on all of them (of the long tail: equally many of each class), Monitor on the first 500. No test image is used.

PRIMARY, fixed before any run: teacher-margin against Random on `fashion`, 500 labels in all, the default budget: the
difference in Monitor accuracy at the end, paired by seed, seeds 0 to 9; two-sided exact sign-flip permutation test,
level 0.05 (2^10 patterns of signs: p is at least 0.002), computed once all ten pairs are there. All else explores, with
seeds 0 to 2, and gets no p. Intervals are Student's, 95 %, over seeds (labels and weights), for these images alone.
Rules may have other seeds than Random: compare by the paired difference, not by the means.

Each run is a `robal run`, printed, in a folder under --work; plan, metrics and environment of a finished one are copied
to benchmarks/runs/which-labels, and what lies there is not run again. A killed one goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from pool_training import HERE, SMALL, carry_out, trained
from scipy.stats import permutation_test, t
from torch.nn.functional import one_hot

from robal.datasets import Dataset, load

DOUBTFUL = "{name: Screened, inner: TypiClust, by: Margin, keep: 10, candidates_per_query: 0}"
RULES = {name: name for name in ("Random", "DRE", "Margin", "BADGE", "TypiClust", "Disagreement")} | {
    "teacher-margin": "{name: OfTeacher, inner: Margin}",
    "teacher-doubtful-typical": f"{{name: OfTeacher, inner: {DOUBTFUL}}}",
}
PRIMARY, PAIRS = "teacher-margin", 10
RECIPE = trained(
    "objective={name: Adversarial, attack: {name: PGD, steps: 5, step_size: 0.04}}",
    "pool.teacher.objective={name: FixMatch, threshold: 0.8, strong: {name: Chain, parts: [Brightness, Cutout]}}",
    "pool.teacher.augmentation={name: CropFlip, pad: 2, flip: true}",
)


def first_of_each(labels: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Positions of the first most[k] images of each class k, the classes in turn."""
    same = one_hot(labels)
    rank = (same.cumsum(0) * same).sum(1) - 1
    order = rank.argsort(stable=True)
    return order[rank[order] < most[labels[order]]]


def development(name: str, held_out: int = 5_000, is_tail: bool = False) -> Dataset:
    """A data set tested on its last images for training; the tail has 100^(-k / 9) times as many of class k as of 0."""
    whole = load(name)
    labels, (pool, tests) = whole.labels, torch.arange(len(whole)).split([len(whole) - held_out, held_out])
    if is_tail:
        factors = 100.0 ** -torch.linspace(0, 1, len(whole.classes))
        pool = pool[first_of_each(labels[pool], (labels[pool].bincount().min() * factors).round())]
        tests = tests[first_of_each(labels[tests], labels[tests].bincount().min() * factors.ceil())]  # of each
    return Dataset(f"{name}-dev", whole.images[pool], labels[pool], whole.classes, whole.images[tests], labels[tests])


fashion, fashion_tail = partial(development, "fashion-mnist"), partial(development, "fashion-mnist", is_tail=True)
digits, digits_tail = partial(development, "digits", 300), partial(development, "digits", 300, is_tail=True)


@dataclass(frozen=True)
class Study:
    """One of the two pools, and how large everything is. `data` is what makes it, above."""

    name: str
    labels: int = 500
    budget: int = 1_000_000
    start: int = 100
    data: str = "fashion"
    kept: Path = HERE / "runs" / "which-labels"
    further: tuple[str, ...] = ("evaluation={images: 500, each_round: [], at_end: [Monitor]}",)

    def run(self, rule: str, seed: int | str) -> str:
        """What the folder of a run is called."""
        return f"{self.name}-{self.labels}-{self.budget}-{rule}-{seed}"

    def settings(self, rule: str, seed: int) -> list[str]:
        """On top of few-labels-mnist. Round 0 has half the budget, its teacher 2/5 of that; the later one 3/10."""
        data, start = self.data + "_tail" * (self.name == "tail"), self.budget // 2
        return [
            *(f"data={{name: 'which_labels:{data}', held_out_images: 0}}", "threat.eps=0.1", *RECIPE),
            *(f"start.recipe.pool.teacher.budget={start * 2 // 5}", f"start.recipe.budget={start}"),
            *(f"recipe.pool.teacher.budget={self.budget * 3 // 10}", f"recipe.budget={self.budget}"),
            *(f"start.labels={self.start}", f"per_round={self.labels - self.start}", "rounds=1"),
            *(f"acquisition={RULES[rule]}", *self.further, f"seed={seed}"),
        ]


def primary(differences: dict[int, float]) -> str:
    """The p of the one test there is, once all its pairs are there.

    >>> primary({seed: 0.01 for seed in range(10)}), primary({0: 0.01})
    ('0.0020 (n = 10, least possible 0.0020)', '9 pairs are missing')
    """
    tested = [differences[seed] for seed in range(PAIRS) if seed in differences]
    if len(tested) < PAIRS:
        return f"{PAIRS - len(tested)} pairs are missing"
    flips = permutation_test([tested], np.mean, permutation_type="samples", n_resamples=np.inf)
    return f"{flips.pvalue:.4f} (n = {PAIRS}, least possible {2 / 2**PAIRS:.4f})"


def interval(values: list[float]) -> str:
    """Mean and, of two or more, Student's 95 % interval, in points.

    >>> interval([0.01, 0.03])  # 0.02 ± 12.706 · 0.01
    '+2.0 (-10.7 to +14.7)'
    """
    mean, many = 100 * statistics.mean(values), len(values) > 1
    half = 100 * t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if many else 0
    return f"{mean:+.1f}" + (f" ({mean - half:+.1f} to {mean + half:+.1f})" if many else "")


def figures(folder: Path) -> dict[str, float]:
    """What the table shows of a run's last round; without "teacher right" where no pool image was labelled."""
    row = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    classes, right = row["per_class"], (row["pool"] or {}).get("pseudo_right")
    found = {} if right is None else {"teacher right": right}
    for name, overall, rates in (
        ("clean", row["accuracy"], classes["accuracy"]),
        ("Monitor", row["robust_accuracy"]["Monitor"], classes["robust_accuracy"]["Monitor"]),
    ):
        found |= {name: overall, f"{name}, worst class": min(rate for rate in rates if rate is not None)}
    return found


def table(study: Study) -> str:
    """Markdown: a rule a row, means over its finished seeds, and the difference to Random of equal seed."""
    columns = ["teacher right", "clean", "Monitor", "clean, worst class", "Monitor, worst class"]
    lines = [f"| rule | seeds | {' | '.join(columns)} | Monitor less Random's (95 %) | p |", "|---" * 9 + "|"]
    random: dict[int, dict[str, float]] = {}
    for rule in RULES:
        whole = [file.parent for file in study.kept.glob(f"{study.run(rule, '*')}/{SMALL[-1]}")]
        folders = {int(folder.name.rpartition("-")[2]): folder for folder in whole}
        runs = {seed: figures(folder) for seed, folder in sorted(folders.items())}
        random, cells = runs if rule == "Random" else random, [rule, str(len(runs))]
        for name in columns:
            values = [run[name] for run in runs.values() if name in run]
            some = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""  # other teachers collapsed
            cells.append(f"{100 * statistics.mean(values):.1f}{some}" if values else "–")
        pairs = {seed: runs[seed]["Monitor"] - random[seed]["Monitor"] for seed in runs if seed in random}
        cells.append(interval(list(pairs.values())) if pairs and rule != "Random" else "")
        cells.append(primary(pairs) if rule == PRIMARY and study == Study("fashion") else "")
        lines += [f"| {' | '.join(cells)} |"] if runs else []
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["fashion", "tail"])
    parser.add_argument("--data", type=Path, help="the folder with the data sets; else ROBAL_DATA")
    parser.add_argument("--work", type=Path, default=Path("runs/which-labels"), help="where run folders lie")
    parser.add_argument("--only", nargs="*", choices=list(RULES), help="rules; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, help="by default 0 to 9 for the primary question, else 0 to 2")
    parser.add_argument("--labels", type=int, default=500, help="bought in all, the first 100 at random")
    parser.add_argument("--budget", type=int, default=1_000_000, help="gradient evaluations of the last round")
    parser.add_argument("--table", action="store_true", help="print what is finished and run nothing")
    parser.add_argument("--quick", action="store_true", help="digits and tiny budgets, kept under --work")
    given = parser.parse_args()
    study = Study(given.study, given.labels, given.budget)
    if given.quick:
        tiny = "evaluation={images: 20, each_round: [], at_end: [{name: Monitor, steps: 5, square: 0}]}"
        further = (tiny, *trained("pool.teacher.objective=Natural"))  # of so few steps FixMatch would learn nothing
        study = Study(given.study, 80, 20_000, 40, "digits", given.work / "kept", further)
    seeds = given.seeds or range(1 if given.quick else PAIRS)
    for seed, rule in [] if given.table else product(seeds, given.only or RULES):
        if given.seeds or seed < 3 or (rule in ("Random", PRIMARY) and study == Study("fashion")):
            settings = study.settings(rule, seed)
            carry_out("few-labels-mnist", settings, study.run(rule, seed), given.data, given.work, study.kept)
    print(table(study))


if __name__ == "__main__":
    main()
