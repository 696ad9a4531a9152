"""The C library keeps what torch frees."""

from __future__ import annotations

import subprocess
import sys

import pytest

_STEPS = """
import resource, torch
{asked}
torch.set_num_threads(1)
layers = [torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU()]
model, images = torch.nn.Sequential(*layers), torch.rand(64, 3, 32, 32)
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        model(images).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(5))
"""


def _faults(asked: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", _STEPS.format(asked=asked)], capture_output=True, text=True, check=True
    )
    return int(ended.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_training_steps_cost_few_page_faults_where_freed_memory_is_kept() -> None:
    kept = _faults("from robal.machine import keep_freed_memory\nassert keep_freed_memory()")
    assert 5 * kept < _faults("")
