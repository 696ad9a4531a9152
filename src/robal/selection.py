"""Choosing alone, without a run: somebody's model, somebody's images, and a list of those worth labelling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from robal.acquisition import Acquisition, Score, needs_of
from robal.acquisition.acquisition import choose_with_scores
from robal.candidates import Candidates
from robal.datasets import Dataset, load
from robal.engines import Engine, Local
from robal.errors import DataMissing, InputError
from robal.files import write_csv
from robal.images import Images, InMemory, files_at
from robal.networks import channels_last, load_weights
from robal.oracles.csv_file import further_columns, parse_label, read_rows
from robal.parquet import ParquetImages, is_parquet
from robal.pictures import contact_sheet
from robal.plan import device_of
from robal.plans import read_component, read_network
from robal.pool import UNLABELLED, Pool
from robal.progress import say
from robal.scores import entropy
from robal.seeds import generator
from robal.source import read_whole
from robal.threats import parse, with_threat
from robal.training.tensors import load_tensors, snapshots_in

_FEWEST = 20  # labels by which to tell in which order a model's outputs are


@dataclass(frozen=True, eq=False)
class Offered:
    """What is chosen from, wherever its pixels lie.

    Args:
        name: how messages call it.
        images: N images.
        labels: [N] int64, a position in `classes`; -1 where no label is known.
        classes: the K names; empty where nobody named any.
    """

    name: str
    images: Images
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def files(self) -> tuple[str, ...]:
        """N names, where images are files."""
        return files_at(self.images, torch.arange(len(self)))


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
    dataset: Offered
    classes: tuple[str, ...]

    def save(self, path: Path) -> Path:
        """Write the CSV file, and beside it a PNG that shows the images with their numbers; returns the PNG's path.

        Columns: order, index, file (where images are files), predicted, entropy, score (empty where there is none),
        and label, to be filled in: `robal select --labelled` and the oracle `CSVFile` read index and label.
        """
        files = files_at(self.dataset.images, self.indices)
        rows: list[list[object]] = []
        for order, index in enumerate(self.indices.tolist()):
            file = [files[order]] if files else []
            score = "" if self.scores is None or self.scores[order].isnan() else f"{self.scores[order].item():.6g}"
            predicted = self.classes[self.predicted[order]]
            rows.append([order, index, *file, predicted, f"{self.entropies[order].item():.4f}", score, ""])
        columns = ["order", "index", *(["file"] if files else []), "predicted", "entropy", "score", "label"]
        write_csv(path, columns, rows)
        sheet = path.with_suffix(".png")
        titles = [str(index) for index in self.indices.tolist()]
        contact_sheet(sheet, self.dataset.images, self.indices, titles, most=1000)
        return sheet


def select_from_files(
    model: str,
    images: str,
    n: int,
    out: Path,
    *,
    weights: Path | None = None,
    acquisition: str = "DRE",
    classes: str | None = None,
    labelled: Sequence[Path] = (),
    resize: int | None = None,
    threat: str | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    folder: Path | None = None,
    device: str = "auto",
    engine: Engine | None = None,
) -> Selection:
    """`robal select` as a function; its arguments are those of the command line, as text.

    Raises:
        PlanError, DataError, InputError, PoolExhausted, RunFolderError: each says what was expected, what came and
            what to do; before anything is chosen, if `out` cannot be written.
    """
    check_out(out, images)
    method = read_component(Acquisition, acquisition, "acquisition")
    if threat is not None:
        method = with_threat(method, parse(threat))
    dataset, names = offered_by(images, folder, resize, classes)
    labels = known_labels(dataset, names, read_labels(labelled, names, dataset))
    pool, shape = Pool(dataset.images, labels, names), dataset.images.shape
    built = built_network(model, weights, shape, len(names), device)
    candidates = Candidates(built, pool, pool.candidates, engine or Local())
    if weights is not None:
        candidates = replace(candidates, snapshots=snapshots_of(weights))
    if "teacher" in needs_of(method):
        if teacher is None:
            raise InputError(f"{type(method).__name__} needs a standard model beside the robust one: give --teacher")
        candidates = replace(candidates, teacher=built_network(model, teacher, shape, len(names), device))
    return selection(method, candidates, n, seed, dataset)


def built_network(name: str, weights: Path | None, shape: tuple[int, int, int], classes: int, device: str) -> nn.Module:
    """A network by its name or `module:function`, with saved weights, in eval mode on the device, as in a plan.

    Raises InputError and DataError as the network and `load_weights` do.
    """
    module = read_network(name)(shape, classes, 0)
    if weights is not None:
        load_weights(module, weights)
    return channels_last(module.to(device_of(device)), shape).eval()


def check_out(out: Path, images: str) -> None:
    """As `check_place`, and refuse to write over labels. Raises InputError."""
    check_place(out, images)
    if out.exists() and any(text for _, text in read_rows(out)):
        raise InputError(f"{out} holds labels, which would be lost; name another file by --out")


def check_place(out: Path, images: str) -> None:
    """Refuse a place where a CSV file and its picture cannot go. Raises InputError."""
    if out.suffix.lower() != ".csv" or (out.exists() and not out.is_file()):
        raise InputError(f"--out names a .csv file, such as query.csv; the picture goes beside it. {out} came")
    if Path(images).expanduser().is_dir() and Path(images).expanduser().resolve() in out.resolve().parents:
        raise InputError(f"{out} lies among the images, and its picture would become one of them; choose another place")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"{out.parent} is not to be written; name another file by --out")


def offered_by(
    images: str, folder: Path | None, resize: int | None, said: str | tuple[str, ...] | None
) -> tuple[Offered, tuple[str, ...]]:
    """The images to choose from, and the names of the classes, as `read_images`; those of a Parquet pool stay on disk.

    Raises:
        InputError: where nobody names the classes, or a Parquet pool should be resized.
    """
    if not is_parquet(images):
        dataset, names = read_images(images, folder, resize, said)
        memory = InMemory(dataset.images, dataset.files)
        return Offered(dataset.name, memory, dataset.labels, dataset.classes), names
    if resize is not None:
        raise InputError("a Parquet pool is used as it is: resize by `robal pool build`")
    stored = ParquetImages(images)
    classes = stored.classes
    names = classes if said is None else named_classes(said)
    if not names:
        raise InputError(f"{images} names no classes: give --classes 10, or --classes cat,dog")
    return Offered(stored.manifest.name, stored, stored.labels, classes), names


def named_classes(said: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes as said: "10", "cat,dog", or names. Raises InputError for fewer than two, or one twice.

    >>> named_classes("3")
    ('0', '1', '2')
    """
    if isinstance(said, str):
        names = tuple(name.strip() for name in said.split(","))
        names = tuple(str(number) for number in range(int(said))) if said.strip().isdecimal() else names
    else:
        names = said
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"--classes names at least two classes, each once; {said!r} came")
    return names


def say_order(names: Sequence[str], folder: str) -> None:
    """Say in which order a model's outputs are taken to be, where those who sort folders otherwise have another."""
    if Path(folder).expanduser().is_dir() and [*names] != sorted(names):
        say(f"the model's outputs are taken to be {', '.join(names)}; where they are in another order, --classes")


def in_another_order(predicted: Tensor, labels: Tensor, names: Sequence[str], where: str) -> str:
    """What to say of a model that is right far more often if its outputs are in another order; "" of any other.

    Args:
        predicted: [n] int64, its outputs, -1 where there is none.
        labels: [n] int64 in [0, K).
        names: the K classes in the order in which the outputs are taken to be.
        where: of what images these are.

    >>> said = in_another_order(torch.arange(20) % 2, (torch.arange(20) + 1) % 2, ("ant", "Bee"), "these")
    >>> said[said.index("and 20"):]
    'and 20 if its outputs are Bee, ant: --classes Bee,ant says it, or number the labels so'
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    sure = predicted >= 0  # not NaN
    predicted, labels = predicted[sure], labels[sure]
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    counts.index_put_((predicted, labels), torch.ones(len(labels), dtype=torch.int64), accumulate=True)
    outputs, of = linear_sum_assignment(counts.numpy(), maximize=True)
    right, would = int(counts.diagonal().sum()), int(counts[outputs, of].sum())
    if len(labels) < max(3 * len(names), _FEWEST) or would < len(labels) / 2 or would < 2 * right:
        return ""
    theirs = [names[label] for label in of]
    return (
        f"the model has {right:,} of {len(labels):,} images of {where} right, and {would:,} if its outputs are "
        f"{', '.join(theirs)}: --classes {','.join(theirs)} says it, or number the labels so"
    )


def read_images(
    images: str, folder: Path | None, resize: int | None, said: str | tuple[str, ...] | None
) -> tuple[Dataset, tuple[str, ...]]:
    """The data set, and the names of the classes: as said ("10", or "cat,dog"), else the data set's.

    A folder whose sub-folders are none of the classes said (sorted by camera or date) is taken without labels.

    >>> read_images("digits", None, None, "3")[1]
    ('0', '1', '2')

    Raises:
        InputError: where nobody says.
    """
    names: tuple[str, ...] = () if said is None else named_classes(said)
    root = Path(images).expanduser()
    if names and root.is_dir() and not ((root / "train").is_dir() and (root / "test").is_dir()):
        dataset = load(images, folder, resize=resize, classes=names)
    else:
        dataset = read_whole(images, folder, resize)
    if not (names or dataset.classes):
        raise InputError(f"{dataset.name} names no classes: give --classes 10, or --classes cat,dog")
    return dataset, names or dataset.classes


def selection(
    acquisition: Acquisition | Score, candidates: Candidates, n: int, seed: int, dataset: Offered
) -> Selection:
    """Choose n of the candidates, and say what the model thinks of them."""
    chosen, scores = choose_with_scores(acquisition, candidates, n, generator(seed, "select"))
    probs = candidates.only(torch.searchsorted(candidates.indices, chosen)).probs
    by = type(acquisition).__name__
    return Selection(
        chosen, scores, probs.argmax(1), entropy(probs), by, len(candidates), dataset, candidates.pool.classes
    )


def known_labels(dataset: Offered | Dataset, classes: tuple[str, ...], given: dict[int, int]) -> Tensor:
    """[N] int64: what is known of the labels, -1 where nothing is.

    The data set's own labels count where some images have none. Where all have one, as in a benchmark, all images are
    candidates. `given`, image number to class number, comes on top.

    Raises:
        InputError: for labels of classes that are not among `classes`.
    """
    labels = torch.full((len(dataset),), UNLABELLED)
    if bool((dataset.labels < 0).any()) and bool((dataset.labels >= 0).any()):
        labels = renumbered(dataset.labels, dataset, classes)
    for index, label in given.items():
        labels[index] = label
    return labels


def renumbered(labels: Tensor, dataset: Offered | Dataset, classes: tuple[str, ...]) -> Tensor:
    """Labels of the data set, positions in its own classes, as positions in `classes`; -1 stays.

    Raises:
        InputError: for a class of the data set that is not among `classes`.
    """
    strange = [name for name in dataset.classes if name not in classes]
    if strange:
        raise InputError(f"{dataset.name} has images labelled {strange[0]!r}, which is none of {', '.join(classes)}")
    place = torch.tensor([classes.index(name) for name in dataset.classes])
    return torch.where(labels >= 0, place[labels.clamp_min(0)], UNLABELLED)


def read_labels(paths: Sequence[Path], classes: tuple[str, ...], dataset: Offered | Dataset) -> dict[int, int]:
    """{image number: class number} of CSV files with the columns index and label, and perhaps file.

    Where the column `file` is there and the image of that number is another file, the file counts: in a folder that has
    grown since, the numbers have moved.

    Raises:
        InputError: for a number or file that the data set does not have or has twice, or an image with two labels.
        DataMissing: for a CSV file that is not there.
    """
    found: dict[int, int] = {}
    files, numbers_of = dataset.files, dict[str, list[int]]()
    for number, name in enumerate(files):
        numbers_of.setdefault(name, []).append(number)
    for path in paths:
        if not path.is_file():
            raise DataMissing(f"there is no file {path}; it should have the columns index and label")
        rows = read_rows(path)  # which says what is wrong with a file
        columns, further = further_columns(path)
        for index, text in rows:
            if not text:
                continue
            number = index
            if "file" in columns and files:
                file = further[index][columns.index("file")]
                if file and (index >= len(files) or files[index] != file):
                    numbers = numbers_of.get(file, [])
                    if len(numbers) != 1:
                        what = f"has {len(numbers)} times" if numbers else "does not have"
                        raise InputError(f"{path}: image {index} is the file {file!r}, which {dataset.name} {what}")
                    number = numbers[0]
            if number >= len(dataset):
                raise InputError(f"image {number} is said to be labelled; {dataset.name} has {len(dataset)}, from 0 on")
            label = parse_label(text, classes, f"{path}, image {index}")
            if found.setdefault(number, label) != label:
                raise InputError(f"{path}: image {index} has two labels; leave one")
    return found


def snapshots_of(path: Path) -> tuple[dict[str, Tensor], ...]:
    """The snapshots of the training that the `model.safetensors` of a run's round holds; none in any other file."""
    tensors, _ = load_tensors(path)
    return tuple(snapshots_in(tensors))
