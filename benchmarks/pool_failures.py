"""Where training on the pool could fail: small pools, long tails, near-duplicates, unknown classes, poisoned pools.

    python benchmarks/pool_failures.py --data DATA               # MNIST and CIFAR-10: hours
    python benchmarks/pool_failures.py --data DATA --only tail   # tail-labels and tail-pool
    python benchmarks/pool_failures.py --quick --out runs/quick  # stand-ins for the data: five minutes

A run folder a case and seed, its data beside it as .npz; finished runs are looked up, killed ones go on. The test is
the last 5,000 training images, which are not in the pool: no test image is looked at. Budgets are gradient evaluations
in all: on MNIST a third is the teacher's and a fifteenth the witness's, on CIFAR-10 three tenths and three twentieths.
The images to buy lie where a start by `Random` asks for them, so that runs of one seed on the same images buy the same.
A run whose teacher collapsed, so that its pool was left out, is counted, and tells nothing of the teacher's labels.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from robal import presets
from robal.datasets import Dataset, load
from robal.evaluation import predict
from robal.files import whole, write
from robal.folder import RunFolder
from robal.loop import load as load_state
from robal.loop import step
from robal.oracles.csv_file import write_rows
from robal.plan import Plan
from robal.plan_checks import check
from robal.plans import read_plan
from robal.records import check_same_run, digest, same_numerics, write_records
from robal.seeds import generator
from robal.state import State
from robal.training import Trained

ORDINARY, ODD, TARGET = 0, 1, 2  # what a pool image is; target number i is TARGET + i
ANIMALS = torch.tensor([2, 3, 4, 5, 6, 7])  # of CIFAR-10; its other classes are vehicles
Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How large everything is; `path` is the poison for one target, as a share of the pool."""

    budget: int = 3_000_000
    cifar_budget: int = 400_000
    labels: int = 1_000
    cifar_labels: int = 4_000
    small: int = 5_000
    middle: int = 20_000
    held_out: int = 5_000
    targets: int = 10
    path: float = 0.001
    evaluation: str = "{images: 500, each_round: [], at_end: [Monitor]}"
    teacher: str = "{}"


_FEW = "{images: 50, each_round: [], at_end: [{name: Monitor, steps: 3, square: 0}]}"
_SMALL = "{batch_size: 25, unlabelled_batch: 25, average: 0.9}"  # more steps for the money
QUICK = Scale(30_000, 9_000, 100, 100, 300, 600, held_out=300, targets=4, path=0.02, evaluation=_FEW, teacher=_SMALL)


@dataclass(frozen=True, eq=False)
class Part:
    """The pool, the images to buy first, and the test; `role` as above; `wanted`, what targets should be called."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    role: Tensor
    wanted: tuple[int, ...] = ()

    def only(self, chosen: Tensor) -> Part:
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], role=self.role[chosen])

    def tested_on(self, chosen: Tensor) -> Part:
        return replace(self, test_images=self.test_images[chosen], test_labels=self.test_labels[chosen])


@dataclass(frozen=True)
class Case:
    """A part by seed, how many of its images are bought, and what is changed in the plan."""

    part: Callable[[int], Part]
    labels: int
    settings: tuple[str, ...]


def mixed(dataset: Dataset, held_out: int, seed: int) -> Part:
    """The training images in an order drawn by `seed`, but for the last `held_out`, which are the test."""
    count = len(dataset) - held_out
    order = torch.randperm(count, generator=generator(seed, "pool failures"))
    tests = dataset.images[count:], dataset.labels[count:]
    return Part(dataset.images[order], dataset.labels[order], *tests, dataset.classes, torch.full((count,), ORDINARY))


def rank_in_class(labels: Tensor) -> Tensor:
    """How many earlier ones are of the same class: 0, 0, 1 of the labels 5, 3, 5."""
    same = labels[:, None] == torch.arange(int(labels.max()) + 1)
    return same.cumsum(0).gather(1, labels[:, None]).flatten() - 1


def long_tail(part: Part, seed: int, factor: float = 100.0) -> Part:
    """n_0 factor^(-k / (K - 1)) images of class k, n_0 as there are of the rarest; a balanced test, classes in turn."""
    most, ranks = part.labels.bincount().min(), rank_in_class(part.test_labels)
    wanted = (most * factor ** -torch.linspace(0, 1, len(part.classes))).round()
    turns = ranks.argsort(stable=True)
    even = turns[ranks[turns] < part.test_labels.bincount().min()]
    kept = (rank_in_class(part.labels) < wanted[part.labels]).nonzero().flatten()
    again = torch.randperm(len(kept), generator=generator(seed, "long tail"))  # the first ones were balanced
    return part.only(kept[again]).tested_on(even)


def near_duplicates(part: Part, seed: int) -> Part:
    """The first fifth and four copies of it, each image moved by up to one pixel, with noise of 2 in 255."""
    fifth, draw = len(part.labels) // 5, generator(seed, "duplicates")
    copied = part.only(torch.arange(5 * fifth) % fifth)
    moves = torch.randint(-1, 2, (5 * fifth, 2), generator=draw)
    moves[:fifth] = 0
    moved = [image.roll(move, (1, 2)) for image, move in zip(copied.images, moves.tolist(), strict=True)]
    noise = 2 * torch.randn(copied.images.shape, generator=draw)
    noise[:fifth] = 0
    return replace(copied, images=(torch.stack(moved) + noise).round().clamp(0, 255).to(torch.uint8))


def animals(part: Part, with_vehicles: bool) -> Part:
    """Animals alone in the test and, to begin with, in the pool; then vehicles without a label, if wanted."""
    number = torch.full((len(part.classes),), -1)
    number[ANIMALS] = torch.arange(len(ANIMALS))
    labels, classes = number[part.labels], tuple(part.classes[label] for label in ANIMALS)
    known, unknown = (labels >= 0).nonzero().flatten(), (labels < 0).nonzero().flatten()
    tested = number[part.test_labels]
    part = replace(
        part, labels=labels, test_labels=tested, classes=classes, role=torch.where(labels < 0, ODD, ORDINARY)
    )
    return part.only(torch.cat([known, unknown]) if with_vehicles else known).tested_on(tested >= 0)


def along(points: int) -> Tensor:
    """[points] in (0, 1], the last one 1, denser towards 0: quantiles of the density 1.5 - x."""
    return 1.5 - (2.25 - 2 * torch.arange(1, points + 1) / points).sqrt()


def poisoned(part: Part, seed: int, bought: int, targets: int, points: int) -> Part:
    """For each of `targets` test images `points` images, on the line from a bought one of another class to itself.

    The last one is the target, and with one point there is no other. They take the place of the pool's last images.
    Source: Carlini, USENIX Security 2021, arXiv 2105.01622, with pixels mixed evenly and one density.
    """
    draw, lines, labels, wanted = generator(seed, "poison"), [], [], []
    share = along(points).view(-1, 1, 1, 1)
    for target in torch.randperm(len(part.test_labels), generator=draw)[:targets]:
        others = (part.labels[:bought] != part.test_labels[target]).nonzero().flatten()
        source = others[torch.randint(len(others), (1,), generator=draw)].squeeze()
        lines.append(((1 - share) * part.images[source] + share * part.test_images[target]).round().to(torch.uint8))
        labels.append(torch.where(share.flatten() < 0.5, part.labels[source], part.test_labels[target]))
        wanted.append(int(part.labels[source]))
    role = torch.full((targets, points), ODD)
    role[:, -1] = TARGET + torch.arange(targets)
    kept = part.only(torch.arange(len(part.labels) - targets * points))
    images, named = torch.cat([kept.images, *lines]), torch.cat([kept.labels, *labels])
    return replace(kept, images=images, labels=named, role=torch.cat([kept.role, role.flatten()]), wanted=tuple(wanted))


def arranged(part: Part, bought: int, seed: int) -> Part:
    """The same images in such an order that a start of `bought` labels by `Random` asks for the first ones."""
    asked = torch.randperm(len(part.labels), generator=generator(seed, "choose", 0))
    return part.only(torch.cat([asked[:bought], asked[bought:].sort().values]).argsort())


def trained(*settings: str) -> tuple[str, ...]:
    return tuple(f"{recipe}.{setting}" for recipe in ("start.recipe", "recipe") for setting in settings)


def filters(budget: int, crop: str) -> dict[str, tuple[str, ...]]:
    """By the ending of a case's name, what comes on top of training on the pool; `budget` is the witness's."""
    witness = f"objective: Natural, budget: {budget}, batch_size: 50, schedule: Cosine, average: 0.99, {crop}"
    witness += ", optimiser: {name: Adam, lr: 0.002}, warm_start: false"
    said = {"confidence": "pool.confidence=0.95", "witness": f"pool.witness={{{witness}}}"}
    return {name: trained(setting) for name, setting in said.items()}


def cases_of(scale: Scale, digits: Callable[[], Dataset], objects: Callable[[], Dataset]) -> dict[str, Case]:
    """All cases by name; `digits` gives MNIST and `objects` CIFAR-10, or what stands for them.

    A run's hidden labels have to be whole, so those of animals among vehicles are read from a file.
    """
    alone, bought, known = trained("pool=null"), scale.labels, scale.cifar_labels
    pool = trained(
        f"pool.teacher={scale.teacher}", f"pool.teacher.budget={scale.budget // 3}", f"budget={scale.budget}"
    )
    budget, crop = scale.cifar_budget, "augmentation: {name: CropFlip, pad: 2, flip: false}"
    mirror = "augmentation: {name: CropFlip, pad: 4, flip: true}"
    teacher = f"objective: Natural, budget: {3 * budget // 10}, average: 0.99, {mirror}"
    own = trained(f"pool.teacher={{{teacher}}}", f"budget={budget}", "objective=NFGSM", "average=0.99")
    own += (*trained(mirror.replace(": ", "=", 1)), "threat.eps=8/255", "network=PreActResNet", "oracle=CSVFile")

    def some(seed: int, size: int | None = None) -> Part:
        part = mixed(digits(), scale.held_out, seed)
        return part.only(torch.arange(len(part.labels))[:size])

    def tail(seed: int) -> Part:
        return long_tail(some(seed), seed)

    def poison(seed: int, share: float = scale.path) -> Part:
        part = some(seed)
        return poisoned(part, seed, bought, scale.targets, max(1, round(share * len(part.labels))))

    def mixture(seed: int, with_vehicles: bool = True) -> Part:
        return animals(mixed(objects(), scale.held_out, seed), with_vehicles)

    def left_out(seed: int) -> Part:
        return mixture(seed, with_vehicles=False)

    found = {
        "mnist-labels": Case(some, bought, pool + alone),
        "mnist-small": Case(lambda seed: some(seed, scale.small), bought, pool),
        "mnist-middle": Case(lambda seed: some(seed, scale.middle), bought, pool),
        "mnist-all": Case(some, bought, pool),
        "tail-labels": Case(tail, bought, pool + alone),
        "tail-pool": Case(tail, bought, pool),
        "duplicates": Case(lambda seed: near_duplicates(some(seed, scale.middle), seed), bought, pool),
        "unknown-labels": Case(left_out, known, own + alone),
        "unknown-out": Case(left_out, known, own),
        "unknown-in": Case(mixture, known, own),
    }
    for name, more in filters(3 * budget // 20, mirror).items():
        found[f"unknown-{name}"] = Case(mixture, known, own + more)
    found |= {
        "poison-control": Case(lambda seed: poison(seed, 0), bought, pool),
        "poison-tenth": Case(lambda seed: poison(seed, scale.path / 10), bought, pool),
        "poison-full": Case(poison, bought, pool),
    }
    for name, more in filters(scale.budget // 15, crop).items():
        found[f"poison-{name}"] = Case(poison, bought, pool + more)
    return found


def carried_out(case: Case, seed: int, folder: Path, evaluation: str) -> Figures:
    """Run a case, or go on with it, or look up how it ended."""
    data = json.dumps({"name": str(folder.with_suffix(".npz")), "held_out_images": 0})
    settings = (f"data={data}", f"start.labels={case.labels}", f"seed={seed}", f"evaluation={evaluation}")
    plan = read_plan(None, (*settings, *case.settings), yaml.safe_load(presets.text("few-labels-mnist")))
    results = folder / "result.json"
    if results.exists():
        ended = json.loads(results.read_text(encoding="utf-8"))
        if ended["plan"] != digest(plan):
            raise SystemExit(f"{folder} holds a run of another plan; choose another --out")
        return dict(ended["figures"])
    part = arranged(case.part(seed), case.labels, seed)
    save(part, folder)
    found = figures(part, case.labels, *ended_run(plan, folder))
    write(results, json.dumps({"plan": digest(plan), "figures": found}, indent=1) + "\n")
    return found


def save(part: Part, folder: Path) -> None:
    """The data set beside the run folder; in the folder the labels, for an oracle that reads them there."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(part, name).numpy() for name in ("images", "labels", "test_images", "test_labels")}
    with whole(folder.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, classes=np.array(part.classes), **arrays)
    names = [part.classes[label] if label >= 0 else "none" for label in part.labels.tolist()]
    write_rows(folder / "labels.csv", list(enumerate(names)))


def ended_run(plan: Plan, folder: Path) -> tuple[State, Trained]:
    """As `robal.run`, but with what training left behind: its pseudo-labels are written nowhere."""
    data = plan.data.load()
    check(plan, data)
    with RunFolder(folder).locked() as place:
        check_same_run(place, plan, data)
        write_records(place, plan, data)
        with same_numerics(place):
            state, left = load_state(plan, data, place)
            if state.history:
                raise SystemExit(f"{folder} was killed between its end and the result: delete it and begin again")
            while not state.history:
                state, left = step(plan, data, state, left, place)
    return state, left


def figures(part: Part, labels: int, state: State, left: Trained) -> Figures:
    """What the table shows, rates in percent; "accepted" and "right" are of ordinary images that were not bought."""
    row, bought = state.history[0], state.pool.labels >= 0
    if int(bought.sum()) != labels or bool(part.role[bought].any()):
        raise SystemExit("the start did not ask for the images that it should have asked for")
    ((attack, robust),) = row["robust_accuracy"].items()
    counts = {"pool": float(len(part.labels)), "n": float(row["images"][attack])}
    rates = {"clean": row["accuracy"], "Monitor": robust}
    if left.guesses is not None:
        rates["collapsed"] = float(left.teacher is None)
    if left.guesses is not None and left.teacher is not None:
        guesses, ordinary = torch.full((len(part.labels),), -1), (part.role == ORDINARY) & ~bought
        guesses[~bought] = left.guesses
        rates["accepted"] = share(guesses[ordinary] >= 0)
        rates["right"] = share((guesses == part.labels)[ordinary & (guesses >= 0)])
        rates |= special(part, guesses, left.teacher, left.model)
    if not part.role.any():
        under = [rate for rate in row["per_class"]["robust_accuracy"][attack] if rate is not None]
        rates |= {"worst class: clean": min(row["per_class"]["accuracy"]), "worst class: Monitor": min(under)}
    return counts | {name: 100 * rate for name, rate in rates.items() if rate is not None}


def special(part: Part, guesses: Tensor, teacher: nn.Module, model: nn.Module) -> dict[str, float | None]:
    """What became of images of unknown classes, or of poison; `guesses` are pseudo-labels, -1 where there is none."""
    odd, targets = share(guesses[part.role == ODD] >= 0), part.role >= TARGET
    if not part.wanted:
        return {"unknown accepted": odd}
    wanted = torch.tensor(part.wanted)[part.role[targets] - TARGET]
    return {
        "as the poisoner wants: the teacher": share(predict(teacher, part.images[targets]) == wanted),
        "the pseudo-label": share(guesses[targets] == wanted),
        "the robust model": share(predict(model, part.images[targets]) == wanted),
        "poison accepted": odd,
    }


def share(claims: Tensor) -> float | None:
    """Of the claims, how many hold; None where there are none."""
    return float(claims.double().mean()) if len(claims) else None


def table(found: dict[str, list[Figures]]) -> str:
    """A line a case, in Markdown: the mean of the seeds, and the lowest and highest where they differ."""

    def shown(runs: list[Figures], name: str, digits: int = 1) -> str:
        values = [run[name] for run in runs if name in run] or [float("nan")]
        span = f" ({min(values):.{digits}f}–{max(values):.{digits}f})" if min(values) < max(values) else ""
        return f"{statistics.mean(values):,.{digits}f}{span}".replace("nan", "–")

    columns = ("right", "accepted", "clean", "Monitor")
    lines = ["| case | pool | seeds | teacher right % | accepted % | clean % | Monitor % (n images) | special, % |"]
    lines.append("|---" * 8 + "|")
    for name, runs in found.items():
        cells = [name, shown(runs, "pool", 0), str(len(runs)), *(shown(runs, column) for column in columns)]
        further = dict.fromkeys(key for run in runs for key in run if key not in ("pool", "n", *columns))
        if not any(run.get("collapsed") for run in runs):
            further.pop("collapsed", None)
        told = ", ".join(f"{key} {shown(runs, key)}" for key in further)
        lines.append(f"| {' | '.join(cells)} ({runs[0]['n']:.0f}) | {told} |")
    return "\n".join(lines)


def coloured(count: int = 900) -> Dataset:
    """What stands for CIFAR-10: noise over a pattern for each of ten classes."""
    draw, labels = generator(0, "coloured"), torch.arange(count) % 10
    patterns = 255 * torch.rand(10, 3, 32, 32, generator=draw)
    images = (patterns[labels] + 60 * torch.randn(count, 3, 32, 32, generator=draw)).round().clamp(0, 255)
    return Dataset("coloured", images.to(torch.uint8), labels, tuple("0123456789"))


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the folder that holds MNIST, and CIFAR-10 too")
    parser.add_argument("--cifar-data", help="the folder that holds CIFAR-10, where it is another")
    parser.add_argument("--out", type=Path, default=Path("runs/pool-failures"))
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names, or their beginnings up to a hyphen")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--budget", type=int, help="gradient evaluations of a run on MNIST: 3,000,000")
    parser.add_argument("--cifar-budget", type=int, help="of one on CIFAR-10: 400,000")
    parser.add_argument("--quick", action="store_true", help="stand-ins for the data, and tiny budgets")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scale = QUICK if given.quick else Scale()
    scale = replace(scale, budget=given.budget or scale.budget, cifar_budget=given.cifar_budget or scale.cifar_budget)
    digits = cache(lambda: load("digits") if given.quick else load("mnist", given.data))
    objects = cache(lambda: coloured() if given.quick else load("cifar10", given.cifar_data or given.data))
    cases = cases_of(scale, digits, objects)
    wanted = given.only or list(cases)
    chosen = [name for name in cases if any(f"{name}-".startswith(f"{start}-") for start in wanted)]
    if not chosen:
        parser.error(f"--only takes some of {', '.join(cases)}")
    found: dict[str, list[Figures]] = {name: [] for name in chosen}
    for seed in range(given.seeds):
        for name in chosen:
            found[name].append(carried_out(cases[name], seed, given.out / f"{name}-{seed}", scale.evaluation))
            print(f"{name}, seed {seed}: {json.dumps(found[name][-1])}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
