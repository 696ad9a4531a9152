"""The publishers' own files, where the environment's ROBAL_DATA says they are."""

from __future__ import annotations

import os

import pytest
import torch

from robal.datasets import load, present


@pytest.fixture
def folder() -> str:
    if not os.environ.get("ROBAL_DATA"):
        pytest.skip("ROBAL_DATA is not set, so there are no real files to read")
    return os.environ["ROBAL_DATA"]


def needs(name: str, folder: str) -> None:
    state = present(name, folder)
    if state.startswith("missing"):
        pytest.skip(state)
    assert state == "here"


@pytest.mark.parametrize(
    ("name", "first", "mean"),
    [("mnist", [5, 0, 4, 1, 9], 0.1307), ("fashion-mnist", [9, 0, 0, 3, 0], 0.2860)],
)
def test_mnist_and_its_like_have_their_well_known_mean_and_labels(
    folder: str, name: str, first: list[int], mean: float
) -> None:
    needs(name, folder)
    dataset = load(name, folder)
    assert dataset.images.shape == (60_000, 1, 28, 28)
    assert dataset.test_labels is not None
    assert len(dataset.test_labels) == 10_000
    assert dataset.labels[:5].tolist() == first
    assert float(dataset.images[:20_000].float().mean()) / 255 == pytest.approx(mean, abs=2e-3)
    assert len(dataset.sources) == 4


def test_cifar10_has_its_well_known_mean_and_labels(folder: str) -> None:
    needs("cifar10", folder)
    dataset = load("cifar10", folder)
    assert dataset.images.shape == (50_000, 3, 32, 32)
    assert dataset.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert dataset.labels.bincount().tolist() == [5_000] * 10
    means = dataset.images.sum((0, 2, 3), dtype=torch.int64) / (50_000 * 32 * 32 * 255)
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


def test_sketches_are_there_class_after_class(folder: str) -> None:
    needs("quickdraw", folder)
    dataset = load("quickdraw", folder)
    assert dataset.test_labels is not None
    train, test = dataset.labels.bincount(), dataset.test_labels.bincount()
    assert ((train + test).double() * 0.8).int().equal(train.int())
    assert dataset.images[::1000].flatten(1).any(1).all()
