from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from robal.attacks import FGSM
from robal.objectives import NFGSM, Adversarial, Batch, FixMatch, Natural, Trades, cross_entropy
from robal.seeds import generator
from robal.threats import Linf
from small_models import convnet

THREAT = Linf(0.1)
OBJECTIVES: list[Any] = [
    Natural(),
    FixMatch(),
    Adversarial(FGSM(threat=THREAT)),
    Trades(steps=2, threat=THREAT),
    Trades(beta=0.0),
    NFGSM(threat=THREAT),
]
LABELS = torch.arange(6) % 4
BATCH = Batch(torch.rand(6, 1, 8, 8, generator=generator(0, "batch")), LABELS, torch.ones(6))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_certain_targets_are_labels(objective: Any) -> None:
    model = convnet(dropout=0.0).eval()
    certain = replace(BATCH, targets=F.one_hot(LABELS, 4).float())
    plain = objective(model, None, BATCH, generator(1))
    assert torch.equal(objective(model, None, certain, generator(1)), plain)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_linear_in_the_targets_since_crafting_looks_at_labels(objective: Any) -> None:
    model = convnet(dropout=0.0).eval()
    first, second = F.one_hot(LABELS, 4).float(), torch.full((6, 4), 0.25)
    of = [objective(model, None, replace(BATCH, targets=part), generator(1)) for part in (first, second)]
    mixed = objective(model, None, replace(BATCH, targets=0.3 * first + 0.7 * second), generator(1))
    torch.testing.assert_close(mixed, 0.3 * of[0] + 0.7 * of[1])
    assert (of[0] - of[1]).abs().max() > 1e-2


def test_smoothing_spreads_targets_as_it_does_labels() -> None:
    logits = torch.randn(6, 4, generator=generator(0))
    certain = replace(BATCH, targets=F.one_hot(LABELS, 4).float())
    torch.testing.assert_close(cross_entropy(logits, certain, 0.2), cross_entropy(logits, BATCH, 0.2))
    even = replace(BATCH, targets=torch.full((6, 4), 0.25))
    torch.testing.assert_close(cross_entropy(logits, even, 0.2), -logits.log_softmax(1).mean(1))
