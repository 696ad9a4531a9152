"""The examples run as they are printed."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

LONG = ("foolbox_attack", "hugging_face")
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in EXAMPLES],
)
def test_the_example_runs_and_says_something(path: Path, tmp_path: Path) -> None:
    allowed = ["-W", "ignore:Please import:DeprecationWarning"]  # foolbox, of scipy
    command = [sys.executable, "-W", "error", *allowed, str(path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60  # processor seconds
