"""How much could any acquisition function gain? A greedy myopic oracle, which is shown the labels before it chooses.

    python benchmarks/greedy_oracle.py --data DATA                 # MNIST: three seeds, an hour or two of one core
    python benchmarks/greedy_oracle.py --quick --out runs/oracle   # the embedded digits: does it run? A minute or two

In each round the oracle draws batches at random, trains on each with its true labels, as the round would be trained,
and keeps the batch whose model is most robust on validation images: what LAL's teacher does (Konyushkova et al.,
NeurIPS 2017, arXiv 1703.03365), with batches in place of single images. No acquisition function has these labels, so
this shows what choosing one batch after another could bring, a lower bound of it, for few batches are drawn.

A best of many is partly luck: of the validation images, and of the training. So models are measured on other images
(the Monitor without Square), and a control draws one batch and trains it as many times from other weights, keeping
the best by the same validation; what the oracle gains over the control is due to labels. Each arm's last labels also
train once more, from weights that nothing chose ("again"). Pool, validation and test are training images of the data
set; no test image is used. A finished seed of an arm is kept in a file under --out and not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from robal.acquisition import DRE, Acquisition, Margin, Random, Score, choose
from robal.attacks import PGD, Monitor
from robal.candidates import Candidates
from robal.datasets import load
from robal.evaluation import clean, under_attack
from robal.files import write
from robal.images import InMemory
from robal.networks import LeNet5, channels_last
from robal.objectives import Adversarial
from robal.pool import Examples, Pool
from robal.progress import track
from robal.seeds import generator, stream
from robal.threats import Linf
from robal.training import Adam, Recipe, Trained, Triangular, fit


@dataclass(frozen=True)
class Scale:
    """How large everything is; `tries`: batches, or trainings, that the oracle and the control look at each round."""

    dataset: str = "mnist"
    eps: float = 0.2
    pool: int = 5_000
    validation: int = 1_000
    test: int = 2_000
    start: int = 100
    per_round: int = 50
    rounds: int = 4
    tries: int = 20
    budget: int = 60_000


QUICK = Scale("digits", 0.1, 800, 200, 100, 40, 20, 2, 3, 10_000)
RULES: dict[str, Acquisition | Score] = {"Random": Random(), "Margin": Margin(), "DRE": DRE()}
ARMS = (*RULES, "control", "oracle")


@dataclass(frozen=True)
class Bench:
    """Images and labels, and how models are made and judged."""

    scale: Scale
    pool: InMemory
    labels: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, scale: Scale, data: Path | None) -> Bench:
        """The first images of a fixed order are the pool; the next ones validate, the next are the test."""
        whole = load(scale.dataset, data)
        order = torch.randperm(len(whole), generator=generator(0, "oracle"))
        pool, validation, test, _ = order.split(
            [scale.pool, scale.validation, scale.test, len(whole) - scale.pool - scale.validation - scale.test]
        )
        images, labels = whole.images, whole.labels
        both = [(images[part], labels[part]) for part in (validation, test)]
        return cls(scale, InMemory(images[pool]), labels[pool], both[0], both[1])

    def trained(self, chosen: Tensor, seed: int) -> Trained:
        """A model trained from scratch on some of the pool's images; weights and order follow from the seed."""
        scale = self.scale
        recipe = Recipe(
            Adversarial(PGD(5, scale.eps / 2, threat=Linf(scale.eps))),
            budget=scale.budget,
            batch_size=50,
            optimiser=Adam(4e-3),
            schedule=Triangular(0.2),
            ramp=0.3,
            average=0.99,
        )
        shape = self.pool.shape
        start = Trained(channels_last(LeNet5()(shape, 10, stream(seed, "weights") % 2**31), shape).eval())
        examples = Examples.of(self.pool.at_rest(chosen), self.labels[chosen], chosen)
        return fit(recipe, examples, None, start, None, stream(seed, "fit"))

    def validated(self, one: Trained) -> float:
        """Robust accuracy on validation images: what the oracle and the control choose by."""
        attack = PGD(10, self.scale.eps / 4, threat=Linf(self.scale.eps))
        return under_attack(one.model, *self.validation, attack, 0).accuracy

    def measured(self, one: Trained) -> dict[str, float]:
        """On images by which nothing was chosen."""
        robust = under_attack(one.model, *self.test, Monitor(square=0, threat=Linf(self.scale.eps)), 0).accuracy
        return {"clean": clean(one.model, *self.test).accuracy, "robust": robust}

    def batch(self, rule: Acquisition | Score, known: Tensor, model: Trained, draw: torch.Generator) -> Tensor:
        """What a rule asks about next."""
        names = [str(number) for number in range(10)]
        pool = Pool.unlabelled(self.pool, names).reveal(known, self.labels[known])
        return choose(rule, Candidates(model.model, pool, pool.candidates), self.scale.per_round, draw)


def carried_out(bench: Bench, arm: str, seed: int) -> list[dict[str, float]]:
    """An arm's rounds: labels and what validation said; in the last one figures, of one more training too."""
    scale = bench.scale
    known = torch.randperm(scale.pool, generator=generator(seed, "start"))[: scale.start]
    model, rows = bench.trained(known, stream(seed, "round", 0)), []
    for number in track(range(scale.rounds + 1), f"{arm}, seed {seed}"):
        if number:
            known, model = _round(bench, arm, seed, number, known, model)
        rows.append({"labels": len(known), "validation": bench.validated(model)})
    rows[-1] |= bench.measured(model)
    rows[-1]["again"] = bench.measured(bench.trained(known, stream(seed, "again")))["robust"]
    return rows


def _round(bench: Bench, arm: str, seed: int, number: int, known: Tensor, model: Trained) -> tuple[Tensor, Trained]:
    def draw(*name: int) -> torch.Generator:
        return generator(seed, "draw", number, *name)

    weights = stream(seed, "round", number)
    if arm in RULES:
        known = torch.cat([known, bench.batch(RULES[arm], known, model, draw(0))])
        return known, bench.trained(known, weights)
    best: tuple[float, Tensor, Trained] | None = None
    for trial in range(bench.scale.tries):
        batch = bench.batch(Random(), known, model, draw(trial if arm == "oracle" else 0))
        grown = torch.cat([known, batch])
        tried = bench.trained(grown, weights if arm == "oracle" else stream(weights, trial))
        score = bench.validated(tried)
        if best is None or score > best[0]:
            best = score, grown, tried
    assert best is not None
    return best[1], best[2]


def table(found: dict[str, dict[int, list[dict[str, float]]]]) -> str:
    """Markdown: an arm a row, at the end: means over seeds, and the paired difference to Random."""
    lines = [
        "| arm | seeds | labels | clean | robust | less Random, by seed | again | less Random, by seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, seeds in found.items():
        last = {seed: rows[-1] for seed, rows in seeds.items()}
        cells = [arm, str(len(last)), f"{next(iter(last.values()))['labels']:,}", _mean(last, "clean")]
        for figure in ("robust", "again"):
            pairs = [
                f"{100 * (row[figure] - found['Random'][seed][-1][figure]):+.1f}"
                for seed, row in last.items()
                if arm != "Random" and seed in found.get("Random", {})
            ]
            cells += [_mean(last, figure), ", ".join(pairs)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: dict[int, dict[str, float]], name: str) -> str:
    return f"{100 * statistics.mean(row[name] for row in rows.values()):.1f}"


def main() -> None:
    """Compute what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with MNIST; else ROBAL_DATA, else ./data")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "greedy-oracle")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="the digits, small and short")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scale = QUICK if given.quick else Scale()
    bench = cache(Bench.of)  # read when something is missing
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for seed in given.seeds:
        for arm in given.arms:
            file = given.out / f"{arm}-{seed}.json"
            if not file.exists():
                rows = carried_out(bench(scale, given.data), arm, seed)
                file.parent.mkdir(parents=True, exist_ok=True)
                write(file, json.dumps({"scale": asdict(scale), "rounds": rows}, indent=1) + "\n")
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["scale"] != asdict(scale):
                raise SystemExit(f"{file} is of another scale: name another folder by --out")
            found.setdefault(arm, {})[seed] = kept["rounds"]
    print(table(found))


if __name__ == "__main__":
    main()
