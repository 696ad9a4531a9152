"""Which images a run is about: the part of a plan that names data, and reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robal.data import Data, Part, first
from robal.datasets import Dataset, known_name, load
from robal.errors import InputError
from robal.files import absolute
from robal.new_images import beside
from robal.oracles import class_name
from robal.parquet import in_memory, is_parquet, read_manifest, version_of


@dataclass(frozen=True)
class Source:
    """Where the images come from and how they are split.

    Args:
        name: of a known data set (`robal data list`), an .npz file, a folder of images, a .parquet file that `robal
            pool build` made (its images stay on disk), or module:function.
        folder: where the user's data sets lie; "": the environment's ROBAL_DATA, else ./data.
        resize: height and width in pixels to resize to; None: as they are.
        held_out: where validation images that cost no label come from, see `Data.from_dataset`.
        held_out_images: how many.
        train_images, test_images: take only the first so many of each; where those lack a class, so many drawn class
            by class. Where a retraining chooses from test images, `test_images` is how many of them there are for both.
        classes: names, for images that come without any label; of a folder or an .npz file, in the order of the labels.
            A folder none of whose sub-folders is called so is taken without labels.
        seed: of the split, where one is drawn; apart from the run's, so that runs of several seeds share their test.
        imbalance: how many times as many images the pool has of its most frequent class as of its rarest, at least 1;
            which class is which is drawn by `seed`. Test and validation stay as they are. See `Data.imbalanced`.
        profile: from most to least frequent, "exponential", or "step": the second half of the classes is rare.
        train: the labelled images that the model has been trained on, named as `name` is. The pool is then `name`'s
            images beside them, and their labels are known and cost nothing; see `robal.new_images.beside`. "": none.
        test: labelled images to test on, where `train` is given; "": as `beside` finds them.
        apart: the share of `name`'s images that is tested on where `beside` draws them, in (0, 1).
        unforeseen: for a simulation, the names of classes that nobody has thought of at the beginning; the oracle
            names them as it meets them (or answers that they are none of the classes, see `Hidden`).
    """

    name: str = "digits"
    folder: str = ""
    resize: int | None = None
    held_out: Literal["train", "test"] = "train"
    held_out_images: int = 5000
    train_images: int | None = None
    test_images: int | None = None
    classes: tuple[str, ...] = ()
    seed: int = 0
    imbalance: float = 1.0
    profile: Literal["exponential", "step"] = "exponential"
    train: str = ""
    test: str = ""
    apart: float = 0.5
    unforeseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({class_name(one).lower() for one in self.classes}) < len(self.classes):
            raise InputError(f"data.classes names each class once; {', '.join(self.classes)} came")
        for what, count in (("train_images", self.train_images), ("test_images", self.test_images)):
            if count is not None and count < 1:
                raise InputError(f"data.{what} is at least 1, or left out for all; {count} came")
        if not 0 < self.apart < 1:
            raise InputError(f"data.apart is a share, in (0, 1); {self.apart} came")
        if self.test and not self.train:
            raise InputError("data.test goes with data.train, the images that a model was trained on")
        if self.train and self.imbalance > 1:
            raise InputError("data.imbalance makes a pool without known labels; leave it out beside data.train")
        if not 1 <= self.imbalance < float("inf"):
            raise InputError(f"data.imbalance is a factor, at least 1; {self.imbalance} came")
        if self.profile not in ("exponential", "step"):
            raise InputError(f"data.profile is exponential or step; not {self.profile!r}")

    def load(self) -> Data:
        """Read the data set and split it. Raises DataError and InputError as `robal.datasets.load` does."""
        data = self._load()
        return data.without(self.unforeseen) if self.unforeseen else data

    def _load(self) -> Data:
        if self.train:
            return self._beside()
        if is_parquet(self.name):
            if self.resize or self.train_images or self.test_images or self.imbalance > 1:
                raise InputError("a Parquet pool is used as it is: resize, choose and cut by `robal pool build`")
            return Data.from_parquet(
                self.name, seed=self.seed, held_out=self.held_out, held_out_images=self.held_out_images
            )
        is_known = known_name(self.name) is not None
        dataset = load(
            self.name, self.folder or None, resize=self.resize, classes=None if is_known else self.classes or None
        )
        data = Data.from_dataset(
            dataset,
            seed=self.seed,
            held_out=self.held_out,
            held_out_images=self.held_out_images,
            train_images=self.train_images,
            test_images=self.test_images,
        )
        if self.imbalance > 1:
            data = data.imbalanced(self.imbalance, self.profile, self.seed)
        self._check(data.classes, self.name)
        return replace(data, classes=self.classes) if self.classes else data

    def _check(self, found: tuple[str, ...], name: str) -> None:
        """Refuse classes that data has otherwise. Raises InputError."""
        if self.classes and found and found != self.classes:
            raise InputError(
                f"data.classes names {', '.join(self.classes)}, and {name} has {', '.join(found)}: leave them out"
            )

    def _beside(self) -> Data:
        """The pool of a retraining, see `beside`; what is named twice is one object."""
        is_known = known_name(self.train) is not None
        trained_on = self.read(self.train, None if is_known else self.classes or None)
        if not bool((trained_on.labels >= 0).any()):
            of = f" of {', '.join(self.classes)}" if self.classes else ""
            raise InputError(f"data.train: {self.train} has no labelled image{of}, and a model was trained on some")
        self._check(trained_on.classes, self.train)
        if self.train_images is not None:
            part = Part(trained_on.images, trained_on.labels, trained_on.files)
            few, _ = first(part.take((part.labels >= 0).nonzero().flatten()), self.train_images, self.seed, "training")
            trained_on = replace(trained_on, images=few.images, labels=few.labels, files=few.files)
        tested, is_one = self.test_images, canonical(self.name) == canonical(self.train)
        if is_one and not self.test and trained_on.test_images is not None and trained_on.test_labels is not None:
            part = Part(trained_on.test_images, trained_on.test_labels, trained_on.test_files)
            few, _ = first(part, tested, self.seed, "test")
            trained_on = replace(trained_on, test_images=few.images, test_labels=few.labels, test_files=few.files)
            tested = None
        named: dict[str, Dataset] = {canonical(self.train): trained_on}
        for name in (self.name, self.test):
            if name and canonical(name) not in named:
                named[canonical(name)] = self.read(name, trained_on.classes)
        new, tests = named[canonical(self.name)], named[canonical(self.test)] if self.test else None
        return beside(trained_on, new, tests, self.apart, self.seed, tested)

    def read(self, name: str, classes: tuple[str, ...] | None = None) -> Dataset:
        """A data set whole, in memory. Raises DataError and InputError as `robal.datasets.load`."""
        return read_whole(name, self.folder or None, self.resize, classes)

    def keeps_out(self, folder: Path) -> None:
        """Refuse a folder for results among the images: its pictures would become some of them."""
        for name in filter(None, (self.name, self.train, self.test)):
            images = Path(_located(name))
            if images.is_dir() and images in (folder.resolve(), *folder.resolve().parents):
                raise InputError(f"{folder} lies among the images of {images}; name a folder elsewhere by --out")

    def located(self) -> Source:
        """The same with absolute paths, so that a run can be resumed from another working folder."""
        folder = absolute(self.folder)
        name, train, test = (_located(one) for one in (self.name, self.train, self.test))
        return replace(self, folder=folder, name=name, train=train, test=test)


def read_whole(
    name: str, folder: Path | str | None = None, resize: int | None = None, classes: tuple[str, ...] | None = None
) -> Dataset:
    """A data set by its name, or a Parquet pool, whole, in memory.

    Raises:
        DataError, InputError: as `robal.datasets.load`, and for a Parquet pool that should be resized.
    """
    if not is_parquet(name):
        return load(name, folder, resize=resize, classes=classes)
    if resize:
        raise InputError("a Parquet pool is used as it is: resize by `robal pool build`")
    return in_memory(name)


def canonical(name: str) -> str:
    """What two names of one data set have in common: its absolute path, or what the catalogue calls it.

    >>> canonical("Fashion_MNIST"), canonical("quickdraw:cat,eye")
    ('fashion-mnist', 'quickdraw:cat,eye')
    """
    known = known_name(name)
    return _located(name) if known is None else known + "".join(name.partition(":")[1:])


def _located(name: str) -> str:
    """The absolute path of a data set that is a path; any other name as it is.

    A Parquet file may grow: its newest version is named, so that a run goes on with what it began with.
    """
    if is_parquet(name):
        file, version = version_of(name)
        newest = len(read_manifest(file).versions) if file.is_file() and version is None else version
        return f"{file.resolve()}@{newest}" if newest else str(file.resolve())
    is_path = name and known_name(name) is None and Path(name).expanduser().exists()
    return str(Path(name).expanduser().resolve()) if is_path else name
