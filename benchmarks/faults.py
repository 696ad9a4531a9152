"""How early each order of a test set finds a model's faults: APFD, and faults among the first hundred.

    OMP_NUM_THREADS=1 python benchmarks/faults.py --data DATA --out faults.csv   # MNIST, Fashion-MNIST, three seeds
    python benchmarks/faults.py --quick                                          # digits, one model of each kind

LeNet5, once naturally and once adversarially trained on 15,000 training images (Linf; ε 0.3 for MNIST, else 0.1),
orders the 10,000 test images. A fault is an image that the model gets wrong, unattacked. APFD needs a score; a joint
choice says which hundred to look at. Surprise and core-set compare with what was trained on; nothing is fitted.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation import trained
from robal.acquisition import Acquisition, choose, is_score
from robal.candidates import Candidates
from robal.datasets import load
from robal.images import InMemory, Joined
from robal.networks import LeNet5
from robal.objectives import Natural
from robal.plans import read_component
from robal.pool import UNLABELLED, Examples, Pool
from robal.retraining import apfd
from robal.seeds import generator
from robal.threats import Linf, with_threat
from robal.training import Adam, Recipe, Trained, fit

BY = (
    "DeepGini", "MaxEntropy", "LeastConfidence", "Margin", "LogitMargin", "DropOutEntropy", "BALD", "EGL",
    "LinearisedDistance", "FGSMBisection", "LowInputGradient", "AdversarialEntropy", "FirstOrderLoss",
    "LikelihoodSurprise", "DistanceSurprise", "FeatureNovelty", "DFAL", "DRE", "MCP", "BADGE", "CoreSet", "KMST",
    "BEST", "Random",
)  # fmt: skip
FIRST = 100


def model_for(kind: str, known: Examples, eps: float, epochs: int, seed: int) -> nn.Module:
    """LeNet5, naturally or adversarially trained."""
    if kind == "adversarial":
        return trained(known.images, known.labels, eps, epochs, seed).eval()
    recipe = Recipe(Natural(), epochs=2 * epochs, batch_size=100, optimiser=Adam(2e-3))
    start = Trained(LeNet5()(tuple(known.images.shape[1:]), 10, seed))
    return fit(recipe, known, None, start, None, seed).model.eval()


def ordered(by: str, candidates: Candidates, faults: Tensor, eps: float, seed: int) -> tuple[float | None, int]:
    """APFD of all, None for a joint choice, and the faults among the first FIRST."""
    method = with_threat(read_component(Acquisition, by, "by"), Linf(eps))
    is_order = is_score(method)
    order = choose(method, candidates, len(faults) if is_order else FIRST, generator(seed, "rank"))
    found = faults[order]
    return (apfd(found) if is_order else None), int(found[:FIRST].sum())


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, means over seeds; a joint choice has no APFD."""
    groups = list(dict.fromkeys((row["data"], row["model"]) for row in rows))
    lines = ["| by |" + "".join(f" {data}, {model} |" for data, model in groups), "|---|" + "---|" * len(groups)]
    for by in dict.fromkeys(row["by"] for row in rows):
        cells = []
        for group in groups:
            these = [row for row in rows if (row["data"], row["model"]) == group and row["by"] == by]
            first = statistics.mean(row["first"] for row in these)
            scores = [row["apfd"] for row in these if row["apfd"] is not None]
            cells.append(f"{statistics.mean(scores):.3f} / {first:.0f}" if scores else f"– / {first:.0f}")
        lines.append(f"| {by} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, order by everything, print a table: APFD / faults among the first hundred."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with the data sets; else ROBAL_DATA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a CSV file with a row for each model and order")
    parser.add_argument("--quick", action="store_true", help="digits, one model of each kind")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in ("digits",) if given.quick else ("mnist", "fashion-mnist"):
        dataset = load(name, given.data)
        eps = 0.3 if name == "mnist" else 0.1
        if dataset.test_images is None or dataset.test_labels is None:
            tests, truth = dataset.images[1_200:], dataset.labels[1_200:]
            known = Examples.of(dataset.images[:1_200], dataset.labels[:1_200])
        else:
            tests, truth = dataset.test_images, dataset.test_labels
            known = Examples.of(dataset.images[:15_000], dataset.labels[:15_000])
        images = Joined((InMemory(tests), InMemory(known.images)))
        pool = Pool(images, torch.cat([torch.full((len(tests),), UNLABELLED), known.labels]), dataset.classes)
        for kind, seed in product(("natural", "adversarial"), range(1 if given.quick else given.seeds)):
            started = time.process_time()
            model = model_for(kind, known, eps, 30 if given.quick else 3, seed)
            candidates = Candidates(model, pool, torch.arange(len(tests)))
            faults = candidates.logits.argmax(1) != truth
            took, wrong = time.process_time() - started, int(faults.sum())
            print(f"{name}, {kind}, seed {seed}: {wrong} of {len(faults):,} are faults ({took:.0f} s)", flush=True)
            for by in BY:
                started = time.process_time()
                area, first = ordered(by, candidates, faults, eps, seed)
                took = round(time.process_time() - started, 1)
                about = {"data": name, "model": kind, "seed": seed, "faults": wrong, "by": by}
                rows.append({**about, "apfd": area, "first": first, "seconds": took})
    if given.out is not None:
        with given.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
