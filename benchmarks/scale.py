"""What choosing costs on large pools on disk: seconds and memory against a plain pass, up to a million images.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --data DATA --work /tmp/scale     # 10⁴, 10⁵, 10⁶ images: half an hour
    OMP_NUM_THREADS=1 python benchmarks/scale.py --data DATA --only Margin --sizes 1000000
    OMP_NUM_THREADS=1 python benchmarks/scale.py --quick                           # digits, 10³ and 10⁴

The pools are MNIST's training images, each time moved by up to three pixels and turned by up to 15 degrees, one Parquet
file each, made under --work and kept there. LeNet5 as it is before training, 200 images chosen by `robal.select`, one
thread; each row in a process of its own, whose peak memory is that of everything: torch, the model, the file's pages
in use. The plain pass reads the same file in batches of 128, as the engine does, and keeps the logits.
Targets: 1.10 times the plain pass for scores of the outputs, and 2 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from robal.acquisition import DFAL, DRE, CoreSet, Margin, Subsample, select
from robal.datasets import Dataset, load
from robal.networks import LeNet5
from robal.parquet import ParquetImages, Row, write_parquet
from robal.progress import track
from robal.seeds import generator
from robal.training import Affine

RULES = {
    "Margin": Margin(),
    "DRE": DRE(),
    "CoreSet of 20,000 drawn": Subsample(CoreSet(), 20_000),
    "DFAL, 10 candidates an image": DFAL(),
}


def moved(dataset: Dataset, count: int) -> Iterator[Row]:
    """`count` images, the data set's over and over, each moved and turned a little; the same ones each time."""
    move = Affine(rotation=15, scale=0.0, shear=0.0, shift=0.1)
    for start in track(range(0, count, 1_000), f"making {count:,} images"):
        which = torch.arange(start, min(start + 1_000, count)) % len(dataset)
        pixels = move(dataset.images[which].float() / 255, generator(start, "scale")).mul(255).round().to(torch.uint8)
        for image, label in zip(pixels.numpy(), dataset.labels[which].tolist(), strict=True):
            yield Row(image, label)


def plain(images: ParquetImages) -> None:
    """Logits of all images, and nothing else."""
    model = LeNet5()(images.shape, 10, 0).eval()
    with torch.no_grad():
        torch.cat([model(images.batch(part)) for part in torch.arange(len(images)).split(128)])


def measured(path: Path, rule: str) -> dict[str, float]:
    """Seconds of processor and peak memory [MB] of one rule, in this process."""
    images = ParquetImages(path)
    model = LeNet5()(images.shape, 10, 0)
    started = time.process_time()
    if rule == "plain pass":
        plain(images)
    else:
        select(RULES[rule], model, images, 200)
    return {"seconds": time.process_time() - started, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Read the command line, make the pools, time each row in a process of its own, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with the data sets; else ROBAL_DATA")
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--sizes", type=int, nargs="*")
    parser.add_argument("--only", nargs="*", choices=list(RULES))
    parser.add_argument("--quick", action="store_true", help="digits, small pools")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "RULE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(Path(given.measure[0]), given.measure[1])))
        return
    source = load("digits" if given.quick else "mnist", given.data)
    given.work.mkdir(parents=True, exist_ok=True)
    print("| images | rule | processor seconds | of the plain pass | peak MB |\n|---|---|---|---|---|")
    for size in given.sizes or ([1_000, 10_000] if given.quick else [10_000, 100_000, 1_000_000]):
        path = given.work / f"{source.name}-{size}.parquet"
        if not path.exists():
            channels, height, width = source.images.shape[1:]
            write_parquet(path, path.stem, moved(source, size), (channels, height, width), source.classes)
        passes = 0.0
        for rule in ["plain pass", *(given.only or RULES)]:
            command = [sys.executable, __file__, "--measure", str(path), rule]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            passes = found["seconds"] if rule == "plain pass" else passes
            ratio = found["seconds"] / passes
            print(f"| {size:,} | {rule} | {found['seconds']:.1f} | {ratio:.2f} | {found['MB']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
