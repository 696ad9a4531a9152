"""What choosing costs on large pools on disk: seconds and memory against a plain pass, up to ten million images.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --data DATA --work /tmp/scale     # 10⁴, 10⁵, 10⁶ images: half an hour
    OMP_NUM_THREADS=1 python benchmarks/scale.py --data DATA --only Margin --sizes 1000000
    OMP_NUM_THREADS=1 python benchmarks/scale.py --every --sizes 1000000           # all acquisition functions
    OMP_NUM_THREADS=1 python benchmarks/scale.py --workers                         # Ray, 1 and 2 workers, idle cores
    OMP_NUM_THREADS=1 python benchmarks/scale.py --photographs                     # JPEG, 224 x 224
    OMP_NUM_THREADS=1 python benchmarks/scale.py --scores                          # 10⁷ images, scores simulated
    OMP_NUM_THREADS=1 python benchmarks/scale.py --quick                           # a little of each, on the digits

The pools are MNIST's training images, each time moved by up to three pixels and turned by up to 15 degrees, one Parquet
file each, made under --work and kept there. LeNet5 as it is before training, 200 images chosen by `robal.select`, one
thread; each row in a process of its own, whose peak memory is that of everything: torch, the model, the file's pages
in use. The plain pass reads the same file in batches of 128, as the engine does, and keeps the logits.
Targets: 1.10 times the plain pass for scores of the outputs, and 2 GB; Ray with two workers 1.5 times one worker.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from robal import acquisition
from robal.acquisition import DFAL, DRE, CoreSet, Margin, Subsample, dre, select
from robal.candidates import Candidates
from robal.datasets import Dataset, load
from robal.engines import Local, OnRay
from robal.networks import LeNet5
from robal.parquet import ParquetImages, Row, write_parquet
from robal.pool import Pool
from robal.progress import track
from robal.scores import entropy
from robal.seeds import generator
from robal.training import Affine

RULES: dict[str, Any] = {
    "Margin": Margin(),
    "DRE": DRE(),
    "CoreSet of 20,000 drawn": Subsample(CoreSet(), 20_000),
    "CoreSet of all": CoreSet(),
    "DFAL, 10 candidates an image": DFAL(),
}
# Acquisition functions that compare every image with every other, or that attack each: a share of the pool is drawn.
OF_SOME = {"ProbCover", "AdversarialEntropy", "ExcludeHard"}


def moved(dataset: Dataset, count: int) -> Iterator[Row]:
    """`count` images, the data set's over and over, each moved and turned a little; the same ones each time."""
    move = Affine(rotation=15, scale=0.0, shear=0.0, shift=0.1)
    for start in track(range(0, count, 1_000), f"making {count:,} images"):
        which = torch.arange(start, min(start + 1_000, count)) % len(dataset)
        pixels = move(dataset.images[which].float() / 255, generator(start, "scale")).mul(255).round().to(torch.uint8)
        for image, label in zip(pixels.numpy(), dataset.labels[which].tolist(), strict=True):
            yield Row(image, label)


def made(source: Dataset, work: Path, size: int) -> Path:
    """The file of so many moved images, made where it is not there."""
    path = work / f"{source.name}-{size}.parquet"
    if not path.exists():
        channels, height, width = source.images.shape[1:]
        write_parquet(path, path.stem, moved(source, size), (channels, height, width), source.classes)
    return path


def plain(images: ParquetImages) -> torch.Tensor:
    """Logits of all images, and nothing else."""
    model = LeNet5()(images.shape, 10, 0).eval()
    with torch.no_grad():
        return torch.cat([model(images.batch(part)) for part in torch.arange(len(images)).split(128)])


def activeml_margin(images: ParquetImages) -> None:
    """Margin by scikit-activeml, from probabilities."""
    from skactiveml.pool import uncertainty_scores

    np.argsort(-uncertainty_scores(plain(images).softmax(1).numpy(), method="margin_sampling"), kind="stable")[:200]


def activeml_coreset(images: ParquetImages) -> None:
    """CoreSet by scikit-activeml, on embeddings, the first thousand labelled."""
    from skactiveml.pool import CoreSet as Theirs

    model = LeNet5()(images.shape, 10, 0)
    candidates = Candidates(model, Pool.unlabelled(images, "0123456789"), torch.arange(len(images)))
    known = np.full(len(images), np.nan)
    known[:1_000] = 0
    Theirs(random_state=0).query(candidates.embeddings.numpy(), known, batch_size=200)


PEERS = {"scikit-activeml, Margin": activeml_margin, "scikit-activeml, CoreSet": activeml_coreset}


def small() -> nn.Module:
    """A network that costs next to nothing on 8 x 8 pixels, so that what is measured is the choosing."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 84), nn.ReLU(), nn.Dropout(0.1), nn.Linear(84, 10))


def every() -> dict[str, Any]:
    """All acquisition functions as they are by default, but for those that need more than a model."""
    found = {}
    for name in acquisition.__all__:
        kind = getattr(acquisition, name)
        if not (isinstance(kind, type) and name not in ("Acquisition", "Score", "OfTeacher", "ByProxy")):
            continue
        rule = kind()
        found[name] = Subsample(rule, 20_000) if name in OF_SOME else rule
    return found


def measured(path: Path, rule: str) -> dict[str, float]:
    """Seconds of processor and peak memory [MB] of one rule, in this process."""
    started = time.process_time()
    if rule.startswith("every:"):
        pixels = torch.from_numpy(np.load(path, mmap_mode="c"))
        labels = torch.full((len(pixels),), -1)
        labels[:1000] = torch.arange(1000) % 10
        method, model = every()[rule.removeprefix("every:")], small()
        more: dict[str, Any] = {}
        needs = acquisition.needs_of(method)
        if "teacher" in needs:
            more["teacher"] = small()
        if "snapshots" in needs:
            more["snapshots"] = [small().state_dict()] * 3
        pool = Pool(acquisition.acquisition.images_of(pixels), labels, tuple("0123456789"))
        started = time.process_time()
        select(method, model, pool, 200, engine=Local(1024), **more)
    elif rule == "plain pass":
        plain(ParquetImages(path))
    elif rule in PEERS:
        PEERS[rule](ParquetImages(path))
    else:
        images = ParquetImages(path)
        model = LeNet5()(images.shape, 10, 0)
        started = time.process_time()
        select(RULES[rule], model, images, 200)
    return {"seconds": time.process_time() - started, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def apart(path: Path, rule: str) -> Mapping[str, float]:
    """`measured`, in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(path), rule]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{rule}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def sizes(source: Dataset, work: Path, wanted: list[int], rules: list[str], chart: Path | None) -> None:
    """A table of rules against sizes of pools, and perhaps a chart of it."""
    print("| images | rule | processor seconds | of the plain pass | peak MB |\n|---|---|---|---|---|")
    rows = []
    for size in wanted:
        path, passes = made(source, work, size), 0.0
        for rule in ["plain pass", *rules]:
            found = apart(path, rule)
            passes = found["seconds"] if rule == "plain pass" else passes
            ratio = found["seconds"] / passes
            print(f"| {size:,} | {rule} | {found['seconds']:.1f} | {ratio:.2f} | {found['MB']:,.0f} |", flush=True)
            rows.append((rule, size, found))
    if chart is not None:
        draw(rows, chart)


def draw(rows: list[tuple[str, int, Mapping[str, float]]], path: Path) -> None:
    """Seconds and memory against the pool's size."""
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for axes, key, label in zip(both, ("seconds", "MB"), ("processor seconds", "peak memory, MB"), strict=True):
        for rule in dict.fromkeys(rule for rule, _, _ in rows):
            points = [(size, found[key]) for one, size, found in rows if one == rule]
            axes.plot(*zip(*points, strict=True), "-o", markersize=3, label=rule)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("images in the pool")
        axes.set_ylabel(label)
        axes.grid(visible=True, color="#e1e0d9")
        axes.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)


def each(work: Path, count: int, only: list[str]) -> None:
    """Seconds and memory of every acquisition function on `count` images of 8 x 8, mapped into memory."""
    path = work / f"digits-8x8-{count}.npy"
    if not path.exists():
        digits = load("digits", resize=8).images.numpy()
        made_of = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 1, 8, 8))
        draw_from = np.random.default_rng(0)
        for start in range(0, count, 100_000):
            stop = min(start + 100_000, count)
            noise = draw_from.integers(0, 40, (stop - start, 1, 8, 8))
            made_of[start:stop] = np.minimum(digits[np.arange(start, stop) % len(digits)] + noise, 255)
        made_of.flush()
    print("| acquisition function | processor seconds | peak MB |\n|---|---|---|")
    for name in only or every():
        found = apart(path, f"every:{name}")
        shown = f"{name}, of 20,000 drawn" if name in OF_SOME else name
        print(f"| {shown} | {found['seconds']:.1f} | {found['MB']:,.0f} |", flush=True)


def timed(work: Callable[[], Any]) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def workers(path: Path) -> None:
    """Ray with one and with two workers on idle cores: PGD's entropy of all images, seconds by the clock."""
    images = ParquetImages(path)
    model = LeNet5()(images.shape, 10, 0).eval()
    score = acquisition.AdversarialEntropy()
    chosen, seconds = {}, {}
    for count in (1, 2, 1, 2):
        engine = OnRay(workers=count, shard=1_024)
        select(Margin(), model, images, 10, engine=engine)  # processes begin
        found = []
        took = timed(lambda at=engine, into=found: into.append(select(score, model, images, 200, engine=at)))
        chosen[count] = found[0].tolist()
        seconds.setdefault(count, []).append(took)
        print(f"{count} workers: {took:.1f} s", flush=True)
    here = select(score, model, images, 200).tolist()
    best = {count: min(took) for count, took in seconds.items()}
    print(f"two workers are {best[1] / best[2]:.2f} times as fast as one; the same images as here: {chosen[2] == here}")


class Behind(ParquetImages):
    """Images that are read and decoded when the model waits for them."""

    reads_ahead = False  # type: ignore[assignment]


def photographs(work: Path, count: int) -> None:
    """Choosing from JPEG files of 224 x 224: as they are, and as pixels; and what decoding alone takes."""
    raw, kept = work / f"photos-raw-{count}.parquet", work / f"photos-jpeg-{count}.parquet"
    if not kept.exists():
        drawn, rows = np.random.default_rng(0), []
        for number in range(count):
            coarse = Image.fromarray(drawn.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((224, 224), 3)
            grain = drawn.integers(-12, 13, (224, 224, 3))
            pixels = np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8)
            held = io.BytesIO()
            Image.fromarray(pixels).save(held, "JPEG", quality=90)
            again = np.asarray(Image.open(held)).transpose(2, 0, 1)
            rows.append(Row(again, number % 10, encoded=held.getvalue()))
        write_parquet(raw, "photos", rows, (3, 224, 224), tuple("0123456789"))
        write_parquet(kept, "photos", rows, (3, 224, 224), tuple("0123456789"), "encoded")
    print(f"{count} JPEG files of {kept.stat().st_size / count / 1000:.0f} kB each")
    images = ParquetImages(kept)
    decoding = timed(lambda: [images.batch(part) for part in torch.arange(count).split(32)])
    print(f"decoding alone: {count / decoding:.0f} images/s")
    torch.manual_seed(0)
    block = [nn.Conv2d(3, 32, 7, 4), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 128, 3, 2), nn.ReLU()]
    model = nn.Sequential(*block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)).eval()
    for name, path in (("pixels", raw), ("JPEG", kept), ("JPEG, not read ahead", kept)):
        found = Behind(path) if "not" in name else ParquetImages(path)
        took = timed(lambda from_here=found: select(Margin(), model, from_here, 10, engine=Local(32)))
        print(f"Margin from {name}: {count / took:.0f} images/s, {took:.1f} s", flush=True)


def scores(count: int) -> None:
    """What DRE's choice takes once the scores of ten million images are there."""
    logits = torch.randn(count, 10, generator=generator(0, "scores")) * 2
    values = torch.cat([entropy(part.softmax(1)) for part in logits.split(2**20)])
    del logits
    took = timed(lambda: dre(values, 200, generator(0, "dre")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"DRE's 200 of {count:,} scores: {took:.2f} s; peak memory with the logits they came from {peak:,.0f} MB")


def main() -> None:
    """Read the command line, make the pools, measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with the data sets; else ROBAL_DATA")
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--sizes", type=int, nargs="*")
    parser.add_argument("--only", nargs="*", help="some of the rules, or acquisition functions")
    parser.add_argument("--chart", type=Path, help="draw seconds and memory against size: a PNG file")
    for what in ("every", "workers", "photographs", "scores", "quick"):
        parser.add_argument(f"--{what}", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "RULE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(Path(given.measure[0]), given.measure[1])))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    some = given.every or given.workers or given.photographs or given.scores
    if given.quick or not some:
        source = load("digits" if given.quick else "mnist", given.data)
        wanted = given.sizes or ([1_000, 10_000] if given.quick else [10_000, 100_000, 1_000_000])
        sizes(source, given.work, wanted, given.only or [*RULES, *PEERS], given.chart)
    if given.every or given.quick:
        wanted = ["DRE", "BADGE"] if given.quick else given.only or []
        each(given.work, (given.sizes or [10_000 if given.quick else 1_000_000])[-1], wanted)
    if given.workers:
        source = load("mnist", given.data)
        workers(made(source, given.work, (given.sizes or [30_000])[0]))
    if given.photographs or given.quick:
        photographs(given.work, 64 if given.quick else 1_000)
    if given.scores or given.quick:
        scores(100_000 if given.quick else 10_000_000)


if __name__ == "__main__":
    main()
