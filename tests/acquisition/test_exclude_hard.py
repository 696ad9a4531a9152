"""What resembles the images that were never learned is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import DRE, ExcludeHard, choose
from robal.acquisition.exclude_hard import learnability
from robal.candidates import Candidates
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import UNLABELLED, Pool
from robal.seeds import generator


class Slope(nn.Module):
    """Two pixels; logits ± slope · (first pixel - ½), the pixels the embedding."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.seen = nn.Identity()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.features = "seen"

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = self.seen(inputs.flatten(1))
        logit = self.slope * (pixels[:, 0] - 0.5)
        return torch.stack([logit, -logit], 1)


# Labelled: two that are learned (first pixel 1 is class 0, 0 is class 1), and two of class 1 at first pixel 0.9 that
# never are. Candidates: four near the learned ones, four near the others.
LABELLED = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.9, 1.0], [0.9, 0.95]])
LABELS = torch.tensor([0, 1, 1, 1])
EASY = torch.tensor([[1.0, 0.1], [0.95, 0.05], [0.05, 0.0], [0.0, 0.1]])
HARD = torch.tensor([[0.9, 0.9], [0.85, 1.0], [0.95, 0.9], [0.8, 0.9]])
PIXELS = torch.cat([LABELLED, HARD, EASY])[:, None, None, :]


def seen(labelled: int = 4) -> Candidates:
    labels = torch.full((12,), UNLABELLED)
    labels[:labelled] = LABELS[:labelled]
    pool = Pool(InMemory(PIXELS), labels, ("a", "b"))
    snapshots = tuple({"slope": torch.tensor(slope)} for slope in (1.0, 5.0, 9.0))
    return Candidates(Slope(9.0), pool, torch.arange(4, 12), snapshots=snapshots)


def in_order(candidates: Candidates, n: int, draw: torch.Generator) -> Tensor:
    """The first n."""
    return candidates.indices[:n]


def test_learnability_is_mean_plus_deviation_over_time() -> None:
    assert learnability(torch.tensor([[0.1, 0.9], [0.3, 0.9]])).tolist() == pytest.approx([0.3, 0.9])


def test_those_that_resemble_the_never_learned_ones_are_left_out() -> None:
    assert choose(in_order, seen(), 4, generator(0)).tolist() == [4, 5, 6, 7]
    assert choose(ExcludeHard(in_order, share=0.5, neighbours=1), seen(), 4, generator(0)).tolist() == [8, 9, 10, 11]


def test_snapshots_decide_and_not_the_present_model_alone() -> None:
    """Had the training believed the opposite of what the model says now, the others would be the hard ones."""
    opposite = tuple({"slope": torch.tensor(slope)} for slope in (-9.0, -8.0))
    candidates = replace(seen(), snapshots=opposite)
    assert choose(ExcludeHard(in_order, share=0.5, neighbours=1), candidates, 4, generator(0)).tolist() == [4, 5, 6, 7]


def test_never_so_many_are_left_out_that_fewer_than_n_are_left() -> None:
    for n in range(1, 9):
        assert len(choose(ExcludeHard(in_order, share=0.9), seen(), n, generator(0))) == n


def test_without_labels_nothing_is_left_out() -> None:
    bare = seen(labelled=0)
    assert choose(ExcludeHard(in_order, share=0.5), bare, 4, generator(0)).tolist() == [4, 5, 6, 7]


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"share in \[0, 1\) and neighbours >= 1; 1.0 and 10 came"):
        ExcludeHard(DRE(), share=1.0)
