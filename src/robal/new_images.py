"""New images beside the labelled ones that a model was trained on: what retraining chooses from, and is tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from robal.data import Data, Part, first, mixed
from robal.datasets import Dataset
from robal.errors import InputError
from robal.images import InMemory, unit
from robal.near_duplicates import prints
from robal.pool import UNLABELLED
from robal.seeds import generator

_NO_TEST = "there are no labels to test against"
_COLOURS = {1: "grey", 3: "of three channels"}
_TILE = 1024  # images
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601, as Pillow has it


def beside(
    trained_on: Dataset,
    new: Dataset,
    tests: Dataset | None = None,
    apart: float = 0.5,
    seed: int = 0,
    test_images: int | None = None,
) -> Data:
    """A pool of new images followed by those that the model was trained on, whose labels are known.

    Where both are one object, its test split is the new images, or, where it has none, half of it, drawn at random.
    The test is, of these, the first that there is: `tests` (its test split, else all of it); the test split of the new
    images; a share of them drawn at random, where all their labels are held; the test split of what was trained on.
    An image of the test that is in the pool too, pixel by pixel, is left out of the test, and a new image that the
    model was trained on is left out of the new ones. Where the test is of other images, the test split of what was
    trained on is the known test. Images are made grey, or of three equal channels, as those trained on are.

    Args:
        trained_on: labelled images; those without a label are left out.
        new: images of the same height and width, with labels or without.
        tests: labelled images, or None.
        apart: the share of new images that the test takes, in (0, 1).
        seed: of the draws.
        test_images: the most that the test has; None: all.

    Raises:
        InputError: for images of different sizes, classes that the model was not trained on, no label to train on, or
            where most of the new images are known ones, or most of the test is in the pool.
    """
    classes, is_one = trained_on.classes, new is trained_on
    before = _labelled(Part(trained_on.images, trained_on.labels, trained_on.files))
    if not len(before.labels):
        raise InputError(f"{trained_on.name} has no labelled image, and a model was trained on some")
    channels = before.images.shape[1]
    is_recoloured = new.images.shape[1] != channels
    new = new if is_one else in_channels(new, channels)
    recoloured = f", made {_COLOURS[channels]} as those are" if is_recoloured else ""
    tests = tests if tests is None or tests is trained_on else in_channels(tests, channels)
    after = Part(new.images, new.labels, new.files)
    if is_one and new.test_images is not None and new.test_labels is not None:
        after = Part(new.test_images, new.test_labels, new.test_files)
    elif is_one:
        before, after = _drawn(before, len(before.labels) // 2, seed, "trained on")
    else:
        after = replace(after, labels=in_classes(new, new.labels, classes))
    test, how = _tests(trained_on, new, tests, is_one)
    known = set(prints(before.images))
    old = _among(after.images, known)
    if 2 * len(old) > len(after.labels):
        raise InputError(f"most images of {new.name} are among those that the model was trained on: name new ones")
    after = after.without(old) if len(old) else after
    left_out = f", as were {len(old):,} more of the new ones, left out" if len(old) else ""
    tests_new = test is None and len(after.labels) > 1 and bool((after.labels >= 0).all())
    if tests_new:
        count = min(max(round(apart * len(after.labels)), 1), len(after.labels) - 1)
        test, after = _drawn(after, count, seed, "apart", keep_order=False)  # attacks look at the first ones
        how = f"{count:,} of {new.name}, drawn at random, are the test"
    own = _own(trained_on, classes)
    known_test = own[0] if test is not None and not is_one and tests is not trained_on else None
    if test is None:
        test, how = own
    for part, name in ((after, new.name), *([] if test is None else [(test, "the test")])):
        if part.images.shape[1:] != before.images.shape[1:]:
            shapes = [" x ".join(map(str, images.shape[1:])) for images in (part.images, before.images)]
            raise InputError(
                f"the images of {name} are {shapes[0]}, those of {trained_on.name} {shapes[1]}: give a size for all "
                "(--resize 32, or in a plan data.resize=32)"
            )
    in_pool = known.union(prints(after.images))
    if known_test is not None and test is not None:
        known_test = known_test.without(_among(known_test.images, in_pool.union(prints(test.images))))
    if test is not None:
        twins = _among(test.images, in_pool)
        if 2 * len(twins) > len(test.labels):
            raise InputError(
                "most of the test images are among those that are chosen from, or that the model was trained on: name "
                "other test images, or none"
            )
        if len(twins):
            test, how = test.without(twins), f"{how}, but for {len(twins):,} that are in the pool too"
        test, shuffled = mixed(test, seed, "test")
        test, cut = first(test, test_images, seed, "test")
        how += shuffled + (f", and of these {cut} are used" if cut else "")
    parts = [after.images, before.images]
    images = torch.cat(parts if parts[0].dtype == parts[1].dtype else [unit(part) for part in parts])
    return Data(
        InMemory(images, (*after.files, *[""] * len(before.labels)) if after.files else ()),
        torch.cat([after.labels, before.labels]) if bool((after.labels >= 0).any()) else None,
        None,
        None if test is None else test.split(),
        classes,
        new.name,
        f"{new.name}: {len(after.labels):,} images to choose from{recoloured}, beside {len(before.labels):,} of "
        f"{trained_on.name} that the model was trained on{left_out}; {how}.",
        torch.cat([torch.full_like(after.labels, UNLABELLED), before.labels]),
        tests_new,
        None if known_test is None else known_test.split(),
    )


def in_channels(dataset: Dataset, channels: int) -> Dataset:
    """The same in grey (`channels` = 1) or in three channels (3), whichever it was in.

    Colours become their brightness (ITU-R BT.601), rounded in uint8; a grey image becomes three equal channels.

    Raises:
        InputError: for images of another number of channels.
    """
    if dataset.images.shape[1] == channels:
        return dataset
    if {dataset.images.shape[1], channels} != set(_COLOURS):
        raise InputError(f"{dataset.name} has images of {dataset.images.shape[1]} channels, and {channels} are needed")

    def turned(images: Tensor) -> Tensor:
        if channels == 3:
            return images.expand(-1, 3, -1, -1).contiguous()
        tiles = []
        for tile in images.split(_TILE):
            grey = torch.einsum("nchw,c->nhw", tile.float(), torch.tensor(_GREY))[:, None]
            tiles.append(grey.round().to(images.dtype) if images.dtype == torch.uint8 else grey)
        return torch.cat(tiles)

    tests = None if dataset.test_images is None else turned(dataset.test_images)
    return replace(dataset, images=turned(dataset.images), test_images=tests)


class Named(Protocol):
    """What has a name, and names classes."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


def in_classes(dataset: Named, labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """[N] int64: labels of a data set as positions in `classes`; -1 for all where none of its names is one of them.

    Names that are numbers count as positions where no class is called so.

    Raises:
        InputError: where some of the names are among `classes` and others are not.
    """
    names = dataset.classes
    known = [name in classes for name in names]
    if names and not any(known) and all(name.isdecimal() and int(name) < len(classes) for name in names):
        places = [int(name) for name in names]
    elif all(known):
        places = [classes.index(name) for name in names]
    elif not any(known):
        return torch.full_like(labels, UNLABELLED)
    else:
        strange = next(name for name, is_known in zip(names, known, strict=True) if not is_known)
        raise InputError(f"{dataset.name} has images labelled {strange!r}, which is none of {', '.join(classes)}")
    return torch.where(labels >= 0, torch.tensor([*places, UNLABELLED])[labels], UNLABELLED)


def _among(images: Tensor, known: set[int]) -> Tensor:
    """[k] positions of the images that are known, by their prints."""
    return torch.tensor([at for at, one in enumerate(prints(images)) if one in known], dtype=torch.int64)


def _labelled(part: Part) -> Part:
    known = part.labels >= 0
    return part if bool(known.all()) else part.take(known.nonzero().flatten())


def _drawn(part: Part, count: int, seed: int, what: str, keep_order: bool = True) -> tuple[Part, Part]:
    """`count` images drawn at random, in the order they came or in that of the draw; and the others as they came."""
    order = torch.randperm(len(part.labels), generator=generator(seed, "data", what))
    first = order[:count].sort().values if keep_order else order[:count]
    return part.take(first), part.take(order[count:].sort().values)


def _tests(trained_on: Dataset, new: Dataset, tests: Dataset | None, is_one: bool) -> tuple[Part | None, str]:
    """What was named as the test, or comes with the new images."""
    if tests is not None:
        found, how = _own(tests, trained_on.classes)
        if found is None:
            found = _labelled(Part(tests.images, in_classes(tests, tests.labels, trained_on.classes)))
            how = f"the {len(found.labels):,} labelled images of {tests.name} are the test"
        if not len(found.labels):
            raise InputError(f"{tests.name} has no labelled image of {', '.join(trained_on.classes)} to test on")
        return found, how
    return (None, "") if is_one else _own(new, trained_on.classes)


def _own(dataset: Dataset, classes: tuple[str, ...]) -> tuple[Part | None, str]:
    """A data set's own test split."""
    if dataset.test_images is None or dataset.test_labels is None:
        return None, _NO_TEST
    labels = in_classes(dataset, dataset.test_labels, classes)
    if bool((labels < 0).any()):
        return None, _NO_TEST
    return Part(dataset.test_images, labels), f"the {len(labels):,} test images of {dataset.name} are the test"
