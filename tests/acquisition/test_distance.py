"""Cheap distances: exact on linear models, plain loops on others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition.acquisition import Score, is_score, scores_of, select
from robal.acquisition.dfal import Distances
from robal.acquisition.distance import (
    FGSMBisection,
    LinearisedDistance,
    LogitMargin,
    linearised_distance,
    logit_margin,
    smallest_flip,
)
from robal.attacks.deepfool import DeepFool, Norm
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import condition, convnet, linear

NORMS: list[Norm] = ["l2", "linf"]
ALL: list[Score] = [LinearisedDistance(), LinearisedDistance("linf", 4), LogitMargin(), FGSMBisection()]


def seen(model: nn.Module, images: Tensor, tile: int = 128, classes: int = 4) -> Candidates:
    pool = Pool.unlabelled(InMemory(images), [str(number) for number in range(classes)])
    return Candidates(model, pool, pool.candidates, Local(tile))


def grey(count: int, *shape: int) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, *shape, generator=generator(0, "grey"))


def test_the_first_step_by_hand() -> None:
    """Logits (3a, 4b) at (0.75, 0.25): the lead is 1.25 over a gradient (-3, 4)."""
    model, image = linear([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[[[0.75, 0.25]]]])
    torch.testing.assert_close(linearised_distance(model, image), torch.tensor([1.25 / 5]))
    torch.testing.assert_close(linearised_distance(model, image, "linf"), torch.tensor([1.25 / 7]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_the_linearised_distance_is_that_of_a_plain_loop(norm: Norm, classes: int) -> None:
    model, images = convnet().eval(), torch.rand(12, 1, 8, 8, generator=generator(0))
    scores = scores_of(LinearisedDistance(norm, classes), seen(model, images, tile=5), generator(0))
    for image, score in zip(images, scores, strict=True):
        pixels = image[None].clone().requires_grad_()
        logits = model(pixels)[0]
        order = logits.detach().argsort(descending=True).tolist()
        ratios = []
        for k in order[1:classes]:
            (w,) = torch.autograd.grad(logits[order[0]] - logits[k], pixels, retain_graph=True)
            ratios.append(
                float((logits[order[0]] - logits[k]).detach() / (w.norm() if norm == "l2" else w.abs().sum()))
            )
        assert score == pytest.approx(-min(ratios), rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_model_it_is_deepfool_s_distance(norm: Norm) -> None:
    model, images = linear(torch.randn(4, 9, generator=generator(1))), grey(30, 1, 3, 3)
    candidates = seen(model, images)
    exact = candidates.map(Distances(DeepFool(norm, overshoot=0.0, clip=False)))["distance"]
    scores = scores_of(LinearisedDistance(norm, 4), candidates, generator(0))
    torch.testing.assert_close(-scores, exact, rtol=1e-3, atol=1e-5)


def test_more_rivals_never_put_the_boundary_farther_away() -> None:
    candidates = seen(convnet().eval(), torch.rand(30, 1, 8, 8, generator=generator(2)))
    two, three, four = (scores_of(LinearisedDistance(classes=c), candidates, generator(0)) for c in (2, 3, 4))
    assert (three >= two - 1e-6).all()
    assert (four >= three - 1e-6).all()
    assert (four > two + 1e-4).any()


def test_the_logit_margin_by_hand_and_not_of_probabilities() -> None:
    assert logit_margin(torch.tensor([[1.0, 4.0, 3.5], [90.0, 10.0, 0.0], [2.0, 2.0, 0.0]])).tolist() == [-0.5, -80, 0]
    model = linear([[0.0], [400.0]], [200.0, 0.0])  # so sure that every probability is 0 or 1
    images = torch.tensor([0.9, 0.1, 0.25, 0.7]).view(-1, 1, 1, 1)
    pool = Pool.unlabelled(InMemory(images), ("0", "1"))
    assert select(LogitMargin(), model, pool, 4).tolist() == [3, 2, 0, 1]


def test_bisection_finds_the_ε_of_a_linear_model() -> None:
    """f / ‖w‖₁ to within largest / 2^steps, from above: the step there does flip."""
    weight = torch.randn(2, 9, generator=generator(3))
    model, images = linear(weight), grey(40, 1, 3, 3)
    logits = images.flatten(1) @ weight.T
    exact = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()
    near = exact < 0.29  # farther steps leave the box
    exact, images = exact[near], images[near]
    assert len(images) > 15
    for steps, largest in ((4, 1.0), (10, 1.0), (10, 0.3)):
        found = smallest_flip(model, images, steps, largest)
        assert (found >= exact - 1e-6).all()
        assert (found <= exact + largest / 2**steps + 1e-6).all()


def test_bisection_is_that_of_a_plain_loop() -> None:
    model, images = convnet().eval(), torch.rand(15, 1, 8, 8, generator=generator(4))
    scores = scores_of(FGSMBisection(steps=7, largest=0.8), seen(model, images, tile=4), generator(0))
    for image, score in zip(images, scores, strict=True):
        pixels = image[None].double().requires_grad_()
        twin = convnet().double().eval()
        label = twin(pixels).argmax(1)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(twin(pixels), label), pixels)
        low, high, found = 0.0, 0.8, None
        for _ in range(7):
            middle = (low + high) / 2
            if twin((pixels + middle * gradient.sign()).clamp(0, 1)).argmax(1) != label:
                high = found = middle
            else:
                low = middle
        assert score == pytest.approx(-1.6 if found is None else -found)


def test_certainty_does_not_hide_the_direction() -> None:
    """Logits a hundred thousand times as large have the same boundary, though their cross-entropy is 0."""
    weight, images = torch.randn(2, 9, generator=generator(5)), grey(20, 1, 3, 3)
    logits = 1e5 * images.flatten(1) @ weight.T
    assert nn.functional.cross_entropy(logits, logits.argmax(1)) == 0
    calm, sure = (smallest_flip(linear(scale * weight), images) for scale in (1.0, 1e5))
    assert calm.isfinite().sum() > 15
    assert torch.equal(calm, sure)


def test_what_never_flips_comes_last() -> None:
    """The boundary at 1.5 lies outside the box for every shade; and at a largest ε of 0.1, beyond reach for most."""
    images = torch.tensor([0.9, 0.1, 0.45, 0.52]).view(-1, 1, 1, 1)
    never = scores_of(FGSMBisection(), seen(linear([[0.0], [10.0]], [15.0, 0.0]), images, classes=2), generator(0))
    assert never.tolist() == [-2.0] * 4
    few = scores_of(
        FGSMBisection(largest=0.1), seen(linear([[0.0], [10.0]], [5.0, 0.0]), images, classes=2), generator(0)
    )
    assert few[:2].tolist() == pytest.approx([-0.2, -0.2])
    assert few[2:].tolist() == pytest.approx([-0.05, -0.02], abs=2e-4)


class Blind(nn.Module):
    """Always the same three logits; the first weighs the pixels with 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tensor([2.0, 1.0, 0.0]) + 0.0 * inputs.flatten(1)[:, :3]


@pytest.mark.parametrize("score", ALL, ids=repr)
def test_scores_are_finite_where_nothing_can_be_seen_and_ties_go_to_the_lower_index(score: Score) -> None:
    images = torch.rand(6, 1, 2, 2, generator=generator(0))
    assert select(score, Blind(), images, 6).tolist() == list(range(6))
    sure = linear(1e6 * torch.randn(4, 4, generator=generator(0)))
    assert scores_of(score, seen(sure, images), generator(0)).isfinite().all()
    assert select(score, Blind(), images[:1], 1).tolist() == [0]


@pytest.mark.parametrize("score", ALL, ids=repr)
def test_the_model_comes_back_and_the_tile_does_not_matter(score: Score) -> None:
    model = convnet().train()
    before = condition(model)
    images = torch.rand(20, 1, 8, 8, generator=generator(0))
    chosen = select(score, model, images, 20, engine=Local(128))
    assert condition(model) == before
    assert torch.equal(chosen, select(score, model, images, 20, engine=Local(3)))
    assert is_score(score)
    assert hash(score) == hash(type(score)(**vars(score)))
    assert scores_of(score, seen(model, images[:0]), generator(0)).shape == (0,)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LinearisedDistance, {"norm": "l1"}, "LinearisedDistance's norm is one of l2, linf; not 'l1'"),
        (LinearisedDistance, {"classes": 1}, "classes >= 2, the predicted one and a rival; 1 came"),
        (FGSMBisection, {"steps": 0}, "at least one step; 0 came"),
        (FGSMBisection, {"largest": 0.0}, r"lies in \(0, 1\], in units of pixels; 0.0 came"),
        (FGSMBisection, {"largest": 8}, "8 came"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)
