"""Choosing alone, without a run: somebody's model, somebody's images, and a list of those worth labelling."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robal.acquisition import Acquisition, Score
from robal.acquisition.acquisition import choose_with_scores
from robal.candidates import Candidates
from robal.datasets import Dataset, load
from robal.errors import DataMissing, InputError
from robal.files import write
from robal.images import InMemory
from robal.networks import Architecture, Custom, channels_last, load_weights
from robal.oracles.csv_file import parse_label, read_rows
from robal.plan import device_of
from robal.plans import read_component
from robal.pool import UNLABELLED, Pool
from robal.progress import say
from robal.records import contact_sheet
from robal.scores import entropy
from robal.seeds import generator
from robal.threats import parse, with_threat


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, and what the model thinks of it.

    Args:
        indices: [n] int64, positions in the data set, in order of choice.
        scores: [n], higher = earlier, or None for a joint choice without scores.
        predicted: [n] int64, the most likely class.
        entropies: [n], nats.
        by: the name of the acquisition function.
        candidates: how many there were to choose from.
        dataset: what was chosen from.
        classes: the names of the classes.
    """

    indices: Tensor
    scores: Tensor | None
    predicted: Tensor
    entropies: Tensor
    by: str
    candidates: int
    dataset: Dataset
    classes: tuple[str, ...]

    def save(self, path: Path) -> Path:
        """Write the CSV file, and beside it a PNG that shows the images with their numbers; returns the PNG's path.

        Columns: order, index, file (where images are files), predicted, entropy, score (empty where there is none),
        and label, to be filled in: `robal select --labelled` and the oracle `CSVFile` read index and label.
        """
        named = bool(self.dataset.files)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["order", "index", *(["file"] if named else []), "predicted", "entropy", "score", "label"])
        for order, index in enumerate(self.indices.tolist()):
            file = [self.dataset.files[index]] if named else []
            score = "" if self.scores is None else f"{self.scores[order].item():.6g}"
            predicted = self.classes[self.predicted[order]]
            writer.writerow([order, index, *file, predicted, f"{self.entropies[order].item():.4f}", score, ""])
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text.getvalue())
        sheet = path.with_suffix(".png")
        titles = [str(index) for index in self.indices.tolist()]
        contact_sheet(sheet, InMemory(self.dataset.images), self.indices, titles, most=1000)
        return sheet


def select_from_files(
    model: str,
    images: str,
    n: int,
    weights: Path | None = None,
    acquisition: str = "DRE",
    classes: str | None = None,
    labelled: Path | None = None,
    resize: int | None = None,
    threat: str | None = None,
    seed: int = 0,
    folder: Path | None = None,
    device: str = "auto",
) -> Selection:
    """`robal select` as a function; its arguments are those of the command line, as text.

    Raises:
        PlanError, DataError, InputError, PoolExhausted: each says what was expected, what came and what to do.
    """
    method = read_component(Acquisition, acquisition, "acquisition")
    if threat is not None:
        method = with_threat(method, parse(threat))
    network = Custom(model) if ":" in model and "{" not in model else read_component(Architecture, model, "model")
    dataset = load(images, folder, resize=resize)
    names = class_names(dataset, classes)
    labels = known_labels(dataset, names, {} if labelled is None else _read_labels(labelled, names))
    shape = (dataset.images.shape[1], dataset.images.shape[2], dataset.images.shape[3])
    built = network(shape, len(names), 0)
    if weights is not None:
        load_weights(built, weights)
    elif not isinstance(network, Custom):
        say(f"{model} without weights knows nothing yet: give --weights")
    pool = Pool(InMemory(dataset.images), labels, names)
    candidates = Candidates(channels_last(built.to(device_of(device))).eval(), pool, pool.candidates)
    return selection(method, candidates, n, seed, dataset)


def selection(
    acquisition: Acquisition | Score, candidates: Candidates, n: int, seed: int, dataset: Dataset
) -> Selection:
    """Choose n of the candidates, and say what the model thinks of them."""
    chosen, scores = choose_with_scores(acquisition, candidates, n, generator(seed, "select"))
    probs = candidates.probs[torch.searchsorted(candidates.indices, chosen)]
    by = type(acquisition).__name__
    return Selection(
        chosen, scores, probs.argmax(1), entropy(probs), by, len(candidates), dataset, candidates.pool.classes
    )


def class_names(dataset: Dataset, said: str | None) -> tuple[str, ...]:
    """The names of the classes: as said ("10", or "cat,dog"), else the data set's.

    >>> class_names(load("digits"), "3")
    ('0', '1', '2')

    Raises:
        InputError: where nobody says.
    """
    if said is not None:
        names = tuple(name.strip() for name in said.split(","))
        return tuple(str(number) for number in range(int(said))) if said.strip().isdecimal() else names
    if not dataset.classes:
        raise InputError(f"{dataset.name} names no classes: give --classes 10, or --classes cat,dog")
    return dataset.classes


def known_labels(dataset: Dataset, classes: tuple[str, ...], given: dict[int, int]) -> Tensor:
    """[N] int64: what is known of the labels, -1 where nothing is.

    The data set's own labels count where some images have none. Where all have one, as in a benchmark, all images are
    candidates. `given`, image number to class number, comes on top.

    Raises:
        InputError: for an image number outside the data set.
    """
    own = classes == dataset.classes and bool((dataset.labels < 0).any())
    labels = dataset.labels.clone() if own else torch.full((len(dataset),), UNLABELLED)
    for index, label in given.items():
        if index >= len(dataset):
            raise InputError(f"image {index} is said to be labelled; {dataset.name} has {len(dataset)}, counted from 0")
        labels[index] = label
    return labels


def _read_labels(path: Path, classes: tuple[str, ...]) -> dict[int, int]:
    if not path.exists():
        raise DataMissing(f"there is no file {path}; it should have the columns index and label")
    return {index: parse_label(text, classes, f"{path}, image {index}") for index, text in read_rows(path) if text}
