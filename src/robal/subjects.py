"""What `robal evaluate` evaluates: a run's last model or any other, its images, and attacks as they are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robal.attacks import PGD, Attack, AutoAttack, Square
from robal.datasets import Dataset
from robal.errors import InputError
from robal.folder import RunFolder
from robal.images import InMemory
from robal.other_models import initial
from robal.plans import read_component
from robal.records import plan_of
from robal.seeds import generator
from robal.selection import built_network, read_images, renumbered
from robal.source import read_whole
from robal.threats import Threat, parse
from robal.training import Trained

Device = Literal["auto", "cpu", "cuda"]

HEADLINE: tuple[Attack, ...] = (AutoAttack(), PGD(steps=50, restarts=20), Square(queries=20_000))
"""What figures that head a paper are measured by; `--attacks headline`."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated: a model and images with labels; the threat where a run names one; where the result goes.

    Args:
        model: in eval mode, on its device.
        pixels: [N, C, H, W] uint8.
        labels: [N] int64 in [0, K).
        classes: K names.
        about: what the reader should know.
        place: the folder for the result, where nobody names another.
        threat: the run's.
        resize: height and width that the images were resized to, which other images need too; None: as they are.
    """

    model: nn.Module
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    about: dict[str, Any]
    place: Path
    threat: Threat | None = None
    resize: int | None = None


def of_run(run: Path, folder: Path | None, device: Device) -> Subject:
    """A run's last model, its test images, its threat. Raises InputError for a run that has no model or no images."""
    plan = plan_of(run, folder)
    source, history = plan.data.load(), RunFolder(run).history()
    if not history or source.test is None:
        lacking = "finished no round yet" if not history else "has no test images"
        raise InputError(f"{run} {lacking}, so there is nothing to evaluate")
    last = RunFolder(run).round(len(history) - 1)
    classes = (*source.classes, *history[-1].get("new_classes", ()))
    model = Trained.load(last / "model.safetensors", initial(replace(plan, device=device), source, classes).model).model
    pixels = source.test.images.at_rest(torch.arange(len(source.test)))
    about = {"model": f"{run}, round {len(history) - 1}", "data": source.about}
    place, resize = last / "evaluation", plan.data.resize
    return Subject(model, pixels, source.test.labels, classes, about, place, plan.threat, resize)


def of_model(
    model: str,
    weights: Path | None,
    data: str | None,
    folder: Path | None,
    resize: int | None,
    classes: str | None,
    seed: int,
    device: Device,
) -> Subject:
    """Any model, on a data set's test split; where there is none, on all labelled images in random order."""
    if data is None:
        raise InputError(
            "say what to evaluate on: --data mnist, a folder of images by class, an .npz or a .parquet file"
        )
    dataset, names = read_images(data, folder, resize, classes)
    apart = dataset.test_images is not None and dataset.test_labels is not None
    if dataset.test_images is not None and dataset.test_labels is not None:
        pixels, labels = dataset.test_images, dataset.test_labels
    else:
        kept = _shuffled((dataset.labels >= 0).nonzero().flatten(), seed)
        pixels, labels = dataset.images[kept], dataset.labels[kept]
    if len(labels) == 0:
        raise InputError(f"{dataset.name} has no labelled image to evaluate on")
    labels = renumbered(labels, dataset, names)
    built = built_network(model, weights, InMemory(pixels).shape, len(names), device)
    about = {"model": model, "weights": str(weights or ""), "data": dataset.name, "test_split": apart}
    return Subject(built, pixels, labels, names, about, Path("evaluation"), resize=resize)


def read_outsiders(name: str, folder: Path | None, subject: Subject, seed: int) -> Tensor:
    """[M, C, H, W] uint8: other images than the model's, of the same shape, labelled or not.

    A data set's test split; where there is none, all its images in random order.

    Raises:
        InputError: for images of another shape, or none; DataError as `load`.
    """
    dataset: Dataset = read_whole(name, folder, subject.resize)
    pixels = dataset.test_images
    if pixels is None:
        pixels = dataset.images[_shuffled(torch.arange(len(dataset.images)), seed)]
    shape, wanted = tuple(pixels.shape[1:]), tuple(subject.pixels.shape[1:])
    if len(pixels) == 0:
        raise InputError(f"--outside {name} has no image")
    if shape != wanted:
        raise InputError(
            f"the images of --outside {name} have the shape {shape}, those of the model {wanted} (channels, height, "
            "width); take images with as many channels, and --resize to one size"
        )
    return pixels


def read_attacks(text: str) -> tuple[Attack, ...]:
    """Attacks as they stand on the command line: names, YAML with settings, or the set `headline`.

    >>> [attack.label for attack in read_attacks("headline, {name: PGD, steps: 5}")]
    ['AutoAttack', 'PGD-50x20', 'Square-20000', 'PGD-5']

    Raises:
        PlanError: for an attack that is unknown, or a setting that cannot be right.
    """
    found: list[Attack] = []
    for part in split_list(text):
        found += HEADLINE if part.lower() == "headline" else [read_component(Attack, part, "attacks")]
    return tuple(found)


def read_threats(text: str | None) -> tuple[Threat, ...]:
    """Threats between commas.

    >>> [str(threat) for threat in read_threats("l2:2, linf:8/255")]
    ['L2, eps = 2', 'Linf, eps = 0.0313725']
    """
    return tuple(parse(part) for part in split_list(text or ""))


def split_list(text: str) -> list[str]:
    """`a,{name: b, steps: 3},c` at the commas outside of brackets.

    >>> split_list("autoattack, {name: PGD, steps: 50}")
    ['autoattack', '{name: PGD, steps: 50}']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _shuffled(positions: Tensor, seed: int) -> Tensor:
    """Files and arrays often lie class by class, where the first are no sample."""
    return positions[torch.randperm(len(positions), generator=generator(seed, "evaluate", "order"))]
