"""How much faster robal crafts than a plain, tight PGD loop, in one run, pair by pair; and that both reach one loss.

The plain loop is what a careful reader of the PGD paper would write: gradients of the inputs alone, in the default
layout, model in eval mode. robal folds the BatchNorm and lays weights out in channels_last (`robal.attacks.crafting`).

    python benchmarks/crafting.py [--steps 40] [--batch 256] [--pairs 7] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, perturb
from robal.networks import LeNet5, LeNet5DRE, ResNet18, frozen
from robal.seeds import generator
from robal.threats import Linf

EPS, STEP = 0.3, 0.01


def plain_loop(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> Tensor:
    """PGD without random start."""
    low, high = (inputs - EPS).clamp(0, 1), (inputs + EPS).clamp(0, 1)
    moved = inputs.clone()
    for _ in range(steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
        moved = torch.minimum(torch.maximum(moved.detach() + STEP * gradient.sign(), low), high)
    return moved


def main() -> None:
    """Time both in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"PGD-{arguments.steps}, batch {arguments.batch}, {arguments.threads} thread(s), torch {torch.__version__}")
    print(f"{'network':10} {'plain':>9} {'robal':>9}   images/s, medians   {'ratio':>6} (min, max)   loss plain, robal")
    for name, network, shape in (
        ("LeNet5", LeNet5(), (1, 28, 28)),
        ("LeNet5DRE", LeNet5DRE(), (1, 32, 32)),
        ("ResNet18", ResNet18(), (3, 32, 32)),
    ):
        small = name == "ResNet18"  # a few images and steps of it show the ratio
        batch, steps = (16, 5) if small else (arguments.batch, arguments.steps)
        compare(name, network(shape, 10, 0), shape, batch, steps, arguments.pairs)


def compare(name: str, model: nn.Module, shape: tuple[int, int, int], batch: int, steps: int, pairs: int) -> None:
    """One line of the table."""
    noise = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch, *shape, generator=noise)
    labels = torch.randint(10, (batch,), generator=noise)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # BatchNorm statistics as training leaves them
            model(inputs)
    attack = PGD(steps=steps, step_size=STEP, random_start=False, threat=Linf(EPS))
    times: dict[str, list[float]] = {"plain": [], "robal": []}
    losses = {}
    for pair in range(pairs + 1):
        for kind in ("plain", "robal") if pair % 2 else ("robal", "plain"):
            started = time.perf_counter()
            if kind == "plain":
                model.eval()
                moved = plain_loop(model, inputs, labels, steps)
            else:
                moved = perturb(attack, model, inputs, labels, generator(0), check=False)
            if pair:  # the first pair warms up
                times[kind].append(time.perf_counter() - started)
            with frozen(model), torch.no_grad():
                losses[kind] = F.cross_entropy(model(moved), labels).item()
    ratios = [plain / ours for plain, ours in zip(times["plain"], times["robal"], strict=True)]
    rate = {kind: batch / statistics.median(values) for kind, values in times.items()}
    print(
        f"{name:10} {rate['plain']:9.1f} {rate['robal']:9.1f}   {'':19} {statistics.median(ratios):6.2f} "
        f"({min(ratios):.2f}, {max(ratios):.2f})   {losses['plain']:.5f}, {losses['robal']:.5f}"
    )


if __name__ == "__main__":
    main()
