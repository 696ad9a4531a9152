"""What many tests share: the digits, and a LeNet-5 that knows them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from robal.datasets import load
from robal.networks import LeNet5

# Several files of this name cannot all be searched for doctests; their fixtures are found all the same.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

torch.set_num_threads(1)  # the work of a test is small: more threads only wait for each other


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """1,797 digits, [N, 1, 28, 28] uint8, and their labels."""
    dataset = load("digits")
    return dataset.images, dataset.labels


@pytest.fixture(scope="session")
def tiny_digits() -> tuple[Tensor, Tensor]:
    """1,797 digits, [N, 1, 8, 8] uint8, and their labels."""
    dataset = load("digits", resize=8)
    return dataset.images, dataset.labels


@pytest.fixture(scope="session")
def lenet(digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A LeNet-5 trained on the first 1,000 digits by a loop of its own; in eval mode. Tests leave it as it was."""
    images, labels = digits[0][:1000].float() / 255, digits[1][:1000]
    model = LeNet5()((1, 28, 28), 10, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(4):
        for batch in torch.randperm(1000, generator=draw).split(50):
            optimiser.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="session")
def unseen(digits: tuple[Tensor, Tensor], lenet: nn.Module) -> tuple[Tensor, Tensor]:
    """The first 100 digits that `lenet` did not train on and classifies correctly, float32 in [0, 1], and labels."""
    images, labels = digits[0][1000:].float() / 255, digits[1][1000:]
    with torch.no_grad():
        right = (lenet(images).argmax(1) == labels).nonzero().flatten()[:100]
    assert len(right) == 100
    return images[right], labels[right]


@pytest.fixture
def weights(tmp_path: Path, lenet: nn.Module) -> Path:
    """A file of the weights of `lenet`."""
    save_file(dict(lenet.state_dict()), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture(scope="module")
def study(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The script of benchmarks/ that the test file calls `STUDY`, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield importlib.import_module(request.module.STUDY)
