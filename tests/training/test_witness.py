"""A second model, which never saw the pool, has to agree before an image of the pool gets a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from watching import Watching

from robal.errors import InputError
from robal.objectives import Adversarial, FixMatch, Natural
from robal.pool import Examples
from robal.seeds import stream
from robal.training import Adam, PoolTraining, Recipe, Trained, fit
from robal.training.pseudo_labels import pseudo_labels
from small_models import linear

TEACHER = Recipe(FixMatch(threshold=0.5), budget=3000, batch_size=10, unlabelled_batch=10, optimiser=Adam(1e-2))
WITNESS = Recipe(Natural(), budget=900, batch_size=10, optimiser=Adam(1e-2))
POOL = PoolTraining(TEACHER, confidence=0.5, witness=WITNESS)
RECIPE = Recipe(Natural(), epochs=1, batch_size=8, optimiser=Adam(1e-2), pool=POOL)


@pytest.fixture
def rest(tiny_digits: tuple[Tensor, Tensor]) -> Tensor:
    """The images that were not bought."""
    return tiny_digits[0][41:]


def test_an_image_is_labelled_where_the_teacher_is_sure_and_the_witness_says_the_same() -> None:
    """Two classes, one pixel each; the teacher goes by the first, the witness by the second."""
    images = torch.tensor([[0.9, 0.9], [0.9, 0.1], [0.5, 0.9], [0.1, 0.1]]).reshape(4, 1, 1, 2)
    teacher = linear([[0.0, 0.0], [10.0, 0.0]], [0.0, -5.0])
    witness = linear([[0.0, 0.0], [0.0, 10.0]], [0.0, -5.0])
    said = pseudo_labels(PoolTraining(confidence=0.9), teacher, images, witness)
    assert said.accepted.tolist() == [True, False, False, True]
    assert said.labels.tolist() == [1, -1, -1, 0]
    assert said.refused == {"unsure": 1, "disputed": 1}
    alone = pseudo_labels(PoolTraining(confidence=0.9), teacher, images)
    assert alone.labels.tolist() == [1, 1, -1, 0]
    assert alone.refused == {"unsure": 1, "disputed": 0}


def test_the_witness_is_trained_on_what_was_bought_alone_and_asked_about_the_pool(
    examples: Examples, rest: Tensor, start: Trained
) -> None:
    watching = Watching(unlabelled_passes=0)
    guesses = Examples.of(rest[:5], torch.zeros(5, dtype=torch.int64), kind="pseudo")
    pool = replace(POOL, witness=replace(WITNESS, objective=watching))
    trained = fit(replace(RECIPE, pool=pool), Examples.join([examples, guesses]), rest[5:], start, None, 7)
    bought = {image.numpy().tobytes() for image in examples.images}
    for batch in watching.batches:
        assert batch.unlabelled is None
        assert {image.numpy().tobytes() for image in (batch.inputs * 255).round().to(torch.uint8)} <= bought
    alone = fit(WITNESS, examples, None, Trained(start.model), None, stream(7, "witness"))
    assert trained.guesses is not None
    assert trained.teacher is not None
    expected = pseudo_labels(POOL, trained.teacher, rest[5:], alone.model)
    assert torch.equal(trained.guesses, expected.labels)
    assert trained.refused == expected.refused
    assert min(expected.refused.values()) > 0


def test_the_teacher_is_the_same_with_and_without_a_witness(examples: Examples, rest: Tensor, start: Trained) -> None:
    recipes = (RECIPE, replace(RECIPE, pool=replace(POOL, witness=None)))
    watched, alone = (fit(recipe, examples, rest, start, None, 0) for recipe in recipes)
    assert watched.teacher is not None
    assert alone.teacher is not None
    for one, two in zip(watched.teacher.parameters(), alone.teacher.parameters(), strict=True):
        assert torch.equal(one, two)
    assert watched.guesses is not None
    assert alone.guesses is not None
    both = watched.guesses >= 0
    assert torch.equal(watched.guesses[both], alone.guesses[both])
    assert 0 < int(both.sum()) < int((alone.guesses >= 0).sum())


def test_what_the_witness_costs_is_counted(examples: Examples, rest: Tensor, start: Trained) -> None:
    of_both = fit(TEACHER, examples, rest, start, None, 0).evaluations
    of_both += fit(WITNESS, examples, None, start, None, 0).evaluations
    pool = replace(POOL, confidence=0.0)
    recipe = replace(RECIPE, objective=Adversarial(), budget=of_both + 5 * 11 * 8, pool=pool)
    trained = fit(recipe, examples, rest, start, None, 0)
    assert trained.steps == 5
    assert trained.evaluations == recipe.budget


@pytest.mark.parametrize("stop", [3, 15])
def test_a_kill_of_the_witness_changes_nothing(
    stop: int, examples: Examples, rest: Tensor, start: Trained, tmp_path: Path
) -> None:
    wanted = fit(RECIPE, examples, rest, start, None, 0)
    watching = Watching(stop=stop, unlabelled_passes=0)
    killed = replace(RECIPE, pool=replace(POOL, witness=replace(WITNESS, objective=watching)))
    with pytest.raises(KeyboardInterrupt):
        fit(killed, examples, rest, start, None, 0, checkpoint=tmp_path / "training.safetensors")
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"pool-teacher.safetensors"} | ({"pool-witness.safetensors"} if stop == 15 else set())
    again = fit(RECIPE, examples, rest, start, None, 0, checkpoint=tmp_path / "training.safetensors")
    assert again.guesses is not None
    assert wanted.guesses is not None
    assert torch.equal(again.guesses, wanted.guesses)
    assert (again.refused, again.evaluations) == (wanted.refused, wanted.evaluations)
    for one, two in zip(again.model.parameters(), wanted.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_witness_that_would_see_the_pool_or_cost_too_much_is_refused() -> None:
    for witness, message in (
        (TEACHER, "a witness is a standard model .* FixMatch crafts or looks at images without labels"),
        (replace(WITNESS, objective=Adversarial()), "Adversarial crafts or looks at images without labels"),
        (RECIPE, "a witness has no pool training of its own"),
        (replace(WITNESS, keep="best"), "a witness .* keeps its last epoch"),
        (replace(WITNESS, snapshots=1), "a witness is trained from fresh weights each time"),
    ):
        with pytest.raises(InputError, match=message):
            replace(POOL, witness=witness)
    with pytest.raises(InputError, match=r"the teacher's 3000 and the witness's 900: lower pool\.teacher\.budget or "):
        replace(RECIPE, budget=3900)
    assert replace(RECIPE, budget=3901).budget == 3901
    with pytest.raises(InputError, match=r"set pool\.witness\.budget"):
        replace(RECIPE, budget=9000, pool=replace(POOL, witness=replace(WITNESS, budget=None)))
