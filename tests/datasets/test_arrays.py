from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robal.datasets import from_arrays
from robal.datasets.arrays import as_images
from robal.errors import InputError

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


def test_channels_last_and_channels_first_are_the_same() -> None:
    assert torch.equal(as_images(COLOUR), as_images(np.moveaxis(COLOUR, 3, 1)))
    assert torch.equal(as_images(COLOUR), as_images(torch.from_numpy(COLOUR)))
    assert as_images(COLOUR)[1, 2, 3, 4] == COLOUR[1, 3, 4, 2]


def test_every_float_becomes_float32_with_its_values() -> None:
    values = np.linspace(0, 1, 6 * 4 * 4).reshape(6, 4, 4)
    for kind in (np.float16, np.float32, np.float64):
        images = as_images(values.astype(kind))
        assert images.dtype == torch.float32
        assert np.allclose(images[:, 0].numpy(), values, atol=1e-3)


def test_the_callers_array_cannot_change_because_it_was_read_only() -> None:
    frozen = COLOUR[..., 0].copy()
    frozen.setflags(write=False)
    assert as_images(frozen).shape == (6, 1, 10, 12)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 32, 3), np.uint8), r"\[2, 3, 32, 3\] could be either"),
        (np.zeros((2, 5, 32, 7), np.uint8), r"\[2, 5, 32, 7\] is neither"),
        (np.zeros((2, 64), np.uint8), r"must have shape \[N, H, W\]"),
        (np.zeros((2, 8, 8), np.int64), r"they are int64. If they lie in 0..255, use .astype\('uint8'\)"),
        (np.zeros((0, 8, 8), np.uint8), "are empty"),
        (np.zeros((2, 0, 8), np.uint8), "are empty"),
        (np.full((2, 8, 8), 255.0), r"must lie in \[0, 1\]; they reach from 255 to 255. Divide by 255"),
        (np.full((2, 8, 8), -0.1), r"must lie in \[0, 1\]"),
        (np.full((2, 8, 8), np.inf), "NaN or infinity, first in image 0"),
        ([[[1], [2, 3]]], "are no array"),
    ],
)
def test_images_that_cannot_be_right_are_refused(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"int64 of shape \[6\], one for each image; they are int64 \[3\]"),
        ([[0]] * 6, r"must have shape \[N\]"),
        ([0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "whole numbers or strings; they are float64"),
        ([0, 1, 2, 0, 1, 4], "and 3 never occurs. Give `classes`"),
        ([0, 1, 2, 0, 1, -2], "labels should be 0 to K - 1"),
        ([1, 2, 3, 1, 2, 3], "0 never occurs"),
        ([0, 0, 0, 0, 0, 0], "only one class, '0'; at least two classes are needed"),
        ([0, 0, 0, 0, 0, -1], "only one class, '0'; at least two classes are needed"),
        (["cat"] * 6, "only one class, 'cat'"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(COLOUR, labels)


def test_labels_outside_the_given_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"labels of arrays must lie in \[-1, 2\) .*the first is 2 at position 2"):
        from_arrays(COLOUR, LABELS, classes=["a", "b"])
    with pytest.raises(InputError, match="hold 'dgo', which is no class; did you mean 'dog'"):
        from_arrays(COLOUR, ["cat", "dgo"] * 3, classes=["cat", "dog"])
    with pytest.raises(InputError, match="named twice"):
        from_arrays(COLOUR, LABELS, classes=["a", "a", "b"])


def test_string_labels_become_positions_in_the_sorted_names() -> None:
    dataset = from_arrays(COLOUR, ["dog", "cat", "", "dog", "ant", "cat"])
    assert dataset.classes == ("ant", "cat", "dog")
    assert dataset.labels.tolist() == [2, 1, -1, 2, 0, 1]


def test_given_classes_fix_the_order_and_may_lack_images() -> None:
    dataset = from_arrays(COLOUR, ["dog", "cat"] * 3, classes=["dog", "emu", "cat"])
    assert dataset.labels.tolist() == [0, 2] * 3
    few = from_arrays(COLOUR, [0, 0, -1, -1, -1, -1], classes=["cat", "dog"])
    assert few.classes == ("cat", "dog")


def test_a_class_that_only_the_test_images_have_is_a_class() -> None:
    dataset = from_arrays(COLOUR, [0, 1] * 3, test_images=COLOUR, test_labels=LABELS)
    assert dataset.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"test_images": COLOUR}, "come together"),
        ({"test_labels": LABELS}, "come together"),
        ({"test_images": COLOUR, "test_labels": [0, 1, 2, 0, 1, -1]}, r"test labels of arrays must lie in \[0, 3\)"),
        ({"test_images": COLOUR[:, 1:], "test_labels": LABELS}, "3 x 9 x 12 uint8, the others 3 x 10 x 12 uint8"),
        ({"test_images": COLOUR / 255, "test_labels": LABELS}, "same channels, size and dtype"),
        ({"test_images": COLOUR, "test_labels": ["a", "b"] * 3}, "both be numbers or both be strings"),
    ],
)
def test_tests_that_do_not_fit_are_refused(tests: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(COLOUR, LABELS, **tests)
