"""Arrays of somebody's own, numpy or torch, made into a data set."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robal.datasets.dataset import Dataset
from robal.errors import DataError, InputError, did_you_mean

_CHANNELS = (1, 3)


def from_arrays(
    images: Any,
    labels: Any = None,
    *,
    test_images: Any = None,
    test_labels: Any = None,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """A data set from arrays.

    Args:
        images: [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3; uint8, or floats in [0, 1].
        labels: [N] whole numbers or strings; -1 or "" where unknown. None: no label is known.
        test_images, test_labels: likewise; every label known.
        classes: the names in the order of the labels. Else the numbers that occur, which must be 0 to K - 1 without
            a gap, or the strings that occur, sorted.
        name: how reports call it.

    Raises:
        InputError: naming the first thing that cannot be right.
    """
    pixels = as_images(images, f"the images of {name}")
    tests = None if test_images is None else as_images(test_images, f"the test images of {name}")
    given = [
        _plain_labels(part, what)
        for part, what in ((labels, "labels"), (test_labels, "test labels"))
        if part is not None
    ]
    names = tuple(str(label) for label in classes) if classes is not None else _classes(given, name)
    found = torch.full((len(pixels),), -1) if labels is None else _positions(labels, names, f"the labels of {name}")
    tested = None if test_labels is None else _positions(test_labels, names, f"the test labels of {name}")
    return Dataset(name, pixels, found, names, tests, tested)


def as_images(images: Any, what: str = "the images") -> Tensor:
    """[N, C, H, W] uint8, or float32, from [N, H, W], [N, H, W, C] or [N, C, H, W].

    Raises:
        InputError: if it is none of these, or could be two of them.

    >>> as_images(np.zeros((5, 32, 32, 3), dtype=np.uint8)).shape
    torch.Size([5, 3, 32, 32])
    """
    array = _array(images, what)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(
            f"{what} must be uint8, or floats in [0, 1]; they are {array.dtype}. "
            "If they lie in 0..255, use .astype('uint8')"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4:
        raise InputError(
            f"{what} must have shape [N, H, W], [N, H, W, C] or [N, C, H, W]; they have {list(array.shape)}"
        )
    else:
        first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
        if first == last:
            which = "could be either" if first else "is neither"
            raise InputError(
                f"{what} must have 1 or 3 channels, in second or in last place; {list(array.shape)} {which}"
            )
        array = array if first else np.moveaxis(array, 3, 1)
    array = np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else np.float32)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def from_factory(name: str) -> Dataset:
    """What the function called "module:function" returns: a Dataset, or (images, labels[, test_images, test_labels]).

    The module is looked for in the current folder too.

    Raises:
        DataError: if there is no such module or function, or it returns something else.
        InputError: if its arrays cannot be right.
    """
    module_name, _, function_name = name.partition(":")
    module = _module(module_name, name)
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [attribute for attribute in vars(module) if not attribute.startswith("_")]
        raise DataError(
            f"the module {module_name} has no function {function_name!r}; {did_you_mean(function_name, known)}"
        )
    made = function()
    if isinstance(made, Dataset):
        return made
    if isinstance(made, tuple) and len(made) in (2, 4):
        tests = made[2:] if len(made) == 4 else (None, None)
        return from_arrays(made[0], made[1], test_images=tests[0], test_labels=tests[1], name=name)
    raise DataError(
        f"{name} should return a Dataset or a tuple (images, labels[, test_images, test_labels]); "
        f"it returned a {type(made).__name__}" + (f" of {len(made)}" if isinstance(made, tuple) else "")
    )


def _module(module_name: str, name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise DataError(
            f"the data set {name!r} cannot be imported: {error} (looked in {here} and on the Python path)"
        ) from error
    except ValueError as error:
        raise DataError(f"{name!r} should read module:function ({error})") from error
    finally:
        sys.path.remove(here)


def _array(values: Any, what: str) -> np.ndarray[Any, Any]:
    try:
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} are no array: {error}") from error


def _plain_labels(labels: Any, what: str) -> np.ndarray[Any, Any]:
    array = _array(labels, what)
    if array.ndim != 1:
        raise InputError(f"{what} must have shape [N], one for each image; they have {list(array.shape)}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iuU":
        raise InputError(f"{what} must be whole numbers or strings; they are {array.dtype}")
    return array


def _classes(given: list[np.ndarray[Any, Any]], name: str) -> tuple[str, ...]:
    if len({array.dtype.kind == "U" for array in given}) > 1:
        raise InputError(f"{name}: labels and test labels must both be numbers or both be strings")
    occurring = sorted({value for array in given for value in array.tolist() if value not in (-1, "")})
    if not occurring or isinstance(occurring[0], str):
        return tuple(occurring)
    if occurring != list(range(len(occurring))):
        absent = next(number for number, value in enumerate(occurring) if number != value)
        raise InputError(
            f"{name}: labels should be 0 to K - 1, or -1 where unknown, and each occur; they reach from {occurring[0]} "
            f"to {occurring[-1]} and {absent} never occurs. Give `classes`, the K names, if that is meant"
        )
    return tuple(str(value) for value in occurring)


def _positions(labels: Any, classes: tuple[str, ...], what: str) -> Tensor:
    array = _plain_labels(labels, what)
    if array.dtype.kind != "U":
        return torch.from_numpy(array.astype(np.int64))
    position = {"": -1} | {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(array.tolist()) - set(position))
    if unknown:
        raise InputError(f"{what} hold {unknown[0]!r}, which is no class; {did_you_mean(unknown[0], classes)}")
    return torch.tensor([position[value] for value in array.tolist()], dtype=torch.int64)
