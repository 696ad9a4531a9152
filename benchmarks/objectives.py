"""What an epoch costs by objective: everything that `fit` does, what is learned beside the model too.

    python benchmarks/objectives.py            # three rounds of all kinds in turn, ten minutes
    python benchmarks/objectives.py --quick    # one round of fewer images

LeNet5 on 5,000 random images of 28 × 28, batch 100, PGD-10, Linf 0.1; a tenth of them is the meta set, if there is one.
The kinds are timed in turn in one run, and medians of the ratios to TRADES of the same round printed with minimum and
maximum. "Evaluations" are the gradient evaluations that the recipe counts, by image, which budgets go by.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from robal.attacks import PGD
from robal.networks import LeNet5
from robal.objectives import ACT, CAAT, FRL, Adversarial, ClassCosts, Doubtful, Learned, Objective, Trades
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import Linf
from robal.training import Recipe, Trained, fit

THREAT = Linf(0.1)
KINDS: dict[str, Objective] = {
    "TRADES": Trades(threat=THREAT),
    "PGD-AT": Adversarial(PGD(steps=10, threat=THREAT)),
    "FRL": FRL(threat=THREAT),
    "ACT": ACT(threat=THREAT),
    "CAAT": CAAT(threat=THREAT),
    "CAAT, taught every 50 steps": CAAT(weighing=Learned(every=50), threat=THREAT),
    "CAAT, re-weight alone": CAAT(costs=ClassCosts(remargin=False), threat=THREAT),
    "CAAT, Doubtful, no meta set": CAAT(weighing=Doubtful(), costs=None, threat=THREAT),
}


def main() -> None:
    """Time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 images, one round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    count, rounds = (1_000, 1) if given.quick else (5_000, 3)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator(0, "images"), dtype=torch.uint8)
    labels, rest = torch.arange(count) % 10, count // 10
    start = Trained(LeNet5()((1, 28, 28), 10, 0))
    whole = Examples.of(images, labels)
    apart = Examples.join(
        [Examples.of(images[rest:], labels[rest:]), Examples.of(images[:rest], labels[:rest], kind="meta")]
    )
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    counted: dict[str, float] = {}
    fit(Recipe(KINDS["TRADES"], epochs=1), whole.only(torch.arange(200)), None, start, None, 0, what="warming up")
    for _ in range(rounds):
        for kind, objective in KINDS.items():
            recipe = Recipe(objective, epochs=1)
            began = time.process_time()
            trained = fit(recipe, apart if recipe.needs_meta else whole, None, start, None, 0, what=kind)
            spent[kind].append(time.process_time() - began)
            counted[kind] = trained.evaluations / count
    print("| objective | seconds an epoch | of TRADES | evaluations an image |\n|---|---|---|---|")
    for kind, times in spent.items():
        ratios = sorted(mine / other for mine, other in zip(times, spent["TRADES"], strict=True))
        share = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        print(f"| {kind} | {statistics.median(times):.1f} | {share} | {counted[kind]:.1f} |")


if __name__ == "__main__":
    main()
