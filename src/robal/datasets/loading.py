"""One door to every data set: by name, by path, or from a function of yours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from robal.datasets.arrays import from_factory
from robal.datasets.catalogue import Known, catalogue, find_known, known_name
from robal.datasets.cifar import load_cifar
from robal.datasets.dataset import Dataset
from robal.datasets.digits import DEFAULT_SIZE, load_digits
from robal.datasets.files import class_folders, load_folder, load_npy, load_npz
from robal.datasets.idx import load_idx
from robal.datasets.places import data_folder
from robal.datasets.quickdraw import load_quickdraw
from robal.datasets.shoebag import load_fashion_shoe_bag, load_shoe_bag
from robal.datasets.svhn import load_svhn
from robal.errors import DataError, DataMissing, did_you_mean
from robal.progress import say

_LOADERS: dict[str, Callable[[Known, Path], Dataset]] = {
    "mnist": load_idx,
    "fashion-mnist": load_idx,
    "fashion-shoe-bag": load_fashion_shoe_bag,
    "cifar10": load_cifar,
    "svhn": load_svhn,
    "quickdraw": load_quickdraw,
    "shoe-bag": load_shoe_bag,
}


def load(
    name: str,
    folder: Path | str | None = None,
    *,
    resize: int | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """The data set called `name`, read into memory and checked.

    Args:
        name: a name of the catalogue ("digits", "mnist", "fashion-mnist", "fashion-shoe-bag", "cifar10", "svhn",
            "quickdraw", "shoe-bag"; "quickdraw:cat,eye" chooses classes), the path of an .npz or .npy file, the path
            of a folder of images (class/name.png, or train/class/... and test/class/..., or images alone), or
            "module:function", called without arguments, which returns a Dataset or (images, labels[, test_images,
            test_labels]).
        folder: the root under which data sets are kept; else the environment's ROBAL_DATA, else ./data.
        resize: height and width to resize to, in pixels. The digits come as 28 x 28 unless told otherwise.
        classes: of a folder or an .npz file, the names in the order of the labels; not all of them have to occur. A
            folder none of whose sub-folders is called so is taken without labels. None: what occurs.

    Raises:
        DataMissing: if files are missing; says which, where it looked and what to do.
        DataCorrupt: if a file is there and is wrong.
        DataError: if nothing is called `name`.
        InputError: if pixels or labels cannot be right.

    >>> load("digits").images.shape
    torch.Size([1797, 1, 28, 28])
    """
    plain = known_name(name)
    if plain == "digits":
        return load_digits().resized(DEFAULT_SIZE if resize is None else resize)
    if plain is not None:
        dataset = _LOADERS[plain](find_known(name), data_folder(folder))
    elif name.lower().endswith(".npz"):
        dataset = load_npz(name, classes)
    elif name.lower().endswith(".npy"):
        dataset = load_npy(name, classes)
    elif name and Path(name).expanduser().is_dir():
        sorted_by = class_folders(name)
        is_sorted = classes is None or bool(set(sorted_by) & set(classes))
        if sorted_by and classes is not None and not is_sorted:
            theirs, ours = (", ".join([*some[:3], *(["…"] if len(some) > 3 else [])]) for some in (sorted_by, classes))
            say(f"{name}: none of its folders ({theirs}) is a class ({ours}): its images are taken without labels")
        return load_folder(name, resize=resize, classes=classes if is_sorted else None, labelled=is_sorted)
    elif ":" in name:
        dataset = from_factory(name)
    else:
        raise _unknown(name)
    return dataset if resize is None else dataset.resized(resize)


def _unknown(name: str) -> DataError:
    path = Path(name).expanduser()
    if name and path.exists():
        return DataError(f"{path} is neither an .npz or .npy file nor a folder of images")
    if "/" in name or "\\" in name:
        return DataMissing(f"there is no folder {path} (looked from {Path.cwd()})")
    hint = did_you_mean(name, [known.name for known in catalogue()])
    return DataError(
        f"no data set is called {name!r}; {hint} (or give an .npz or .npy file, a folder of images, or module:function)"
    )
