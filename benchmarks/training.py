"""What a step of adversarial training costs: robal beside a plain loop, each saving alone, and how near to the peak.

    python benchmarks/training.py --quick      # LeNet5 alone, two minutes
    python benchmarks/training.py              # ResNets too
    python benchmarks/training.py --device cuda

One step crafts with PGD-10 and takes one optimiser step. "plain" is the usual loop: gradients of all parameters at each
crafting step, torch's default memory layout. Each saving is added alone to the plain loop; "robal" is what `fit` does.
All are timed in turn in one run, on the same images, and the medians of the pairs' ratios are printed with minimum and
maximum. Peak: a large float32 matrix product on as many threads, in the same run. FLOPs are those of the plain layers
(2 · multiply-adds; the gradient of the inputs counts as a forward pass, that of the weights as another), so a faster
algorithm, or bfloat16, shows as a larger share. "robal, bfloat16" is a recipe's precision=bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from robal.attacks import PGD
from robal.networks import Architecture, LeNet5, LeNet5DRE, PreActResNet, ResNet18, channels_last, frozen, in_bfloat16
from robal.objectives import NFGSM, Adversarial, Batch
from robal.seeds import generator
from robal.threats import Linf

STEPS = 10
Step = Callable[[], Tensor]


def plain(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Linf, kind: str) -> Tensor:
    """PGD-10 as most repositories write it, with one saving or none; the loss on the adversaries."""
    low, high = (inputs - threat.eps).clamp(0, 1), (inputs + threat.eps).clamp(0, 1)
    noise = torch.rand(inputs.shape, generator=generator(0, "noise")).to(inputs.device)
    moved = (inputs + (2 * noise - 1) * threat.eps).clamp(0, 1)
    model.eval()
    for _ in range(STEPS):
        moved.requires_grad_()
        if kind == "no parameter gradients":
            with frozen(model):
                (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels, reduction="sum"), moved)
        elif kind == "bfloat16 crafting":
            with torch.autocast(inputs.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(moved), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
        else:
            model.zero_grad()
            F.cross_entropy(model(moved), labels, reduction="sum").backward()
            assert moved.grad is not None
            gradient = moved.grad
        moved = torch.minimum(torch.maximum(moved.detach() + 0.25 * threat.eps * gradient.sign(), low), high)
    model.train()
    return F.cross_entropy(model(moved), labels)


def steps_of(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Linf) -> dict[str, Step]:
    """A training step of each kind, on a model of its own."""

    def step(kind: str) -> Step:
        mine = copy.deepcopy(model).train()
        optimiser = torch.optim.SGD(mine.parameters(), lr=1e-4)
        if kind == "channels_last" or kind.startswith("robal"):
            channels_last(mine)
        objective = Adversarial(PGD(STEPS, 0.25 * threat.eps, threat=threat))
        single = NFGSM(threat=threat)
        batch = Batch(inputs, labels, torch.ones(len(labels), device=labels.device))

        def take() -> Tensor:
            if kind.startswith("robal"):
                with in_bfloat16(mine, "bfloat16" in kind):
                    losses = (single if "N-FGSM" in kind else objective)(mine, None, batch, generator(0, "noise"))
                loss = losses.mean()
            else:
                loss = plain(mine, inputs, labels, threat, kind)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        return take

    crafted = ("plain", "no parameter gradients", "channels_last", "bfloat16 crafting", "robal", "robal, bfloat16")
    kinds = (*crafted, "robal, N-FGSM", "robal, N-FGSM, bfloat16")
    return {kind: step(kind) for kind in kinds}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, until its results are there."""
    wait = torch.cuda.synchronize if device.type == "cuda" else int
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def peak(device: torch.device) -> float:
    """GFLOP/s of a float32 matrix product, 1,024 a side (8,192 on a GPU), the best of ten."""
    side = 8192 if device.type == "cuda" else 1024
    one = torch.rand(side, side, device=device)
    return max(2 * side**3 / seconds(lambda: one @ one, device) / 1e9 for _ in range(10))


def compare(name: str, model: nn.Module, inputs: Tensor, threat: Linf, pairs: int) -> None:
    """One table."""
    labels = torch.randint(10, (len(inputs),), generator=generator(0, "labels")).to(inputs.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(inputs)
    forward, top = counter.get_total_flops(), peak(inputs.device)
    kinds = steps_of(model, inputs, labels, threat)
    for take in kinds.values():
        take()
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(pairs):
        for kind, take in kinds.items():
            spent[kind].append(seconds(take, inputs.device))
    losses = {kind: float(take()) for kind, take in kinds.items()}
    print(f"\n{name}, {len(inputs)} images a step, peak {top:.0f} GFLOP/s")
    print(f"{'':26}{'images/s':>9}  {'ratio (min, max)':22}{'GFLOP/s':>8}  {'of peak':>7}   loss")
    for kind, times in spent.items():
        ratios = sorted(other / mine for other, mine in zip(spent["plain"], times, strict=True))
        work = forward * (2 + 3 if "N-FGSM" in kind else 2 * STEPS + 3) / statistics.median(times) / 1e9
        shown = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}, {ratios[-1]:.2f})"
        rate = len(inputs) / statistics.median(times)
        print(f"{kind:26}{rate:9.0f}  {shown:22}{work:8.1f}  {work / top:7.0%}   {losses[kind]:.4f}", flush=True)


def main() -> None:
    """Print a table a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="LeNet5 alone, fewer repetitions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(arguments.threads)
    print(f"PGD-{STEPS} training, {device}, {arguments.threads} thread(s), torch {torch.__version__}")
    draw, pairs = generator(0, "images"), 5 if arguments.quick else 9

    def on(network: Architecture, count: int, channels: int, height: int, width: int) -> tuple[nn.Module, Tensor]:
        shape = channels, height, width
        return network(shape, 10, 0).to(device), torch.rand(count, *shape, generator=draw).to(device)

    compare("LeNet5", *on(LeNet5(), 128, 1, 28, 28), Linf(0.3), pairs)
    if not arguments.quick:
        compare("LeNet5DRE", *on(LeNet5DRE(), 128, 1, 32, 32), Linf(0.3), pairs)
        small = PreActResNet(widths=(16, 32, 64), blocks=1)
        compare("PreActResNet", *on(small, 128, 3, 32, 32), Linf(8 / 255), 3)
        many = 16 if device.type == "cpu" else 128
        compare("ResNet18", *on(ResNet18(), many, 3, 32, 32), Linf(8 / 255), 3)


if __name__ == "__main__":
    main()
