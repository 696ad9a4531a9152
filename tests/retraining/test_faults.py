"""APFD against an area computed another way, and against its law."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robal.errors import InputError
from robal.retraining import apfd, fault_curve
from robal.seeds import generator


@pytest.mark.parametrize("seed", range(20))
def test_apfd_is_the_area_under_the_curve_of_faults_found(seed: int) -> None:
    faults = torch.rand(40, generator=generator(seed, "faults")) < 0.3
    found = np.concatenate([[0.0], fault_curve(faults).numpy()])
    assert apfd(faults) == pytest.approx(np.trapezoid(found, np.arange(41)) / 40)


def test_the_best_the_worst_and_the_usual_order() -> None:
    faults = torch.zeros(100, dtype=torch.bool)
    faults[:20] = True
    assert apfd(faults) == pytest.approx(1 - 20 / 200)
    assert apfd(faults.flip(0)) == pytest.approx(20 / 200)
    orders = [apfd(faults[torch.randperm(100, generator=generator(seed, "order"))]) for seed in range(300)]
    assert np.mean([one for one in orders if one is not None]) == pytest.approx(0.5, abs=0.01)


def test_moving_a_fault_forward_never_lowers_it() -> None:
    faults = torch.tensor([False, True, False, True])
    earlier = torch.tensor([True, False, False, True])
    assert (apfd(earlier) or 0) > (apfd(faults) or 0)


def test_without_faults_there_is_nothing_to_find() -> None:
    assert apfd(torch.zeros(5, dtype=torch.bool)) is None
    assert fault_curve(torch.zeros(5, dtype=torch.bool)).tolist() == [0.0] * 5
    assert apfd(torch.empty(0, dtype=torch.bool)) is None


def test_numbers_are_no_faults() -> None:
    with pytest.raises(InputError, match=r"faults are \[n\] bool; these are int64 \[3\]"):
        apfd(torch.tensor([0, 1, 1]))
