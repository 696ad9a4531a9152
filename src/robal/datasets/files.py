"""Images of somebody's own: an .npz file, or a folder with a sub-folder for each class."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from robal.datasets.arrays import from_arrays
from robal.datasets.dataset import Dataset
from robal.errors import DataCorrupt, DataError, DataMissing, InputError, did_you_mean
from robal.progress import say, track

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")
_KEYS = ("images", "labels", "test_images", "test_labels", "classes")
_GREY, _DEEP = ("1", "L", "LA", "La"), ("I", "F")  # modes of PIL; the deep ones hold more than 8 bits
_ORIENTATION = 0x0112  # of EXIF; from 5 on the camera lay on its side
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def channels_of(mode: str) -> int:
    """1 for a grey mode of PIL, 3 for any other. Raises ValueError for more than 8 bits a channel.

    >>> channels_of("L"), channels_of("RGBA")
    (1, 3)
    """
    if mode.split(";")[0] in _DEEP:
        raise ValueError(f"it has more than 8 bits a channel (mode {mode}); convert it to 8 bits first")
    return 1 if mode in _GREY else 3


def load_npz(path: Path | str, classes: Sequence[str] | None = None) -> Dataset:
    """The arrays of an .npz file: `images`, and where there are any `labels`, `test_images`, `test_labels`, `classes`.

    They are as `arrays.from_arrays` takes them. Pickled objects are refused, not read. `classes`: the names in the
    order of the labels, where there are labels and the file does not say.

    Raises:
        DataMissing, DataCorrupt, DataError: naming the file and what to do.
        InputError: if the arrays cannot be right.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataMissing(f"there is no file {path} (looked from {Path.cwd()})")
    if not zipfile.is_zipfile(path):
        raise DataCorrupt(f"{path} is truncated or no .npz file")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _KEYS if key in file.files}
            keys = list(file.files)
    except ValueError as error:
        message = f"{path} holds something other than plain arrays ({error}); save numbers or strings, not objects"
        raise DataCorrupt(message) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataCorrupt(f"{path} is truncated or no .npz file ({error})") from error
    if "images" not in arrays:
        raise DataError(f"{path} should hold `images`; it holds {', '.join(keys) or 'nothing'}")
    unknown = [key for key in keys if key not in _KEYS]
    if unknown:
        raise DataError(f"{path} holds {unknown[0]!r}, which means nothing here; {did_you_mean(unknown[0], _KEYS)}")
    inside = arrays.pop("classes", None)
    names = None if inside is None else [str(label) for label in inside.reshape(-1)]
    if names is None and "labels" in arrays:
        names = None if classes is None else list(classes)
    return from_arrays(**arrays, classes=names, name=path.stem)


def load_npy(path: Path | str, classes: Sequence[str] | None = None) -> Dataset:
    """Images in an .npy file, mapped into memory: those of uint8 [N, H, W] or [N, C, H, W] stay on disk until needed.

    Labels, where there are any, lie beside it: for `images.npy` in `images-labels.npy`. Both are as
    `arrays.from_arrays` takes them. Pickled objects are refused.

    Raises:
        DataMissing, DataCorrupt, InputError: as `load_npz`.
    """
    path = Path(path).expanduser()
    beside = path.with_name(f"{path.stem}-labels.npy")
    if not path.is_file():
        raise DataMissing(f"there is no file {path} (looked from {Path.cwd()})")
    try:
        images = np.load(path, mmap_mode="c", allow_pickle=False)  # what is written to it stays in memory
        labels = np.load(beside, allow_pickle=False) if beside.is_file() else None
    except (OSError, EOFError, ValueError) as error:
        raise DataCorrupt(f"{path} or the labels beside it are truncated, or no plain arrays ({error})") from error
    return from_arrays(images, labels, classes=None if labels is None else classes, name=path.stem)


def load_folder(
    path: Path | str,
    *,
    resize: int | None = None,
    classes: Sequence[str] | None = None,
    labelled: bool = True,
) -> Dataset:
    """A folder of images: class/name.png, or train/class/... with test/class/..., or images alone (no labels known).

    Images beside the class folders carry no label. All grey: one channel; else RGB, without transparency. Order: class
    after class, names in natural order (2 before 10), those without a label last.

    Args:
        path: the folder.
        resize: height and width to resize to, in pixels; needed where sizes differ.
        classes: the class names in the order of the labels; else the folders' names in natural order.
        labelled: whether folders are classes; if not, all images in all of them are taken, without a label.

    Raises:
        DataMissing, DataCorrupt, DataError: naming the file and what to do.
        InputError: if there is only one class.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataMissing(f"there is no folder {root} (looked from {Path.cwd()})")
    if not labelled:
        found = _images(root, "**/*")
        if not found:
            raise DataMissing(f"{root} holds no images ({', '.join(SUFFIXES)})")
        nothing = torch.full((len(found),), -1)
        names = tuple(_inside(file, root) for file in found)
        return Dataset(root.resolve().name, _read(found, resize), nothing, (), files=names)
    split = (root / "train").is_dir() and (root / "test").is_dir()
    roots = (root / "train", root / "test") if split else (root,)
    names = tuple(classes) if classes is not None else _class_names(roots)
    of_split = [name for name in names if name.lower() in _SPLITS]
    if classes is None and len(of_split) > 1:
        raise InputError(
            f"{root} has the folders {', '.join(of_split)}, which look like a split and not like classes: call them "
            "train and test, with the class folders inside, or name one of them as the folder of images"
        )
    if split and (
        unused := sorted(part.name for part in root.iterdir() if part.name.lower() in _SPLITS - {"train", "test"})
    ):
        say(f"{root}: beside train and test, {', '.join(unused)} is not used")
    listed = [_list(part, names) for part in roots]
    files = [file for part in listed for file, _ in part]
    pixels = _read(files, resize)
    labels = torch.tensor([label for part in listed for _, label in part], dtype=torch.int64)
    count = len(listed[0])
    relative = tuple(_inside(file, root) for file in files)
    if not split:
        return Dataset(root.resolve().name, pixels, labels, names, files=relative)
    if bool((labels[count:] < 0).any()):
        stray = files[count + int((labels[count:] < 0).nonzero()[0])]
        raise InputError(f"{stray} lies in no class folder; every test image needs a class")
    return Dataset(
        root.resolve().name,
        pixels[:count],
        labels[:count],
        names,
        test_images=pixels[count:],
        test_labels=labels[count:],
        files=relative[:count],
        test_files=relative[count:],
    )


def _inside(file: Path, root: Path) -> str:
    """A file's name inside a folder, as any list can hold it: bytes that are no UTF-8 and control characters escaped.

    >>> _inside(Path("a/b\\r\\udce9.png"), Path("a"))
    'b\\\\r\\\\udce9.png'
    """
    name = file.relative_to(root).as_posix()
    return "".join(one.encode("unicode_escape").decode() if category(one) in ("Cc", "Cs") else one for one in name)


@dataclass(frozen=True)
class Found:
    """An image file of a folder: its label (-1: none), whether it is of the test split, its name inside the folder."""

    path: Path
    name: str
    label: int
    is_test: bool


def walk_folder(path: Path | str, classes: Sequence[str] | None = None) -> tuple[list[Found], tuple[str, ...]]:
    """The image files of a folder as `load_folder` takes them, unread, and the names of the classes.

    Raises:
        DataMissing, DataError: as `load_folder`.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataMissing(f"there is no folder {root} (looked from {Path.cwd()})")
    split = (root / "train").is_dir() and (root / "test").is_dir()
    roots = (root / "train", root / "test") if split else (root,)
    names = tuple(classes) if classes is not None else _class_names(roots)
    found = [
        Found(file, _inside(file, root), label, number == 1)
        for number, part in enumerate(roots)
        for file, label in _list(part, names)
    ]
    return found, names


def common_shape(found: Sequence[Found], resize: int | None) -> tuple[int, int, int]:
    """(C, H, W) that all readable images have, or are resized to: one channel where all are grey.

    Raises:
        DataError: where sizes differ and no size is given.
        DataMissing: where no image is readable.
    """
    headers = []
    for one in track(found, "looking at the images"):
        try:
            headers.append((one, *_header(one.path)))
        except DataError:
            continue
    if not headers:
        raise DataMissing("none of the images is readable")
    channels = 1 if all(mode in _GREY for _, mode, _ in headers) else 3
    if resize is not None:
        return channels, resize, resize
    first, _, size = headers[0]
    for one, _, other in headers:
        if other != size:
            raise DataError(
                f"images differ in size: {first.path} is {size[0]} x {size[1]}, {one.path} is {other[0]} x {other[1]}; "
                "give --resize 32, or another size, to make them all alike"
            )
    return channels, size[1], size[0]


def class_folders(path: Path | str) -> tuple[str, ...]:
    """The names of a folder's class folders, those of train/ and test/ where it has both."""
    root = Path(path).expanduser()
    split = (root / "train").is_dir() and (root / "test").is_dir()
    return _class_names((root / "train", root / "test") if split else (root,))


def _class_names(roots: Sequence[Path]) -> tuple[str, ...]:
    found = {
        folder.name for root in roots for folder in root.iterdir() if folder.is_dir() and folder.name[0] not in "._"
    }
    return tuple(sorted(found, key=natural))


def _list(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    for name in _class_names([root]):
        if name not in classes:
            raise DataError(f"{root / name} is no class; {did_you_mean(name, classes)}")
    listed = [(file, label) for label, name in enumerate(classes) for file in _images(root / name, "**/*")]
    listed += [(file, -1) for file in _images(root, "*")]
    if not listed:
        raise DataMissing(f"{root} holds no images; wanted class/name.png, or images ({', '.join(SUFFIXES)})")
    return listed


def _images(root: Path, pattern: str) -> list[Path]:
    found = (file for file in root.glob(pattern) if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    return sorted(
        (file for file in found if file.is_file()), key=lambda file: natural(file.relative_to(root).as_posix())
    )


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key by which img2 comes before img10, whatever the case.

    >>> sorted(["img10.png", "img2.png", "IMG1.png"], key=natural)
    ['IMG1.png', 'img2.png', 'img10.png']
    """
    return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", name)], name


def _read(files: list[Path], resize: int | None) -> Tensor:
    if resize is not None and resize < 1:
        raise InputError(f"resize must be at least 1 pixel, not {resize}")
    headers = [_header(file) for file in track(files, "looking at the images")]
    grey = all(mode in _GREY for mode, _ in headers)
    size = headers[0][1] if resize is None else (resize, resize)
    for file, (_, other) in zip(files, headers, strict=True):
        if resize is None and other != size:
            raise DataError(
                f"images differ in size: {files[0]} is {size[0]} x {size[1]}, {file} is {other[0]} x {other[1]}; "
                "give resize=32 (on the command line --resize 32, in a plan data.resize=32), or another size, to make "
                "them all alike"
            )
    pixels = torch.empty((len(files), 1 if grey else 3, size[1], size[0]), dtype=torch.uint8)
    for position, file in enumerate(track(files, "reading the images")):
        with _opened(file) as image:
            upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
            if upright.size != size:
                upright = upright.resize(size, Image.Resampling.BILINEAR)
            pixels[position] = torch.from_numpy(np.array(upright)).reshape(size[1], size[0], -1).permute(2, 0, 1)
    return pixels


def _header(file: Path) -> tuple[str, tuple[int, int]]:
    with _opened(file) as image:
        if image.mode.split(";")[0] in _DEEP:
            raise DataError(f"{file} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first")
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return image.mode, (height, width) if turned else (width, height)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except BROKEN as error:
        raise DataCorrupt(f"{file} is broken or no image ({error}); repair or remove it") from error
