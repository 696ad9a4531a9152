"""How long it takes to order 60,000 images: robal's `rank` against a plain loop of forward passes, in one process.

    OMP_NUM_THREADS=1 python benchmarks/retraining.py --data DATA     # MNIST's training images, LeNet5, each in turn
    python benchmarks/retraining.py --quick                           # digits

The plain loop makes batches of 256 and keeps the logits: no order, no file. `rank` is timed whole but for reading the
data set: forward passes, scores, order, and the CSV file with its two pictures. Target: 1.2 times the passes. Passes
over what surprise compares with (`--known`) count as well, and are not in the plain loop.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from robal.datasets import load
from robal.networks import LeNet5
from robal.objectives import Natural
from robal.pool import Examples
from robal.retraining import rank_from_files
from robal.training import Recipe, Trained, fit

BY = ("DeepGini", "MaxEntropy", "Margin", "LogitMargin", "LinearisedDistance", "DistanceSurprise", "LikelihoodSurprise")


def main() -> None:
    """Read the command line, time everything in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with the data sets; else ROBAL_DATA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--known", type=int, default=1_000, help="labelled images that surprise compares with")
    parser.add_argument("--by", nargs="*", default=BY, help="only these")
    parser.add_argument("--quick", action="store_true", help="digits, once")
    given = parser.parse_args()
    dataset = load("digits" if given.quick else "mnist", given.data)
    few = Examples.of(dataset.images[:5_000], dataset.labels[:5_000])
    fresh = Trained(LeNet5()(tuple(dataset.images.shape[1:]), 10, 0))  # type: ignore[arg-type]
    model = fit(Recipe(Natural(), epochs=2), few, None, fresh, None, 0).model  # so that all classes are predicted
    plain: list[float] = []
    whole: dict[str, list[float]] = {name: [] for name in given.by}
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool.npz"
        known = Path(folder) / "known.npz"
        np.savez(pool, images=dataset.images.squeeze(1).numpy(), labels=dataset.labels.numpy())
        weights = Path(folder) / "weights.safetensors"
        save_file({name: one.contiguous() for name, one in model.state_dict().items()}, weights)
        first = slice(0, given.known)
        np.savez(known, images=dataset.images[first].squeeze(1).numpy(), labels=dataset.labels[first].numpy())
        started = time.process_time()
        load(str(pool))
        load(str(known))
        reading = time.process_time() - started
        for _ in range(1 if given.quick else given.repeats):
            started = time.process_time()
            with torch.no_grad():
                torch.cat([model(part.float() / 255) for part in dataset.images.split(256)])
            plain.append(time.process_time() - started)
            for name in given.by:
                started = time.process_time()
                train = str(known) if name.endswith("Surprise") else None
                out = Path(folder) / "order.csv"
                rank_from_files("LeNet5", str(pool), out, weights=weights, by=name, train=train).save(out)
                whole[name].append(time.process_time() - started - reading)
    passes = statistics.median(plain)
    print(f"| {len(dataset):,} images | processor seconds | of the plain passes ({passes:.2f} s) |\n|---|---|---|")
    for name, seconds in whole.items():
        print(f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(seconds) / passes:.2f} |")


if __name__ == "__main__":
    main()
