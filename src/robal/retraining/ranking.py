"""Ordering a test set by expected fault: somebody's model, somebody's images, no training."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from robal.acquisition import Acquisition, DistanceSurprise, LikelihoodSurprise, is_score, needs_of
from robal.acquisition.acquisition import choose_with_scores, parts_of
from robal.candidates import Candidates
from robal.datasets import load
from robal.engines import Engine, Local
from robal.errors import InputError
from robal.files import write_csv
from robal.images import InMemory, Joined, files_at
from robal.new_images import in_channels, in_classes
from robal.oracles.csv_file import word_of
from robal.parquet import ParquetImages, is_parquet, version_of
from robal.pictures import contact_sheet
from robal.plans import read_component
from robal.pool import UNLABELLED, Pool
from robal.progress import say
from robal.report.drawing import INK, MUTED, SERIES, Drawing, canvas, draw, legend_above, style
from robal.report.page import store
from robal.retraining.faults import apfd, fault_curve
from robal.seeds import generator
from robal.selection import (
    Offered,
    built_network,
    check_place,
    in_another_order,
    offered_by,
    read_images,
    read_labels,
    say_order,
    snapshots_of,
)
from robal.source import canonical
from robal.threats import parse, with_threat

_SHEET = 200  # images in the picture


@dataclass(frozen=True, eq=False)
class Ranking:
    """Images in the order in which a tester should look at them.

    Args:
        indices: [n] int64, positions in the data set: by score, the likeliest fault first; or as a joint choice has it.
        scores: [n] in that order, or None for a joint choice without scores.
        predicted: [n] int64, what the model says of them.
        labels: [n] int64, what is known, -1 elsewhere.
        by: the name of what ordered them.
        dataset: what was ordered.
        classes: the K names.
        is_joint: whether all were chosen at once, so that their order says little.
        is_whole: whether these are all images there are, not the first few alone.
        given: {position: class, or SKIPPED or NONE_OF_THESE} of what a person said beside the labels of the data set.
    """

    indices: Tensor
    scores: Tensor | None
    predicted: Tensor
    labels: Tensor
    by: str
    dataset: Offered
    classes: tuple[str, ...]
    is_joint: bool = False
    is_whole: bool = True
    given: Mapping[int, int] = field(default_factory=dict)

    @property
    def faults(self) -> Tensor:
        """[known] bool, in order, of the images whose label is known: whether the model errs."""
        known = self.labels >= 0
        return (self.predicted != self.labels)[known]

    @property
    def has_apfd(self) -> bool:
        """Whether these are all images, their labels are known, and there is a fault: labels of the first few, which a
        person looked at, tell nothing of those that come after."""
        return self.is_whole and len(self.faults) == len(self.indices) and bool(self.faults.any())

    @property
    def figures(self) -> dict[str, float | int | None]:
        """What an order is judged by; empty where no label is known."""
        faults = self.faults
        if not len(faults):
            return {}
        return {
            "images": len(faults),
            "faults": int(faults.sum()),
            "apfd": apfd(faults) if self.has_apfd else None,
            "best": 1 - int(faults.sum()) / (2 * len(faults)) if self.has_apfd else None,
            "first_100": int(faults[:100].sum()),
        }

    def save(self, path: Path) -> tuple[Path, Path | None]:
        """Write the CSV file, beside it a PNG of the first images and, where all labels are known, one of faults found.

        Columns: order, index, file (where images are files), predicted, score (empty where there is none), true and
        fault (1 or 0; both empty where no label is known), and label, for a person to fill in, which `robal rank
        --labelled` reads. Returns the paths of the two pictures.
        """
        was_there, curve = path.is_file(), path.with_name(f"{path.stem}-faults.png")
        files, table = files_at(self.dataset.images, self.indices), list[list[object]]()
        scores = ["" for _ in self.indices] if self.scores is None else [f"{one:.6g}" for one in self.scores.tolist()]
        rows = zip(self.indices.tolist(), self.predicted.tolist(), scores, self.labels.tolist(), strict=True)
        for order, (index, predicted, score, label) in enumerate(rows):
            file = [files[order]] if files else []
            known = [self.classes[label], int(predicted != label)] if label >= 0 else ["", ""]
            said = word_of(self.given[index], self.classes) if index in self.given else ""
            table.append([order, index, *file, self.classes[predicted], score, *known, said])
        columns = ["order", "index", *(["file"] if files else []), "predicted", "score", "true", "fault", "label"]
        write_csv(path, columns, table)
        sheet = path.with_suffix(".png")
        titles = [self.classes[one] for one in self.predicted.tolist()]
        contact_sheet(sheet, self.dataset.images, self.indices, titles, most=_SHEET)
        if not self.has_apfd:
            if was_there and not curve.with_suffix(".csv").exists():
                curve.unlink(missing_ok=True)  # of the order that was there
            return sheet, None
        store(curve, drawing(self).png)
        return sheet, curve


def drawing(ranking: Ranking) -> Drawing:
    """Faults found against images looked at, beside a random order and the best one there is."""
    faults, curve = ranking.faults, fault_curve(ranking.faults)
    looked, best = torch.arange(1, len(faults) + 1), faults.sort(descending=True, stable=True).values
    with style():
        figure = canvas(4.6, 3.0)
        axes = figure.add_subplot()
        axes.plot(looked, 100 * curve, color=SERIES[0], label=ranking.by)
        axes.plot(looked, 100 * fault_curve(best), color=INK, linewidth=1, label="all faults first")
        axes.plot(looked, 100 * looked / len(faults), color=MUTED, linewidth=1, linestyle="--", label="random order")
        axes.set_xlabel("images looked at")
        axes.set_ylabel("faults found [%]")
        axes.set_xlim(0, len(faults))
        axes.set_ylim(0, 102)
        axes.grid(axis="y")
        legend_above(axes, 3)
        return draw("faults", f"Share of faults found against images looked at, in the order of {ranking.by}.", figure)


def rank_from_files(
    model: str,
    images: str,
    out: Path,
    *,
    weights: Path | None = None,
    by: str = "DeepGini",
    first: int | None = None,
    train: str | None = None,
    classes: str | None = None,
    labelled: Sequence[Path] = (),
    resize: int | None = None,
    threat: str | None = None,
    seed: int = 0,
    folder: Path | None = None,
    device: str = "auto",
    engine: Engine | None = None,
) -> Ranking:
    """`robal rank` as a function; its arguments are those of the command line, as text.

    Raises:
        PlanError, DataError, InputError, RunFolderError: each says what was expected, what came and what to do; before
            anything is ordered, if `out` cannot be written.
    """
    check_place(out, images)
    written = _written(out)
    if out.resolve() in {path.resolve() for path in labelled}:
        raise InputError(f"{out} holds labels, which would be lost; name another file by --out")
    method = read_component(Acquisition, by, "by")
    method = method if threat is None else with_threat(method, parse(threat))
    if needs_of(method) - {"snapshots"}:
        raise InputError(f"{type(method).__name__} needs {' and '.join(sorted(needs_of(method)))} beside the model")
    known = None if train is None else _known(train, folder, resize)
    if known is None and any(isinstance(part, LikelihoodSurprise | DistanceSurprise) for part in parts_of(method)):
        raise InputError(f"{type(method).__name__} compares with what the model was trained on: give --train")
    if known is not None and not bool((known.labels >= 0).any()):
        raise InputError(f"{known.name} has no labelled image, and a model was trained on some: name others by --train")
    is_trained_on = train is not None and version_of(canonical(images))[0] == version_of(canonical(train))[0]
    tested, names = _tested(images, folder, resize, classes, known, is_trained_on)
    if first is not None and not 1 <= first <= len(tested):
        raise InputError(f"--first {first}, and {tested.name} has {len(tested):,} images to order")
    if weights is not None and classes is None:
        say_order(names, images if train is None else train)
    labels = in_classes(tested, tested.labels, names) if tested.classes else tested.labels.clone()
    own, given = labels.clone(), read_labels(labelled, names, tested)
    for index, label in given.items():
        if labels[index] >= 0 and label >= 0 and labels[index] != label:
            raise InputError(
                f"image {index} is {names[labels[index]]} in {tested.name} and {names[label]} by --labelled"
            )
        labels[index] = label if label >= 0 else labels[index]
    if any(index not in given or word_of(given[index], names) != text for index, text in written.items()):
        raise InputError(
            f"{out} holds labels, which would be lost; name another file by --out, and this one by --labelled"
        )
    pixels, in_pool = tested.images, torch.full((len(tested),), UNLABELLED)
    if known is not None:
        if known.images.shape[0] != pixels.shape[0]:  # a Parquet pool is as it is
            raise InputError(
                f"the images of {known.name} have {known.images.shape[0]} channels, those to order {pixels.shape[0]}: "
                "give them as a folder or an .npz file, whose colours are made to fit"
            )
        if known.images.shape != pixels.shape:
            raise InputError(
                f"the images of {known.name} are {list(known.images.shape)}, those to order "
                f"{list(pixels.shape)}: give a size for both by --resize"
            )
        pixels = Joined((pixels, known.images))
        theirs = in_classes(known, known.labels, names)
        if not bool((theirs >= 0).any()):
            raise InputError(f"{known.name} has no labelled image of {', '.join(names)}")
        in_pool = torch.cat([in_pool, theirs])
    candidates = Candidates(
        built_network(model, weights, tested.images.shape, len(names), device),
        Pool(pixels, in_pool, names),
        torch.arange(len(tested)),
        engine or Local(),
        snapshots=() if weights is None else snapshots_of(weights),
    )
    held = (own >= 0).nonzero().flatten()  # what a person labelled are the likeliest faults, and no sample
    if weights is not None and len(held):
        problem = in_another_order(candidates.logits.argmax(1)[held], own[held], names, tested.name)
        if problem:
            say(problem)
    order, scores = choose_with_scores(method, candidates, first or len(tested), generator(seed, "rank"))
    predicted = candidates.logits.argmax(1)[order]
    by_name, is_joint = type(method).__name__, not is_score(method)
    is_whole = len(order) == len(tested)
    return Ranking(order, scores, predicted, labels[order], by_name, tested, names, is_joint, is_whole, given)


def _written(out: Path) -> dict[int, str]:
    """{image number: label} that a person filled in, in an order that is there already; empty where there is none.

    Raises:
        InputError: where the file is no order of images.
    """
    if not out.is_file():
        return {}
    with out.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        if not {"index", "predicted", "fault"} <= set(rows.fieldnames or []):
            raise InputError(f"{out} holds no order of images, and would be lost; name another file by --out")
        said = {row["index"] or "": (row.get("label") or "").strip() for row in rows}
    return {int(index) if index.isdecimal() else UNLABELLED: text for index, text in said.items() if text}


def _known(train: str, folder: Path | None, resize: int | None) -> Offered:
    """What the model was trained on: a data set's training images."""
    if is_parquet(train):
        return offered_by(train, folder, resize, None)[0]
    dataset = load(train, folder, resize=resize)
    return Offered(dataset.name, InMemory(dataset.images), dataset.labels, dataset.classes)


def _tested(
    images: str,
    folder: Path | None,
    resize: int | None,
    said: str | None,
    known: Offered | None,
    is_trained_on: bool,
) -> tuple[Offered, tuple[str, ...]]:
    """What is ordered, a data set's test split, or all of it where it has none; and the names of the classes.

    `known` is what the model was trained on: grey or in colours, and of what classes unless somebody says.

    Raises:
        InputError: where that is what the model was trained on.
    """
    tests, given = None, known.classes if known is not None and said is None else None
    if is_parquet(images):
        offered, names = offered_by(images, folder, resize, said or given)
        stored = ParquetImages(images)
        apart = stored.at(stored.rows_in("test"))
        if len(apart):
            tests = Offered(offered.name, apart, apart.labels, offered.classes)
    else:
        if given is not None:
            dataset, names = load(images, folder, resize=resize, classes=given), given
        else:
            dataset, names = read_images(images, folder, resize, said)
        dataset = dataset if known is None else in_channels(dataset, known.images.shape[0])
        offered = Offered(dataset.name, InMemory(dataset.images, dataset.files), dataset.labels, dataset.classes)
        if dataset.test_images is not None and dataset.test_labels is not None:
            memory = InMemory(dataset.test_images, dataset.test_files)
            tests = Offered(dataset.name, memory, dataset.test_labels, dataset.classes)
    if tests is None and is_trained_on:
        raise InputError(f"{offered.name} has no test images: name others than the model was trained on by --images")
    return tests or offered, names
