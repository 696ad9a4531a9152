"""How unlike the pool a choice is, checked against what can be reckoned by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from robal.bias import MEASURES, bias_of_classes, describe_bias, divergence, floor
from robal.candidates import Candidates
from robal.images import InMemory
from robal.pool import Pool


def test_divergence_is_the_mean_of_two_relative_entropies() -> None:
    one, other = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.1, 0.3])
    middle = (one + other) / 2
    wanted = sum((p * np.log2(p / middle)).sum() for p in (one, other)) / 2
    assert divergence(10 * one, 30 * other) == pytest.approx(wanted)


def test_the_floor_is_what_theory_says_for_well_filled_bins() -> None:
    # E Σ (p̂ - p)² / p / (8 log 2) = (K - 1) / (8 n log 2), for a sample that is small against the pool
    assert floor(5_000, [20_000] * 50) == pytest.approx(49 / (8 * 5_000 * math.log(2)), rel=0.05)
    assert 0.04 < floor(200, [1_000] * 50) < 0.06
    assert floor(100, [1, 99]) == 0.0  # all of the pool


class Sure(nn.Module):
    """As sure of class 0 as the image is bright."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        bright = inputs.mean((1, 2, 3))
        return torch.stack([6 * bright, torch.zeros_like(bright)], 1)


def test_a_random_choice_is_near_its_floor_and_the_least_sure_are_far_above() -> None:
    draw = torch.Generator().manual_seed(0)
    pool = Pool.unlabelled(InMemory(torch.rand(2_000, 1, 1, 1, generator=draw)), ("dark", "bright"))
    candidates = Candidates(Sure(), pool, pool.candidates)
    hidden = (candidates.probs[:, 0] > 0.9).long()
    random = torch.randperm(2_000, generator=draw)[:200]
    unsure = candidates.probs[:, 0].argsort()[:200]
    found = describe_bias(candidates, random) | bias_of_classes(hidden, random, pool.candidates)
    assert tuple(found) == MEASURES
    assert all(abs(one["divergence"] - one["floor"]) < 0.02 for one in found.values())
    biased = describe_bias(candidates, unsure) | bias_of_classes(hidden, unsure, pool.candidates)
    assert all(one["divergence"] > one["floor"] + 0.1 for one in biased.values())
    hidden[unsure[0]] = -1
    assert bias_of_classes(hidden, random, pool.candidates) == bias_of_classes(None, random, pool.candidates) == {}


def test_a_pool_of_which_the_model_is_equally_sure_has_no_bias() -> None:
    pool = Pool.unlabelled(InMemory(torch.full((50, 1, 1, 1), 0.5)), ("dark", "bright"))
    found = describe_bias(Candidates(Sure(), pool, pool.candidates), torch.arange(10))
    assert all(one == {"divergence": 0.0, "floor": 0.0} for one in found.values())
