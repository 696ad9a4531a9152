"""FixMatch: which images without labels teach, and what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from robal.augmentations import NoAugmentation
from robal.errors import InputError
from robal.objectives import Batch, FixMatch, Natural
from small_models import linear

MODEL = linear([[4.0, 0.0], [0.0, 4.0]])
BATCH = Batch(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).view(2, 1, 1, 2), torch.tensor([0, 0]), torch.ones(2))
UNLABELLED = torch.tensor([[1.0, 0.0], [0.5, 0.4], [0.0, 0.9]]).view(3, 1, 1, 2)


def test_only_sure_images_teach_and_by_hand_what(draw: torch.Generator) -> None:
    """Logits (4, 0), (2, 1.6) and (0, 3.6): at a threshold of 0.9 the first and the last are sure."""
    losses = FixMatch(NoAugmentation(), 0.9, 2.0)(MODEL, None, replace(BATCH, unlabelled=UNLABELLED), draw)
    natural = Natural()(MODEL, None, BATCH, draw)
    first, last = (torch.log1p(torch.exp(torch.tensor(-lead))) for lead in (4.0, 3.6))
    torch.testing.assert_close(losses, natural + 2.0 * (first + last) / 3)


def test_no_gradient_flows_through_the_guess(draw: torch.Generator) -> None:
    model = linear([[4.0, 0.0], [0.0, 4.0]])
    batch = replace(BATCH, unlabelled=UNLABELLED)
    FixMatch(NoAugmentation(), 0.0)(model, None, batch, draw).mean().backward()
    got = model[1].weight.grad
    wanted = linear([[4.0, 0.0], [0.0, 4.0]])
    guess = wanted(UNLABELLED).argmax(1)
    (F.cross_entropy(wanted(BATCH.inputs), BATCH.labels) + F.cross_entropy(wanted(UNLABELLED), guess)).backward()
    torch.testing.assert_close(got, wanted[1].weight.grad)


def test_without_images_it_is_natural_training(draw: torch.Generator) -> None:
    assert torch.equal(FixMatch()(MODEL, None, BATCH, draw), Natural()(MODEL, None, BATCH, draw))


@pytest.mark.parametrize("settings", [{"threshold": 1.5}, {"threshold": -0.1}, {"weight": -1.0}])
def test_what_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="FixMatch needs a threshold"):
        FixMatch(**settings)  # type: ignore[arg-type]


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)
