"""The data sets that robal knows by name: what they are, which files they need, and where those come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from robal.errors import DataError, did_you_mean


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Args:
        name: as its publisher names it; the form that `fetch` writes.
        md5: of that form, where the publisher states one.
        unpacked_md5: of the same file without its .gz.
    """

    name: str
    md5: str | None = None
    unpacked_md5: str | None = None

    def forms(self) -> tuple[str, ...]:
        """The names under which the file may lie, packed and unpacked."""
        if self.name.endswith(".gz") and self.unpacked_md5:
            stem = self.name.removesuffix(".gz")
            return self.name, stem, stem.replace("-idx", ".idx")
        return (self.name, f"full_numpy_bitmap_{self.name}") if self.name.endswith(".npy") else (self.name,)

    def expected(self, path: Path) -> str | None:
        """The md5 due to `path`, one of the forms."""
        return self.md5 if path.name == self.name else self.unpacked_md5


@dataclass(frozen=True)
class Known:
    """A data set that robal knows by name.

    Args:
        name, about: its name, and one line about it.
        images: (for training, for testing); 0 for testing where no official test split exists.
        shape: (C, H, W) of the original images.
        classes: the class names, in the order of the labels.
        licence: as its publisher states it.
        files: what has to be there. Any one of `archives` stands for all of them.
        places: sub-folders of the data folder that are looked into, best first.
        mirrors: URLs; a file lies at mirror + its name.
        by_hand: how to get the files where they cannot be fetched.
        checked: whether the md5s are compared whenever the data set is loaded.
        pattern: where any two files of this form will do, each of them a class.
        request: what to call it in a command.
    """

    name: str
    about: str
    images: tuple[int, int]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    licence: str
    files: tuple[File, ...] = ()
    archives: tuple[File, ...] = ()
    places: tuple[str, ...] = (".",)
    mirrors: tuple[str, ...] = ()
    by_hand: str = ""
    checked: bool = False
    pattern: str = ""
    request: str = ""

    def wanted(self) -> tuple[File, ...]:
        """The files that `fetch` downloads: the archives where there are any."""
        return self.archives or self.files


_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_DIGITS = tuple("0123456789")

_FASHION = (
    File(_IDX[0], "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    File(_IDX[1], "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    File(_IDX[2], "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    File(_IDX[3], "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
)
_FASHION_PLACES = ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist", "fashion", ".")
_FASHION_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)

_KNOWN = (
    Known(
        name="digits",
        about="8 x 8 handwritten digits that come with scikit-learn; nothing to download",
        images=(1797, 0),
        shape=(1, 8, 8),
        classes=_DIGITS,
        licence="CC BY 4.0 (UCI, Alpaydin and Kaynak 1998)",
    ),
    Known(
        name="mnist",
        about="handwritten digits",
        images=(60_000, 10_000),
        shape=(1, 28, 28),
        classes=_DIGITS,
        licence="CC BY-SA 3.0 (LeCun, Cortes and Burges 1998)",
        files=(
            File(_IDX[0], "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
            File(_IDX[1], "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
            File(_IDX[2], "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
            File(_IDX[3], "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
        ),
        places=("mnist", "MNIST/raw", "MNIST", "mnist/raw", "."),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        checked=True,
    ),
    Known(
        name="fashion-mnist",
        about="articles of clothing in the format of MNIST",
        images=(60_000, 10_000),
        shape=(1, 28, 28),
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        licence="MIT (Xiao, Rasul and Vollgraf 2017)",
        files=_FASHION,
        places=_FASHION_PLACES,
        mirrors=_FASHION_MIRRORS,
        checked=True,
    ),
    Known(
        name="fashion-shoe-bag",
        about="Fashion-MNIST's sneakers and ankle boots against its bags: a small stand-in for shoe-bag",
        images=(18_000, 3_000),
        shape=(1, 28, 28),
        classes=("shoe", "bag"),
        licence="MIT (Xiao, Rasul and Vollgraf 2017)",
        files=_FASHION,
        places=_FASHION_PLACES,
        mirrors=_FASHION_MIRRORS,
        checked=True,
    ),
    Known(
        name="cifar10",
        about="small colour photographs of animals and vehicles",
        images=(50_000, 10_000),
        shape=(3, 32, 32),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        licence="none stated (cite Krizhevsky 2009)",
        files=(
            File("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            File("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            File("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            File("data_batch_4", "634d18415352ddfa80567beed471001a"),
            File("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            File("test_batch", "40351d587109b95175f43aff81a1287e"),
            File("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        ),
        archives=(File("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
        places=(
            "cifar10/cifar-10-batches-py",
            "cifar-10-batches-py",
            "cifar-10/cifar-10-batches-py",
            "CIFAR10/cifar-10-batches-py",
            "cifar10",
            "cifar-10",
            "CIFAR10",
            ".",
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        checked=True,
    ),
    Known(
        name="svhn",
        about="house numbers in street photographs, cropped digits",
        images=(73_257, 26_032),
        shape=(3, 32, 32),
        classes=_DIGITS,
        licence="non-commercial use only (Netzer et al. 2011)",
        files=(
            File("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            File("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
        places=("svhn", "SVHN", "."),
        mirrors=("http://ufldl.stanford.edu/housenumbers/",),
    ),
    Known(
        name="quickdraw",
        about="sketches; every .npy in the folder is a class, quickdraw:cat,face chooses; fetched: DFAL's four",
        images=(444_971, 111_246),
        shape=(1, 28, 28),
        classes=("angel", "cat", "dolphin", "face"),
        licence="CC BY 4.0 (Google)",
        files=(File("angel.npy"), File("cat.npy"), File("dolphin.npy"), File("face.npy")),
        places=("quickdraw", "quick-draw", "QuickDraw", "."),
        pattern="*.npy",
        mirrors=("https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/",),
    ),
    Known(
        name="shoe-bag",
        about="photographs of shoes and of handbags on white, two classes",
        images=(184_792, 4_000),
        shape=(3, 64, 64),
        classes=("shoe", "bag"),
        licence="research use (iGAN; UT Zappos50K and Amazon handbags)",
        files=(File("shoes_64.hdf5"), File("handbag_64.hdf5")),
        places=("shoe-bag", "shoe_bag", "shoebag", "."),
        by_hand=(
            "download shoes_64.zip and handbag_64.zip from http://efrosgans.eecs.berkeley.edu/iGAN/datasets/ "
            "and unpack the .hdf5 of each"
        ),
    ),
)

_ALIASES = {
    "fashion": "fashion-mnist",
    "fmnist": "fashion-mnist",
    "fashionmnist": "fashion-mnist",
    "cifar": "cifar10",
    "quick-draw": "quickdraw",
    "shoebag": "shoe-bag",
    "cifar-10": "cifar10",
}


def catalogue() -> tuple[Known, ...]:
    """Every data set that robal knows by name.

    >>> [known.name for known in catalogue()]
    ['digits', 'mnist', 'fashion-mnist', 'fashion-shoe-bag', 'cifar10', 'svhn', 'quickdraw', 'shoe-bag']
    """
    return _KNOWN


def known_name(name: str) -> str | None:
    """The catalogue's name for `name`, whatever its case and its hyphens; None where it has none.

    >>> known_name("Fashion_MNIST"), known_name("cifar-10"), known_name("quickdraw:cat,eye"), known_name("dogs")
    ('fashion-mnist', 'cifar10', 'quickdraw', None)
    """
    head, _, chosen = name.partition(":")
    plain = head.lower().replace("_", "-").replace(" ", "-")
    plain = _ALIASES.get(plain, plain)
    return plain if any(known.name == plain and (known.pattern or not chosen) for known in _KNOWN) else None


def find_known(name: str) -> Known:
    """The catalogue's entry for `name`; of "quickdraw:cat,eye" with these files and classes, in this order.

    Raises:
        DataError: if there is none, with the nearest name.
    """
    plain = known_name(name)
    chosen = tuple(part.strip() for part in name.partition(":")[2].split(",") if part.strip())
    for known in _KNOWN:
        if known.name == plain:
            files = tuple(File(f"{label}.npy") for label in chosen)
            request = f"{plain}:{','.join(chosen)}"
            return replace(known, files=files, classes=chosen, pattern="", request=request) if chosen else known
    raise DataError(f"no data set is called {name!r}; {did_you_mean(name, [known.name for known in _KNOWN])}")
