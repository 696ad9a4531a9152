"""The 8 x 8 handwritten digits that come with scikit-learn: a real data set that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from robal.datasets.catalogue import find_known
from robal.datasets.dataset import Dataset

DEFAULT_SIZE = 28  # what networks for MNIST take


def load_digits() -> Dataset:
    """1,797 digits, [1797, 1, 8, 8] uint8; grey values 0..16 become round(v * 255 / 16). No test split."""
    from sklearn.datasets import load_digits as sklearn_digits  # scikit-learn takes a second to import

    bunch = sklearn_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return Dataset("digits", torch.from_numpy(pixels).unsqueeze(1), labels, find_known("digits").classes)
