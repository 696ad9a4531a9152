"""One tiny run, finished, that many tests look at; and its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from robal.data import Data
from robal.loop import run
from tiny_runs import tiny_plan


@pytest.fixture(scope="session")
def data() -> Data:
    """The digits as every tiny run splits them."""
    return tiny_plan().data.load()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Path:
    """The folder of a tiny run that came to its end. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(tiny_plan(), data, folder)
    return folder
