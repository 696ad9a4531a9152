"""What a run works on: the pool, its hidden labels, the validation and the test images; and how they were split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robal.datasets import Dataset, from_arrays, load_folder
from robal.errors import InputError
from robal.images import Images, InMemory, files_at
from robal.parquet import ParquetImages
from robal.pool import UNLABELLED, Pool, check_labels
from robal.seeds import generator

HeldOut = Literal["train", "test"]
_HELD_OUT_IMAGES = 5_000
_TILE = 4_096


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images apart from the pool.

    Args:
        images: M images.
        labels: [M] int64, every one a class.
    """

    images: Images
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.images),):
            raise InputError(
                f"{len(self.images)} images apart from the pool came with {list(self.labels.shape)} labels"
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Data:
    """The pool and what stands apart from it.

    Args:
        images: the N images of the pool.
        hidden: [N] int64, -1 where unknown; for the simulated oracle and simulation metrics, nothing else. None where
            no label is known.
        validation: free validation images where a protocol has them, else None.
        test: the test images, looked at in evaluations alone; None where there are no labels to test against.
        classes: the K names; empty where nobody has named any yet.
        name: of the data set.
        about: a sentence that says how the split was made.
        known: [N] int64, labels of the pool that are known from the beginning and cost nothing, -1 elsewhere: the
            images that a model to be retrained was trained on. None: no label is.
        tests_new: whether the test images are a share of the new ones, beside those that are known.
        known_test: test images of what a model to be retrained was trained on, where `test` is of others, else None: by
            them it shows what the model forgot.
        unforeseen: in a simulation, the names of classes that nobody has thought of yet. Hidden and test labels from K
            on are theirs, in this order.
    """

    images: Images
    hidden: Tensor | None
    validation: Split | None
    test: Split | None
    classes: tuple[str, ...]
    name: str
    about: str
    known: Tensor | None = None
    tests_new: bool = False
    known_test: Split | None = None
    unforeseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.known is not None:
            if self.known.shape != (len(self.images),) or self.known.dtype != torch.int64:
                raise InputError(f"a pool of {len(self.images)} images came with {list(self.known.shape)} known labels")
            check_labels(self.known, len(self.classes), UNLABELLED, "known labels")
        if self.hidden is not None:
            if self.hidden.shape != (len(self.images),) or self.hidden.dtype != torch.int64:
                raise InputError(
                    f"a pool of {len(self.images)} images came with {list(self.hidden.shape)} hidden labels"
                )
            check_labels(self.hidden, len(self.classes) + len(self.unforeseen), UNLABELLED, "hidden labels")
        splits = {"validation": self.validation, "test": self.test, "known test": self.known_test}
        for what, split in splits.items():
            if split is None:
                continue
            classes = len(self.classes) + (len(self.unforeseen) if what == "test" else 0)
            check_labels(split.labels, classes, 0, f"{what} labels")
            if split.images.shape != self.images.shape:
                raise InputError(f"{what} images are {split.images.shape}, those of the pool {self.images.shape}")

    @property
    def classes_in_words(self) -> str:
        """The classes, and how many images of the pool each has where that is known, for a person to check."""
        if not self.classes:
            return "classes: none named yet"
        shown = list(self.classes)
        if self.hidden is not None:
            counts = self.hidden[self.hidden >= 0].bincount(minlength=len(self.classes)).tolist()
            shown = [f"{name} {count:,}" for name, count in zip(self.classes, counts, strict=False)]
        return f"{len(shown)} classes: {', '.join(shown[:12])}{', …' if len(shown) > 12 else ''}"

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        *,
        test_images: Any = None,
        test_labels: Any = None,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        held_out: HeldOut = "train",
        held_out_images: int = _HELD_OUT_IMAGES,
        resize: int | None = None,
    ) -> Data:
        """Data from numpy or torch arrays.

        Args:
            images: [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3; uint8, or floats in [0, 1].
            labels: [N] whole numbers or strings; -1 or "" where unknown. None: no label is known.
            test_images, test_labels: likewise, every label known; None: a share of the labelled images is set apart.
            classes: the names in the order of the labels; else those that occur.
            seed, held_out, held_out_images: as for `from_dataset`.
            resize: height and width to resize to, in pixels.

        Raises:
            InputError: naming the first thing that cannot be right.
        """
        dataset = from_arrays(images, labels, test_images=test_images, test_labels=test_labels, classes=classes)
        dataset = dataset if resize is None else dataset.resized(resize)
        return cls.from_dataset(dataset, seed=seed, held_out=held_out, held_out_images=held_out_images)

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        held_out: HeldOut = "train",
        held_out_images: int = _HELD_OUT_IMAGES,
        resize: int | None = None,
    ) -> Data:
        """Data from a folder of images: class/name.png, or train/class/... and test/class/..., or images alone.

        Args:
            path: the folder.
            classes: the names in the order of the labels; else the folders' names in natural order.
            seed, held_out, held_out_images: as for `from_dataset`.
            resize: height and width to resize to, in pixels; needed where sizes differ.

        Raises:
            DataError: naming the file and what to do.
            InputError: if there is only one class.
        """
        dataset = load_folder(path, resize=resize, classes=classes)
        return cls.from_dataset(dataset, seed=seed, held_out=held_out, held_out_images=held_out_images)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        seed: int = 0,
        held_out: HeldOut = "train",
        held_out_images: int = _HELD_OUT_IMAGES,
        train_images: int | None = None,
        test_images: int | None = None,
    ) -> Data:
        """Data from a data set, split by the rules below; `about` says which one was applied.

        With a test split, "train" takes the last `held_out_images` training images (at most a tenth of them) for
        validation, out of the pool, and leaves the test split whole; "test" takes the first `held_out_images` test
        images (at most half of them) for validation, as DRE does, and the rest for the test. Where such a run of
        images lacks a class, because the files are sorted by class, a share drawn from every class takes its place.
        Without a test split, the labelled images are drawn class by class: 70 % pool, 10 % validation, 20 % test.
        Images without a label go to the pool.

        Args:
            dataset: the data set.
            seed: of the draw, where there is one.
            held_out: "train" or "test", where validation images come from.
            held_out_images: how many; 0 for none.
            train_images, test_images: take only the first so many, before splitting (DRE's SVHN: 50,000 and 10,000).

        Raises:
            InputError: if a number or `held_out` cannot be right.
        """
        if held_out not in ("train", "test"):
            raise InputError(f"held_out is 'train' or 'test', where validation images come from; not {held_out!r}")
        if held_out_images < 0 or any(count is not None and count < 1 for count in (train_images, test_images)):
            raise InputError("held_out_images must be 0 or more, train_images and test_images at least 1")
        dataset.check_enough_classes()
        train, train_cut = first(Part(dataset.images, dataset.labels, dataset.files), train_images, seed, "training")
        tests, test_cut = None, ""
        if dataset.test_images is not None and dataset.test_labels is not None:
            given = Part(dataset.test_images, dataset.test_labels, dataset.test_files)
            tests, test_cut = first(given, test_images, seed, "test")
        pool, validation, test, about = _split(train, tests, seed, held_out, held_out_images)
        cuts = (("training", train_cut), ("test", test_cut))
        cut = "".join(f"of the {what} images {how} are used; " for what, how in cuts if how)
        return cls(
            InMemory(pool.images, pool.files),
            pool.labels if bool((pool.labels >= 0).any()) else None,
            validation.split(),
            test.split(),
            dataset.classes,
            dataset.name,
            f"{dataset.name}: {cut}{about}.",
        )

    @classmethod
    def from_parquet(
        cls, path: Path | str, *, seed: int = 0, held_out: HeldOut = "train", held_out_images: int = _HELD_OUT_IMAGES
    ) -> Data:
        """Data from a Parquet file that `robal pool build` made, split as by `from_dataset`.

        The pool stays on disk and is read a row group at a time; validation and test images are held in memory. No
        image of the test, nor a near-duplicate where the file knows of them, is in pool or validation, and none of
        validation in the pool: they are left out. "pool.parquet@1" is what the file was at its first version.

        Raises:
            DataError: for a file that is not there, or none of robal's.
            InputError: as `from_dataset`.
        """
        images = ParquetImages(path)
        every, manifest = images.every, images.manifest
        labels, in_test = every.labels, images.rows_in("test")
        train = Part(images.rows, labels[images.rows])  # rows stand for the images until all is split
        tests = Part(in_test, labels[in_test]) if len(in_test) else None
        pool, validation, test, about = _split(train, tests, seed, held_out, held_out_images)
        for what, alike in (("near-duplicates", images.groups), ("equals", images.equals)):
            validation, some = _unlike(validation, test.images, alike)
            pool, more = _unlike(pool, torch.cat([validation.images, test.images]), alike)
            if some + more:
                about += f"; {some + more:,} {what} of held-out images are left out"
        held = [Part(every.at_rest(part.images), part.labels).split() for part in (validation, test)]
        hidden = pool.labels if bool((pool.labels >= 0).any()) else None
        broken = sum(len(one.broken) for one in manifest.versions[: images.version])
        about = f"{manifest.name}: {about}; {broken:,} broken images were left out."
        return cls(images.at(pool.images), hidden, held[0], held[1], images.classes, manifest.name, about)

    def imbalanced(self, factor: float, profile: Literal["exponential", "step"] = "exponential", seed: int = 0) -> Data:
        """The same with fewer images of some classes in the pool: n · factor^(−r / (K − 1)) of the class of rank r.

        n is as many as there are of the pool's rarest class; ranks are drawn by `seed`. With profile="step" the classes
        of the first half of ranks have n images, the others n / factor. Of each class the first ones stay, at least
        one; images without a known label go.

        Raises:
            InputError: where no label of the pool is known, or a class has no image.

        Source: Cui et al., CVPR 2019, arXiv 1901.05555 (exponential); Buda, Maki and Mazurowski, Neural Networks 2018,
        arXiv 1710.05381 (step).
        """
        hidden = self.hidden
        counts = torch.zeros(1) if hidden is None else hidden[hidden >= 0].bincount(minlength=len(self.classes))
        if hidden is None or len(counts) < 2 or bool(counts.eq(0).any()):
            raise InputError(
                "to make classes rare, the pool's labels have to be known, with two classes at least and each there"
            )
        count, classes = int(counts.min()), len(counts)
        ranks = torch.randperm(classes, generator=generator(seed, "data", "imbalance"))
        share = ranks / (classes - 1) if profile == "exponential" else (ranks >= classes / 2).double()
        most = (count * factor**-share).round().clamp_min(1)
        kept = torch.zeros(len(hidden), dtype=torch.bool)
        for label in range(classes):
            kept[(hidden == label).nonzero().flatten()[: int(most[label])]] = True
        chosen = kept.nonzero().flatten()
        told = ", ".join(f"{name}: {int(most[label]):,}" for label, name in enumerate(self.classes))
        how = f"imbalanced ({profile}, factor {factor:g}): {told}"
        return replace(
            self,
            images=InMemory(self.images.at_rest(chosen), files_at(self.images, chosen)),
            hidden=hidden[chosen],
            about=f"{self.about.removesuffix('.')}; of the pool {len(chosen):,} images stay, {how}.",
        )

    def without(self, names: Sequence[str]) -> Data:
        """The same to people who have not thought of some classes, which are then `unforeseen`.

        Validation images of these go. Raises InputError for a name that is no class, fewer than two classes that stay,
        or labels that are known from the beginning.
        """
        strange = [name for name in names if name not in self.classes]
        left = tuple(name for name in self.classes if name not in names)
        if strange or len(set(names)) < len(names):
            raise InputError(
                f"{', '.join(strange) or 'a class that is named twice'} cannot be unforeseen: the classes are "
                f"{', '.join(self.classes)}"
            )
        if len(left) < 2 or self.known is not None:
            raise InputError("unforeseen classes leave at least two others, and go with no label that is known before")
        validation = self.validation
        if validation is not None:
            there = torch.tensor([name in left for name in self.classes])[validation.labels]
            kept = there.nonzero().flatten()
            images = InMemory(validation.images.at_rest(kept))
            validation = Split(images, validation.labels[kept]) if len(kept) else None
        about = f"{self.about.removesuffix('.')}; nobody had thought of {', '.join(names)} at first."
        return replace(self, validation=validation, unforeseen=tuple(names), about=about)._numbered(left)

    def as_known_by(self, classes: tuple[str, ...]) -> Data:
        """The same once people have thought of `classes`: hidden and test labels are positions there.

        Those of classes that are still unforeseen come after. Without unforeseen ones it is the same object.
        """
        if not self.unforeseen:
            return self
        left = tuple(name for name in self.unforeseen if name not in classes)
        named = (*self.classes, *self.unforeseen)
        return replace(self, classes=named, unforeseen=left)._numbered(classes)

    def _numbered(self, classes: tuple[str, ...]) -> Data:
        """Labels, which are positions in `self.classes`, as positions in `classes` and the unforeseen ones."""
        places = [(*classes, *self.unforeseen).index(name) for name in self.classes]
        by = torch.tensor([*places, UNLABELLED])
        splits = [
            None if split is None else Split(split.images, by[split.labels]) for split in (self.validation, self.test)
        ]
        hidden = None if self.hidden is None else by[self.hidden]
        # all at once: half of them would not fit together
        return replace(self, classes=classes, hidden=hidden, validation=splits[0], test=splits[1])

    @property
    def pool(self) -> Pool:
        """The pool as a run finds it: nothing is labelled but what is known from the beginning."""
        pool = Pool.unlabelled(self.images, self.classes)
        return pool if self.known is None else replace(pool, labels=self.known)

    @property
    def hidden_of_unknown(self) -> Tensor | None:
        """`hidden`, without those labels that are known from the beginning."""
        return (
            self.hidden if self.hidden is None or self.known is None else self.hidden.where(self.known < 0, UNLABELLED)
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all class names, shapes, labels and pixels."""
        digest = hashlib.sha256(repr(self.classes).encode())
        digest.update(repr(self.unforeseen).encode() if self.unforeseen else b"")
        digest.update(b"" if self.known is None else _bytes(self.known))
        parts = [(self.images, self.hidden)]
        if isinstance(self.images, ParquetImages):  # which knows its own, and may be too large to be read for this
            digest.update(repr((self.images.fingerprint, self.hidden is None)).encode())
            parts = []
        splits = (self.validation, self.test, self.known_test)
        parts += [(split.images, split.labels) for split in splits if split is not None]
        digest.update(repr([self.validation is None, self.test is None]).encode())
        for images, labels in parts:
            digest.update(repr((len(images), images.shape, labels is None)).encode())
            digest.update(b"" if labels is None else _bytes(labels))
            for start in range(0, len(images), _TILE):
                tile = images.at_rest(torch.arange(start, min(start + _TILE, len(images))))
                digest.update(str(tile.dtype).encode() + _bytes(tile))
        return digest.hexdigest()[:16]


def _unlike(rows: Part, others: Tensor, groups: Tensor) -> tuple[Part, int]:
    """The rows of a file that are in no group of near-duplicates with any of the other rows; and how many are gone."""
    alike = (groups[rows.images] >= 0) & torch.isin(groups[rows.images], groups[others])
    return (rows.without(alike.nonzero().flatten()), int(alike.sum())) if bool(alike.any()) else (rows, 0)


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Part:
    """Images [N, C, H, W], labels [N] int64 and names of files that belong together, on the way to a split."""

    images: Tensor
    labels: Tensor
    files: tuple[str, ...] = ()

    def take(self, positions: Tensor) -> Part:
        """Those at `positions`; a view, not a copy, where the positions follow each other."""
        files = tuple(self.files[position] for position in positions.tolist()) if self.files else ()
        if len(positions) and bool((positions.diff() == 1).all()):
            run = slice(int(positions[0]), int(positions[-1]) + 1)
            return Part(self.images[run], self.labels[run], files)
        return Part(self.images[positions], self.labels[positions], files)

    def without(self, positions: Tensor) -> Part:
        rest = torch.ones(len(self.labels), dtype=torch.bool)
        rest[positions] = False
        return self.take(rest.nonzero().flatten())

    def split(self) -> Split | None:
        return Split(InMemory(self.images, self.files), self.labels) if len(self.labels) else None


_Parts = tuple[Part, Part, Part, str]  # pool, validation, test, and how they came about


def first(part: Part, count: int | None, seed: int, what: str) -> tuple[Part, str]:
    """The first `count` of a part, where they show all its classes, else so many of every class; and how to say it."""
    if count is None or count >= len(part.labels):
        return part, ""
    chosen, how = _run(part.labels, count, "first", seed, what)
    return part.take(chosen), how


def _split(train: Part, tests: Part | None, seed: int, held_out: HeldOut, count: int) -> _Parts:
    """By the rules of `Data.from_dataset`."""
    if tests is None:
        pool, validation, test, about = _drawn(train, seed)
    else:
        apart = _from_test if held_out == "test" else _from_train
        pool, validation, test, about = apart(train, tests, count, seed)
    validation, _ = mixed(validation, seed, "validation")
    test, shuffled = mixed(test, seed, "test")
    return pool, validation, test, about + shuffled


def _from_train(train: Part, tests: Part, count: int, seed: int) -> _Parts:
    known = (train.labels >= 0).nonzero().flatten()
    chosen, how = _run(train.labels[known], min(count, len(known) // 10), "last", seed, "validation")
    pool, validation = train.without(known[chosen]), train.take(known[chosen])
    about = f"of the training images {how} are validation and the other {len(pool.labels):,} are the pool; "
    return pool, validation, tests, about + f"the {len(tests.labels):,} test images are whole"


def _from_test(train: Part, tests: Part, count: int, seed: int) -> _Parts:
    chosen, how = _run(tests.labels, min(count, len(tests.labels) // 2), "first", seed, "validation")
    validation, rest = tests.take(chosen), tests.without(chosen)
    about = f"of the test images {how} are validation and the other {len(rest.labels):,} are the test; "
    return train, validation, rest, about + f"all {len(train.labels):,} training images are the pool"


def _drawn(train: Part, seed: int) -> _Parts:
    parts: dict[str, list[Tensor]] = {"pool": [(train.labels < 0).nonzero().flatten()], "validation": [], "test": []}
    for label in train.labels[train.labels >= 0].unique().tolist():
        members = _shuffled((train.labels == label).nonzero().flatten(), seed, "class", label)
        validation, test = int(0.1 * len(members) + 0.5), int(0.2 * len(members) + 0.5)
        parts["validation"].append(members[:validation])
        parts["test"].append(members[validation : validation + test])
        parts["pool"].append(members[validation + test :])
    unlabelled = len(parts["pool"][0])
    if unlabelled == len(train.labels):
        none = train.take(torch.tensor([], dtype=torch.int64))
        return train, none, none, f"no label is known, all {unlabelled:,} images are the pool"
    joined = {name: _shuffled(torch.cat(pieces), seed, name) for name, pieces in parts.items()}
    pool, validation_part, test_part = (train.take(positions) for positions in joined.values())
    sizes = ", ".join(f"{len(positions):,} {name}" for name, positions in joined.items())
    about = f"drawn class by class with seed {seed}, there being no test split: {sizes}"
    about += f"; {unlabelled:,} of the pool carry no label" if unlabelled else ""
    return pool, validation_part, test_part, about


def _run(labels: Tensor, count: int, which: str, seed: int, what: str) -> tuple[Tensor, str]:
    """The first or the last `count` positions; drawn from every class where such a run lacks one; and how to say it."""
    start = 0 if which == "first" else len(labels) - count
    run = torch.arange(start, start + count)
    if count == 0:
        return run, "none"
    if len(labels[run].unique()) == len(labels.unique()):
        return run, f"the {which} {count:,}"
    return _share(labels, count, seed, what), f"{count:,} drawn class by class with seed {seed}"


def mixed(part: Part, seed: int, what: str) -> tuple[Part, str]:
    """The part as it is where its first images show every class; shuffled where its files are sorted by class."""
    classes = len(part.labels.unique())
    first = part.labels[: max(100, 20 * classes)]
    if len(first) == len(part.labels) or len(first.unique()) == classes:
        return part, ""
    return part.take(_shuffled(torch.arange(len(part.labels)), seed, what, "order")), ", shuffled"


def _share(labels: Tensor, count: int, seed: int, what: str) -> Tensor:
    """`count` positions, ascending, of every class in proportion (largest remainders first)."""
    values, sizes = labels.unique(return_counts=True)
    quotas = sizes.double() * count / len(labels)
    shares = quotas.floor().to(torch.int64)
    largest = (quotas - shares).argsort(descending=True, stable=True)[: count - int(shares.sum())]
    shares[largest] += 1
    chosen = [
        _shuffled((labels == value).nonzero().flatten(), seed, what, value)[:share]
        for value, share in zip(values.tolist(), shares.tolist(), strict=True)
    ]
    return torch.cat(chosen).sort().values


def _shuffled(positions: Tensor, seed: int, *name: str | int) -> Tensor:
    return positions[torch.randperm(len(positions), generator=generator(seed, "data", *name))]
