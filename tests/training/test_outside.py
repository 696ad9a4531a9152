"""Images that are none of the classes: kept out of training, and taught to the teacher so that it keeps others out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from robal.errors import InputError
from robal.networks import LeNet5, head_of, with_one_more_class, without_last_class
from robal.objectives import Natural
from robal.pool import Examples
from robal.source import Source
from robal.training import Adam, PoolTraining, Recipe, Trained, fit

TEACHER = Recipe(Natural(), budget=12_000, batch_size=25, optimiser=Adam(3e-3), warm_start=False)
FEW, FEWER = (replace(TEACHER, budget=budget) for budget in (3_000, 1_000))
RECIPE = Recipe(Natural(), budget=16_000, batch_size=50, optimiser=Adam(3e-3), pool=PoolTraining(TEACHER))


@pytest.fixture(scope="module")
def parts() -> tuple[Examples, torch.Tensor, torch.Tensor]:
    """Examples of the classes 0 to 5 and of none of them (8 and 9); the pool, with other 8s and 9s; its true labels."""
    data = Source(held_out_images=0).load()
    assert data.hidden is not None
    pixels, true = data.images.at_rest(torch.arange(len(data.images))), data.hidden
    kept = (true < 6) | (true >= 8)
    pixels, true = pixels[kept], true[kept]
    inside, beyond = (true < 6).nonzero().flatten(), (true >= 8).nonzero().flatten()
    bought, none = inside[:120], beyond[:40]
    left = torch.cat([inside[120:420], beyond[40:140]])
    examples = Examples.join(
        [
            Examples.of(pixels[bought], true[bought], bought),
            Examples.of(pixels[none], torch.zeros_like(none), none, "none"),
        ]
    )
    return examples, pixels[left], true[left]


def trained(recipe: Recipe, examples: Examples, pool: torch.Tensor | None) -> Trained:
    start = Trained(LeNet5()((1, 28, 28), 6, 0).eval())
    return fit(recipe, examples, pool, start, None, 0)


def test_a_teacher_that_knows_some_of_them_keeps_others_out(parts: tuple[Examples, torch.Tensor, torch.Tensor]) -> None:
    examples, pool, true = parts
    accepted = {}
    for outside in (True, False):
        found = trained(replace(RECIPE, pool=PoolTraining(TEACHER, outside=outside)), examples, pool)
        assert found.guesses is not None
        accepted[outside] = [(found.guesses[some] >= 0).double().mean().item() for some in (true >= 8, true < 6)]
        assert int(found.guesses.max()) < 6
        assert found.teacher is not None
        assert head_of(found.teacher)[1].out_features == 6  # acquisition functions see the classes alone
        assert ("outside" in found.refused) == outside
    beyond, inside = accepted[True]
    assert accepted[False] == [1.0, 1.0]
    assert beyond < 0.25
    assert inside > 0.9


def test_they_are_trained_on_by_nothing_else(parts: tuple[Examples, torch.Tensor, torch.Tensor]) -> None:
    examples, _, _ = parts
    alone = replace(RECIPE, budget=2_000, pool=None)
    one, other = (trained(alone, some, None).model.state_dict() for some in (examples, examples.of_kind("bought")))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_any_the_teacher_is_what_it_was(parts: tuple[Examples, torch.Tensor, torch.Tensor]) -> None:
    examples, pool, _ = parts
    bought = examples.of_kind("bought")
    one, other = (
        trained(replace(FEW, pool=PoolTraining(FEWER, outside=outside)), bought, pool).model.state_dict()
        for outside in (True, False)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_head_grows_and_shrinks_and_the_others_stay() -> None:
    model = LeNet5()((1, 28, 28), 6, 3).eval()
    inputs = torch.rand(4, 1, 28, 28)
    wider, number = with_one_more_class(model, 0)
    assert number == 6
    torch.testing.assert_close(wider(inputs)[:, :6], model(inputs))
    assert wider(inputs).shape == (4, 7)
    torch.testing.assert_close(without_last_class(wider)(inputs), model(inputs))
    assert torch.equal(with_one_more_class(model, 0)[0](inputs), wider(inputs))
    alone, _ = with_one_more_class(nn.Linear(3, 2, bias=False), 0)
    assert alone(torch.rand(1, 3)).shape == (1, 3)


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(InputError, match=r"no nn.Linear that could be its head"):
        partial(head_of, nn.Sequential(nn.Conv2d(1, 2, 3)))()


def test_a_network_without_a_linear_head_trains_on_its_pool_all_the_same(
    parts: tuple[Examples, torch.Tensor, torch.Tensor],
) -> None:
    examples, pool, _ = parts
    body = nn.Sequential(nn.Conv2d(1, 6, 28), nn.Flatten())
    found = fit(replace(FEW, pool=PoolTraining(FEWER)), examples, pool, Trained(body.eval()), None, 0)
    assert found.guesses is not None
    assert "outside" not in found.refused
