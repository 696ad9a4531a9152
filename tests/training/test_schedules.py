"""Optimisers and learning-rate schedules: by hand, against torch's own, and as the released code runs them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn

from robal.errors import InputError
from robal.plans import known
from robal.training import SGD, Adam, Constant, Cosine, Optimiser, ReleasedCyclic, Schedule, Triangular

SCHEDULES, OPTIMISERS = known(Schedule), known(Optimiser)


def factors(schedule: Any, total: int, before: int = 0) -> list[float]:
    return [schedule.factor(step, total, before) for step in range(total)]


def test_schedules_and_optimisers_are_found_by_their_export() -> None:
    assert set(SCHEDULES) == {"Constant", "Cosine", "ReleasedCyclic", "Triangular"}
    assert set(OPTIMISERS) == {"Adam", "SGD"}


@pytest.mark.parametrize("kind", [*SCHEDULES.values(), *OPTIMISERS.values()])
def test_they_are_frozen_values(kind: Any) -> None:
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    with pytest.raises(FrozenInstanceError):
        kind().lr = 1


@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_factors_lie_between_zero_and_one_and_momentum_below_one(kind: Any, total: int) -> None:
    for before in (0, 3, 12345):
        assert all(0 <= factor <= 1 for factor in factors(kind(), total, before))
        for step in range(total):
            momentum = kind().momentum(step, total, before)
            assert momentum is None or 0 <= momentum < 1


def test_triangular_by_hand() -> None:
    assert factors(Triangular(), 3) == pytest.approx([0.5, 1.0, 0.5])
    assert factors(Triangular(0.2), 9) == pytest.approx([0.5, 1.0, *(n / 8 for n in range(7, 0, -1))])
    assert factors(Triangular(0.0), 3) == pytest.approx([0.75, 0.5, 0.25])
    assert factors(Triangular(1.0), 3) == pytest.approx([0.25, 0.5, 0.75])
    assert factors(Triangular(), 3, before=1000) == factors(Triangular(), 3)


def test_cosine_by_hand() -> None:
    assert factors(Cosine(), 4) == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]


def torch_says(build: Any, steps: int, momentum: float = 0.9) -> tuple[list[float], list[float]]:
    """Learning rates and momenta that a scheduler of torch's sets, for a rate of 1."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=momentum)
    scheduler = build(optimiser)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        momenta.append(optimiser.param_groups[0]["momentum"])
        optimiser.step()
        scheduler.step()
    return rates, momenta


def test_cosine_is_that_of_torch() -> None:
    rates, _ = torch_says(lambda optimiser: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=23), 23)
    assert factors(Cosine(), 23) == pytest.approx(rates, abs=1e-6)


def test_the_released_cycle_is_cycliclr_of_torch_never_reset() -> None:
    rates, momenta = torch_says(
        lambda optimiser: torch.optim.lr_scheduler.CyclicLR(
            optimiser, base_lr=0.0, max_lr=1.0, step_size_up=10, step_size_down=10, base_momentum=0.8, max_momentum=0.9
        ),
        55,
    )
    schedule = ReleasedCyclic(half_cycle=10)
    rounds = [(0, 15), (15, 20), (35, 20)]  # (steps taken before, steps of the round)
    assert [f for before, total in rounds for f in factors(schedule, total, before)] == pytest.approx(rates, abs=1e-6)
    ours = [schedule.momentum(step, total, before) for before, total in rounds for step in range(total)]
    assert ours == pytest.approx(momenta, abs=1e-6)


@pytest.mark.parametrize(
    ("stage", "first", "last"),
    [
        (1, 0.0, 0.012),
        (2, 0.012, 0.028),
        (8, 0.168, 0.192),
        (12, 0.048, 0.008),
        (16, 0.2, 0.128),
        (36, 0.0, 0.152),
        (48, 0.088, 0.112),
    ],
)
def test_the_released_rates_of_cifar_stages(stage: int, first: float, last: float) -> None:
    """METHODS §1.3: stage s has (10 + 5 s) · 10 iterations, the rate peaks at 0.2, half a cycle is 2,500 iterations."""
    before = sum((10 + 5 * s) * 10 for s in range(1, stage))
    total = (10 + 5 * stage) * 10
    schedule = ReleasedCyclic()
    assert 0.2 * schedule.factor(0, total, before) == pytest.approx(first, abs=1e-9)
    assert 0.2 * schedule.factor(total, total, before) == pytest.approx(last, abs=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Triangular(1.5), r"peak is a share of the steps, in \[0, 1\]; 1.5 came"),
        (lambda: ReleasedCyclic(0), "half_cycle counts steps, at least 1; 0 came"),
        (lambda: Adam(0.0), "lr must be positive and weight_decay 0 or more; 0.0 and 0.0 came"),
        (lambda: SGD(0.1, weight_decay=-1.0), "0.1 and -1.0 came"),
        (lambda: Adam(float("nan")), "nan and 0.0 came"),
        (lambda: SGD(momentum=1.0), r"momentum lies in \[0, 1\); 1.0 came"),
    ],
)
def test_settings_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("kind", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_optimisers_build_those_of_torch_with_their_settings(kind: Any) -> None:
    built = kind(lr=0.03, weight_decay=0.02).build([nn.Parameter(torch.zeros(1))])
    assert isinstance(built, getattr(torch.optim, kind.__name__))
    assert (built.defaults["lr"], built.defaults["weight_decay"]) == (0.03, 0.02)
    nesterov = SGD(0.1, 0.7, nesterov=True).build([nn.Parameter(torch.zeros(1))])
    assert (nesterov.defaults["momentum"], nesterov.defaults["nesterov"]) == (0.7, True)
