"""Development images for the choice of robal's own retraining: what a model was trained on, and new images beside it.

PYTHONPATH=benchmarks ROBAL_DATA=DATA robal compare benchmarks/retraining_choice.yaml --out runs/retraining-choice
"""

from __future__ import annotations

from dataclasses import replace

from robal.datasets import Dataset, load

NEW = 5_000


def old() -> Dataset:
    """Fashion-MNIST's training images but for the last 5,000."""
    found = _training()
    return replace(found, images=found.images[:-NEW], labels=found.labels[:-NEW])


def new() -> Dataset:
    """The last 5,000."""
    found = _training()
    return replace(found, images=found.images[-NEW:], labels=found.labels[-NEW:])


def _training() -> Dataset:
    return replace(load("fashion-mnist"), test_images=None, test_labels=None)
