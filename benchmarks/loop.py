"""The dre-mnist loop in time: the released protocol in a plain loop, the same in robal's kernels, and robal's own way.

    python benchmarks/loop.py --data DATA              # one epoch of each of the first six rounds
    python benchmarks/loop.py --data DATA --run OUT    # robal's way, all 24 rounds, AutoAttack at the end
    python benchmarks/loop.py --data DATA --run OUT --alone  # the same without the pool as training data

The released protocol (arXiv 2112.02542 and its code): a round adds 200 labels and trains ten epochs by PGD-40, batch
100; after each epoch PGD-50 attacks 5,000 validation images to choose one. The epochs of a round cost the same, so one
of each round is timed and counted ten times, and 24 rounds follow by the number of images: both extrapolations are
printed as such. Processor seconds of one thread. robal's own way needs no validation labels and few steps of crafting;
its time is that of a whole `robal run`, round 0 and the evaluation of each round included, and it counts only with the
robust accuracy that it ends with.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD
from robal.datasets import load
from robal.evaluation import under_attack
from robal.networks import LeNet5DRE
from robal.objectives import Adversarial
from robal.pool import Examples
from robal.threats import Linf
from robal.training import Recipe, Trained, fit

EPS, STEP, BATCH, ADDED, EPOCHS, ROUNDS, VALIDATION = 0.3, 0.01, 100, 200, 10, 24, 5_000
OWN = [
    "validation.images=0",
    "start.recipe.keep=last",
    "recipe={keep: last, keep_optimiser: false, budget: 300000, average: 0.99}",
    "recipe.schedule={name: Triangular, peak: 0.1}",
    "recipe.objective={name: Adversarial, attack: {name: PGD, steps: 10, step_size: 0.05, random_start: true}}",
    "recipe.optimiser={name: Adam, lr: 0.002}",
]
POOL = [
    "recipe.pool.share=0.1",
    "recipe.pool.teacher={objective: Natural, budget: 50000, batch_size: 50, average: 0.99, warm_start: false}",
    "recipe.pool.teacher.optimiser={name: Adam, lr: 0.002}",
    "recipe.pool.teacher.schedule=Cosine",
    "recipe.pool.teacher.augmentation={name: CropFlip, pad: 2, flip: false}",
]


def plain_attack(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> Tensor:
    """PGD as the usual repositories write it."""
    moved = inputs.clone()
    for _ in range(steps):
        moved.requires_grad_()
        model.zero_grad()
        F.cross_entropy(model(moved), labels).backward()
        assert moved.grad is not None
        ahead = moved.detach() + STEP * moved.grad.sign()
        moved = torch.minimum(torch.maximum(ahead, inputs - EPS), inputs + EPS).clamp(0, 1)
    return moved.detach()


def plain_epoch(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One epoch of PGD-40 training."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for some in torch.randperm(len(images)).split(BATCH):
        moved = plain_attack(model.eval(), images[some], labels[some], 40)
        optimiser.zero_grad()
        F.cross_entropy(model.train()(moved), labels[some]).backward()
        optimiser.step()


def plain_validation(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """PGD-50 on all validation images."""
    model.eval()
    for some in torch.arange(len(images)).split(BATCH):
        model(plain_attack(model, images[some], labels[some], 50)).argmax(1)


def our_epoch(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The same epoch by `fit`."""
    attack = PGD(40, STEP, random_start=False, threat=Linf(EPS))
    recipe = Recipe(Adversarial(attack), epochs=1, batch_size=BATCH)
    fit(recipe, Examples.of(images, labels), None, Trained(model), None, 0)


def our_validation(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The same validation by `under_attack`, on the images that are not wrong already, as robal does."""
    under_attack(model, images, labels, PGD(50, STEP, threat=Linf(EPS)), 0)


def seconds(
    work: Callable[[nn.Module, Tensor, Tensor], None], model: nn.Module, images: Tensor, labels: Tensor
) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    work(model, images, labels)
    return time.process_time() - started


def measured(data: Path | None, rounds: int) -> None:
    """Time epochs and validations of the first rounds, print the protocol's whole time."""
    mnist = load("mnist", data, resize=32)
    images, labels = mnist.images.float() / 255, mnist.labels
    held, truth = images[-VALIDATION:], labels[-VALIDATION:]
    model = LeNet5DRE()((1, 32, 32), 10, 0)
    quick = Recipe(Adversarial(PGD(3, 0.15, threat=Linf(EPS))), budget=500_000, batch_size=BATCH, ramp=0.25)
    model = fit(quick, Examples.of(images[:1_000], labels[:1_000]), None, Trained(model), None, 0).model

    def own_copy() -> nn.Module:
        """The same model each time, in torch's own memory layout, as a user's is."""
        return copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]

    found: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        count = ADDED * (number + 1)
        for name, work in (("plain", plain_epoch), ("robal", our_epoch)):
            found.setdefault(f"{name}, an epoch", []).append(seconds(work, own_copy(), images[:count], labels[:count]))
        for name, work in (("plain", plain_validation), ("robal", our_validation)):
            found.setdefault(f"{name}, validation", []).append(seconds(work, own_copy(), held, truth))
        print(f"round {number}:", {name: round(values[-1], 1) for name, values in found.items()}, flush=True)
    trained_on = sum(ADDED * (number + 1) for number in range(1, rounds + 1))
    in_all = sum(ADDED * (number + 1) for number in range(1, ROUNDS + 1))
    for name in ("plain", "robal"):
        training = EPOCHS * sum(found[f"{name}, an epoch"]) * in_all / trained_on
        validation = EPOCHS * sum(found[f"{name}, validation"]) * ROUNDS / rounds
        print(f"{name}: 24 rounds, extrapolated: {training:,.0f} s of training, {validation:,.0f} s of validation")


def own(data: Path | None, out: Path, is_alone: bool) -> None:
    """robal's way through the same 24 rounds: its time, and what it ends with."""
    shown = ["run", "--preset", "dre-mnist", *OWN, *([] if is_alone else POOL), "--out", str(out)]
    print("robal", shlex.join(shown), flush=True)
    source = {} if data is None else {"ROBAL_DATA": str(data.resolve())}
    robal = Path(sys.executable).with_name("robal")
    subprocess.run([robal, *shown], check=True, env={**os.environ, **source, "OMP_NUM_THREADS": "1"})
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = {name: round(sum(row["times"][name] for row in rows)) for name in rows[-1]["times"]}
    print(f"{spent.ru_utime + spent.ru_stime:.0f} s of the processor in all, evaluation too; on the clock {wall}")
    print(f"clean {rows[-1]['accuracy']}, robust {rows[-1]['robust_accuracy']}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with MNIST; else ROBAL_DATA, else ./data")
    parser.add_argument("--rounds", type=int, default=6, help="how many rounds of the released protocol are timed")
    parser.add_argument("--run", type=Path, metavar="OUT", help="instead: robal's way, in this run folder")
    parser.add_argument("--alone", action="store_true", help="with --run: trained on bought images alone")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if given.run:
        own(given.data, given.run, given.alone)
    else:
        measured(given.data, given.rounds)


if __name__ == "__main__":
    main()
