"""BALD and the entropy of the mean: by hand, against scipy and scikit-activeml, and their laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from skactiveml.pool import batch_bald
from torch import Tensor

from robal.errors import InputError
from robal.scores.bayesian import bald, dropout_entropy
from robal.scores.uncertainty import entropy
from robal.seeds import generator

BOTH = pytest.mark.parametrize("score", [bald, dropout_entropy])
Function = Callable[[Tensor], Tensor]


def some_passes(images: int = 60, passes: int = 6, classes: int = 5) -> Tensor:
    return torch.randn(images, passes, classes, generator=generator(0, "passes")).double().mul(2).softmax(2)


def test_by_hand() -> None:
    """Two passes say (3/4, 1/4) and (1/4, 3/4): their mean is even, each alone has log 4 - 3/4 log 3."""
    probs = torch.tensor([[[0.75, 0.25], [0.25, 0.75]], [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]]])
    mixed = math.log(4) - 0.75 * math.log(3)  # the entropy of (3/4, 1/4), also the third image's mean
    torch.testing.assert_close(dropout_entropy(probs), torch.tensor([math.log(2), 0.0, mixed]))
    torch.testing.assert_close(bald(probs), torch.tensor([math.log(2) - mixed, 0.0, mixed - math.log(2) / 2]))


def test_they_are_what_scipy_makes_of_the_definition() -> None:
    probs = some_passes()
    of_mean = stats.entropy(probs.mean(1).numpy(), axis=1)
    np.testing.assert_allclose(dropout_entropy(probs), of_mean, rtol=1e-12)
    mean_of = np.mean([stats.entropy(one.numpy(), axis=1) for one in probs.unbind(1)], axis=0)
    np.testing.assert_allclose(bald(probs), of_mean - mean_of, atol=1e-12)


def test_it_is_the_mutual_information_of_scikit_activeml() -> None:
    probs = some_passes()
    theirs = batch_bald(probs.transpose(0, 1).numpy().copy(), batch_size=1)[0]
    np.testing.assert_allclose(bald(probs), theirs, atol=1e-6)


def test_bald_is_the_mean_divergence_of_the_passes_from_their_mean() -> None:
    probs = some_passes()
    divergence = (probs * (probs.log() - probs.mean(1, keepdim=True).log())).sum(2).mean(1)
    torch.testing.assert_close(bald(probs), divergence)


def test_passes_that_agree_tell_nothing_however_unsure_they_are() -> None:
    same = some_passes()[:, :1]
    torch.testing.assert_close(bald(same.expand(-1, 7, -1)), torch.zeros(60).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(dropout_entropy(same.expand(-1, 7, -1)), entropy(same[:, 0]))
    assert (bald(same.expand(-1, 7, -1)) >= 0).all()


def test_bald_lies_between_nothing_and_the_entropy_of_passes_and_classes() -> None:
    sure = torch.eye(5)[None]  # five passes, each sure of another of five classes
    assert float(bald(sure)) == pytest.approx(math.log(5))
    assert float(bald(sure[:, :3])) == pytest.approx(math.log(3))
    values = bald(some_passes())
    assert (values > 0).all()
    assert (values < dropout_entropy(some_passes())).all()


@BOTH
def test_the_order_of_passes_and_of_classes_does_not_matter(score: Function) -> None:
    probs = some_passes()
    torch.testing.assert_close(score(probs.flip(1)), score(probs))
    torch.testing.assert_close(score(probs[:, :, torch.tensor([3, 1, 0, 2, 4])]), score(probs))


@BOTH
def test_they_stay_finite_at_the_corners_and_leave_their_argument_alone(score: Function) -> None:
    corners = torch.eye(5)[torch.randint(5, (200, 6), generator=generator(0, "corners"))]
    hair = torch.tensor([1.0000001, 0.0, 0.0, 0.0, 0.0]).expand(2, 6, 5)
    probs = torch.cat([corners, hair, some_passes()])
    kept = probs.clone()
    values = score(probs)
    assert values.shape == (len(probs),)
    assert torch.isfinite(values).all()
    assert (values >= 0).all()
    assert torch.equal(probs, kept)


@BOTH
def test_no_image_gives_no_score(score: Function) -> None:
    assert score(torch.zeros(0, 3, 4)).shape == (0,)


@BOTH
@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.full((2, 3), 1 / 3), r"shape \[N, T, C\] with T >= 1; these have \[2, 3\]"),
        (torch.zeros(2, 0, 3), r"these have \[2, 0, 3\]"),
        (torch.zeros(2, 4, 3), "not probabilities.*apply softmax to logits first"),
        (torch.tensor([[[float("nan"), 1.0]]]), "not probabilities"),
        (torch.ones(2, 4, 1), "C >= 2"),
    ],
)
def test_what_is_no_set_of_probabilities_is_refused(score: Function, probs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(probs)
