"""New images beside the labelled ones that a model was trained on: what retraining chooses from, and is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from robal.data import Data, Split
from robal.datasets import Dataset
from robal.errors import InputError
from robal.images import InMemory, unit
from robal.pool import UNLABELLED
from robal.seeds import generator


def beside(trained_on: Dataset, new: Dataset, tests: Dataset | None = None, apart: float = 0.5, seed: int = 0) -> Data:
    """A pool of new images followed by those that the model was trained on, whose labels are known.

    Where both are one object, its test split is the new images, or, where it has none, half of it, drawn at random.
    The test is, of these, the first that there is: `tests` (its test split, else all of it); the test split of the new
    images; a share of them drawn at random, where all their labels are held; the test split of what was trained on. So
    no image that can be chosen is ever tested on.

    Args:
        trained_on: labelled images; those without a label are left out.
        new: images of the same shape, with labels or without.
        tests: labelled images, or None.
        apart: the share of new images that the test takes, in (0, 1).
        seed: of the draws.

    Raises:
        InputError: for images of different shapes, classes that the model was not trained on, or no label to train on.
    """
    classes, is_one = trained_on.classes, new is trained_on
    if tests is new and (is_one or new.test_images is None):
        raise InputError(
            f"{new.name} cannot be chosen from and tested on at once: name other images to test on, or none"
        )
    before, after = _labelled(trained_on), _Part(new.images, new.labels)
    if is_one and new.test_images is not None and new.test_labels is not None:
        after = _Part(new.test_images, new.test_labels)
    elif is_one:
        drawn = torch.randperm(len(before), generator=generator(seed, "data", "trained on"))
        half = len(before) // 2
        before, after = before.only(drawn[:half].sort().values), before.only(drawn[half:].sort().values)
    else:
        after = _Part(after.images, in_classes(new, new.labels, classes))
    if not len(before):
        raise InputError(f"{trained_on.name} has no labelled image, and a model was trained on some")
    test, how = _tests(trained_on, new, tests, is_one)
    tests_new = test is None and len(after) > 1 and bool((after.labels >= 0).all())
    if tests_new:
        drawn = torch.randperm(len(after), generator=generator(seed, "data", "apart"))
        count = min(max(round(apart * len(after)), 1), len(after) - 1)
        test, after = after.only(drawn[:count].sort().values), after.only(drawn[count:].sort().values)
        how = f"{count:,} of {new.name}, drawn at random, are the test"
    if test is None:
        test, how = _own(trained_on, classes)
    for part, name in ((after, new.name), *([] if test is None else [(test, "the test")])):
        if part.images.shape[1:] != before.images.shape[1:]:
            shapes = [" x ".join(map(str, images.shape[1:])) for images in (part.images, before.images)]
            raise InputError(
                f"the images of {name} are {shapes[0]}, those of {trained_on.name} {shapes[1]}: give a size for all, "
                "such as data.resize=32"
            )
    parts = [after.images, before.images]
    images = torch.cat(parts if parts[0].dtype == parts[1].dtype else [unit(part) for part in parts])
    known = torch.cat([torch.full_like(after.labels, UNLABELLED), before.labels])
    hidden = torch.cat([after.labels, before.labels])
    return Data(
        InMemory(images),
        hidden if bool((after.labels >= 0).any()) else None,
        None,
        None if test is None else Split(InMemory(test.images), test.labels),
        classes,
        new.name,
        f"{new.name}: {len(after):,} images to choose from, beside {len(before):,} of {trained_on.name} that the model "
        f"was trained on; {how}.",
        known,
        tests_new,
    )


def in_classes(dataset: Dataset, labels: Tensor, classes: tuple[str, ...]) -> Tensor:
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


class _Part:
    """Images and labels that belong together."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, positions: Tensor) -> _Part:
        return _Part(self.images[positions], self.labels[positions])


def _labelled(dataset: Dataset) -> _Part:
    known = dataset.labels >= 0
    whole = _Part(dataset.images, dataset.labels)
    return whole if bool(known.all()) else whole.only(known.nonzero().flatten())


def _tests(trained_on: Dataset, new: Dataset, tests: Dataset | None, is_one: bool) -> tuple[_Part | None, str]:
    """What was named as the test, or comes with the new images."""
    if tests is not None:
        found, how = _own(tests, trained_on.classes)
        if found is None:
            labels = in_classes(tests, tests.labels, trained_on.classes)
            found = _Part(tests.images, labels).only((labels >= 0).nonzero().flatten())
            how = f"the {len(found):,} labelled images of {tests.name} are the test"
        if not len(found):
            raise InputError(f"{tests.name} has no labelled image of {', '.join(trained_on.classes)} to test on")
        return found, how
    return (None, "") if is_one else _own(new, trained_on.classes)


def _own(dataset: Dataset, classes: tuple[str, ...]) -> tuple[_Part | None, str]:
    """A data set's own test split."""
    if dataset.test_images is None or dataset.test_labels is None:
        return None, "there are no labels to test against"
    labels = in_classes(dataset, dataset.test_labels, classes)
    if bool((labels < 0).any()):
        return None, "there are no labels to test against"
    return _Part(dataset.test_images, labels), f"the {len(labels):,} test images of {dataset.name} are the test"
