"""Ordering a test set by expected fault: somebody's model, somebody's images, no training."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
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
from robal.new_images import in_classes
from robal.parquet import ParquetImages, is_parquet, version_of
from robal.pictures import contact_sheet
from robal.plans import read_component
from robal.pool import UNLABELLED, Pool
from robal.report.drawing import INK, MUTED, SERIES, Drawing, canvas, draw, legend_above, style
from robal.report.page import store
from robal.retraining.faults import apfd, fault_curve
from robal.seeds import generator
from robal.selection import (
    Offered,
    built_network,
    check_out,
    check_place,
    offered_by,
    read_images,
    read_labels,
    snapshots_of,
)
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
    """

    indices: Tensor
    scores: Tensor | None
    predicted: Tensor
    labels: Tensor
    by: str
    dataset: Offered
    classes: tuple[str, ...]
    is_joint: bool = False

    @property
    def faults(self) -> Tensor:
        """[known] bool, in order, of the images whose label is known: whether the model errs."""
        known = self.labels >= 0
        return (self.predicted != self.labels)[known]

    @property
    def figures(self) -> dict[str, float | int | None]:
        """What an order is judged by; empty where no label is known."""
        faults = self.faults
        if not len(faults):
            return {}
        return {
            "images": len(faults),
            "faults": int(faults.sum()),
            "apfd": apfd(faults),
            "best": 1 - int(faults.sum()) / (2 * len(faults)) if bool(faults.any()) else None,
            "first_100": int(faults[:100].sum()),
        }

    def save(self, path: Path) -> tuple[Path, Path | None]:
        """Write the CSV file, beside it a PNG of the first images and, where labels are known, one of faults found.

        Columns: order, index, file (where images are files), predicted, score (empty where there is none), true and
        fault (1 or 0; both empty where no label is known). Returns the paths of the two pictures.
        """
        files, table = files_at(self.dataset.images, self.indices), list[list[object]]()
        scores = ["" for _ in self.indices] if self.scores is None else [f"{one:.6g}" for one in self.scores.tolist()]
        rows = zip(self.indices.tolist(), self.predicted.tolist(), scores, self.labels.tolist(), strict=True)
        for order, (index, predicted, score, label) in enumerate(rows):
            file = [files[order]] if files else []
            known = [self.classes[label], int(predicted != label)] if label >= 0 else ["", ""]
            table.append([order, index, *file, self.classes[predicted], score, *known])
        columns = ["order", "index", *(["file"] if files else []), "predicted", "score", "true", "fault"]
        write_csv(path, columns, table)
        sheet = path.with_suffix(".png")
        titles = [self.classes[one] for one in self.predicted.tolist()]
        contact_sheet(sheet, self.dataset.images, self.indices, titles, most=_SHEET)
        curve = None
        if bool(self.faults.any()):
            curve = path.with_name(f"{path.stem}-faults.png")
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
    (check_out if {"index", "label"} <= _columns(out) else check_place)(out, images)
    if out.resolve() in {path.resolve() for path in labelled}:
        raise InputError(f"{out} holds labels, which would be lost; name another file by --out")
    method = read_component(Acquisition, by, "by")
    method = method if threat is None else with_threat(method, parse(threat))
    if needs_of(method) - {"snapshots"}:
        raise InputError(f"{type(method).__name__} needs {' and '.join(sorted(needs_of(method)))} beside the model")
    known = None if train is None else _known(train, folder, resize)
    if known is None and any(isinstance(part, LikelihoodSurprise | DistanceSurprise) for part in parts_of(method)):
        raise InputError(f"{type(method).__name__} compares with what the model was trained on: give --train")
    said = None if known is None or classes is not None else known.classes
    tested, names = _tested(
        images,
        folder,
        resize,
        classes,
        said,
        is_trained_on=train is not None and version_of(images)[0].resolve() == version_of(train)[0].resolve(),
    )
    labels = in_classes(tested, tested.labels, names) if tested.classes else tested.labels.clone()
    for index, label in read_labels(labelled, names, tested).items():
        if labels[index] >= 0 and label >= 0 and labels[index] != label:
            raise InputError(
                f"image {index} is {names[labels[index]]} in {tested.name} and {names[label]} by --labelled"
            )
        labels[index] = label if label >= 0 else labels[index]
    pixels, in_pool = tested.images, torch.full((len(tested),), UNLABELLED)
    if known is not None:
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
    order, scores = choose_with_scores(method, candidates, len(tested), generator(seed, "rank"))
    predicted = candidates.logits.argmax(1)[order]
    by_name, is_joint = type(method).__name__, not is_score(method)
    return Ranking(order, scores, predicted, labels[order], by_name, tested, names, is_joint)


def _columns(path: Path) -> set[str]:
    """Those of a CSV file; none where there is no such file."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return set(next(csv.reader(file), []))


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
    known: tuple[str, ...] | None,
    is_trained_on: bool,
) -> tuple[Offered, tuple[str, ...]]:
    """What is ordered, a data set's test split, or all of it where it has none; and the names of the classes.

    Raises:
        InputError: where that is what the model was trained on.
    """
    tests = None
    if is_parquet(images):
        offered, names = offered_by(images, folder, resize, ",".join(known) if known and not said else said)
        stored = ParquetImages(images)
        apart = stored.at(stored.rows_in("test"))
        if len(apart):
            tests = Offered(offered.name, apart, apart.labels, offered.classes)
    else:
        if known is not None:
            dataset, names = load(images, folder, resize=resize, classes=known), known
        else:
            dataset, names = read_images(images, folder, resize, said)
        offered = Offered(dataset.name, InMemory(dataset.images, dataset.files), dataset.labels, dataset.classes)
        if dataset.test_images is not None and dataset.test_labels is not None:
            memory = InMemory(dataset.test_images, dataset.test_files)
            tests = Offered(dataset.name, memory, dataset.test_labels, dataset.classes)
    if tests is None and is_trained_on:
        raise InputError(f"{offered.name} has no test images: name others than the model was trained on by --images")
    return tests or offered, names
