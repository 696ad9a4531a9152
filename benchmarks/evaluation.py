"""robal's evaluation beside pyautoattack called bare: the same verdicts, in how much of the time; and the monitor.

    python benchmarks/evaluation.py --images 200                   # the embedded digits (about ten minutes)
    python benchmarks/evaluation.py --images 500 --data DATA       # MNIST

An adversarially trained LeNet5, processor seconds of one thread, all in one run on the same images.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import TypeVar

import pyautoattack
import torch
from torch import Tensor, nn

from robal.attacks import PGD, Attack, AutoAttack, Monitor
from robal.data import Data
from robal.datasets import load
from robal.evaluation import clean, evaluate_attack, under_attack
from robal.images import unit
from robal.networks import LeNet5
from robal.objectives import Adversarial, Natural
from robal.pool import Examples
from robal.threats import Linf
from robal.training import Adam, Recipe, Trained, Triangular, fit

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and processor seconds."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def trained(images: Tensor, labels: Tensor, eps: float, epochs: int, seed: int = 0) -> nn.Module:
    """LeNet5, naturally and then adversarially trained."""
    examples = Examples.of(images, labels)
    start = fit(Recipe(Natural(), epochs=5, batch_size=100, optimiser=Adam(2e-3)), examples, None,
                Trained(LeNet5()(tuple(images.shape[1:]), 10, seed)), None, seed)  # fmt: skip
    for part in (0.5, 1.0):  # ε grows, or training at 0.3 does not begin
        attack = PGD(steps=10, step_size=0.25 * part * eps, threat=Linf(part * eps))
        recipe = Recipe(Adversarial(attack), epochs=epochs, batch_size=100, optimiser=Adam(2e-3), schedule=Triangular())
        start = fit(recipe, examples, None, start, None, seed)
    return start.model


def bare(model: nn.Module, inputs: Tensor, labels: Tensor, eps: float) -> Tensor:
    """[N] bool: what stands, by pyautoattack as anybody would call it: on a model in torch's own memory layout."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    attack = pyautoattack.AutoAttack(model, eps=eps, norm="Linf", seed=0)
    moved, _ = attack.run_standard_evaluation(inputs, labels, batch_size=250)
    with torch.no_grad():
        return model(moved).argmax(1) == labels


def main() -> None:
    """Print a line a contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--data", help="a folder that holds MNIST; else the embedded digits")
    parser.add_argument("--name", default="mnist", help="with --data: mnist, fashion-mnist or cifar10")
    parser.add_argument("--eps", type=float, default=None, help="else 0.3 for mnist, 8/255 for cifar10, 0.1")
    parser.add_argument("--epochs", type=int, default=3, help="of adversarial training, twice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.data:
        dataset = load(arguments.name, arguments.data)
        images, labels = dataset.images[:15_000], dataset.labels[:15_000]
        held = Data.from_dataset(dataset).validation  # the last training images: the test split is not looked at
        assert held is not None
        inputs, truth = held.images.at_rest(torch.arange(len(held))), held.labels
    else:
        digits = load("digits")
        images, labels, inputs, truth = (
            digits.images[:1200],
            digits.labels[:1200],
            digits.images[1200:],
            digits.labels[1200:],
        )
    eps = arguments.eps or ({"mnist": 0.3, "cifar10": 8 / 255}.get(arguments.name, 0.1) if arguments.data else 0.1)
    epochs = arguments.epochs if arguments.data else 10 * arguments.epochs
    model, seconds = timed(lambda: trained(images, labels, eps, epochs).eval())
    inputs, truth = unit(inputs[: arguments.images]), truth[: arguments.images]
    print(f"LeNet5 trained in {seconds:.0f} s, {len(truth)} images, Linf {eps:g}, torch {torch.__version__}")
    print(f"clean {clean(model, inputs, truth).accuracy:.1%}", flush=True)
    plain, whole = timed(lambda: bare(model, inputs, truth, eps))
    print(f"pyautoattack, bare   {plain.double().mean():.1%} {whole:8.1f} s", flush=True)
    ledger, ours = timed(lambda: evaluate_attack(model, inputs, truth, AutoAttack(threat=Linf(eps)), 0))
    same = int((ledger.verdicts.correct == plain).sum())
    print(
        f"robal, AutoAttack    {ledger.verdicts.accuracy:.1%} {ours:8.1f} s  {ours / whole:.2f} of it; "
        f"{same} of {len(truth)} verdicts the same; {ledger.counts}",
        flush=True,
    )
    monitors: tuple[Attack, ...] = (Monitor(threat=Linf(eps)), Monitor(square=0, threat=Linf(eps)))
    for monitor, what in zip(
        (*monitors, PGD(50, threat=Linf(eps))), ("monitor", "without Square", "PGD-50"), strict=True
    ):
        verdicts, took = timed(lambda monitor=monitor: under_attack(model, inputs, truth, monitor, 0))
        gap = 100 * (verdicts.accuracy - ledger.verdicts.accuracy)
        print(
            f"{what:20} {verdicts.accuracy:.1%} {took:8.1f} s  {took / ours:.2f} of AutoAttack's, {gap:+.1f} points",
            flush=True,
        )


if __name__ == "__main__":
    main()
