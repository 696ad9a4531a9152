"""A training that was killed and called again ends as one that was not, bit for bit."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from watching import Watching, WithCompanion

from robal.attacks import PGD
from robal.objectives import ACT, CAAT, FRL, MTLIBP, Adversarial, ClassCosts, Learned, Natural, Trades
from robal.pool import Examples
from robal.threats import Linf
from robal.training import (
    SGD,
    Adam,
    Constant,
    CropFlip,
    Recipe,
    ReleasedCyclic,
    Trained,
    Triangular,
    fit,
)

RECIPES = {
    "Adam": Recipe(Natural(), optimiser=Adam(1e-2), schedule=Triangular(), augmentation=CropFlip(1)),
    "momentum": Recipe(Natural(), optimiser=SGD(0.1, nesterov=True), schedule=Constant(), keep_optimiser=True),
    "adversarial": Recipe(
        Adversarial(PGD(steps=2, threat=Linf(0.1))), optimiser=SGD(0.1), schedule=ReleasedCyclic(half_cycle=7)
    ),
    "TRADES": Recipe(Trades(steps=2, threat=Linf(0.1)), optimiser=Adam(1e-2), keep_optimiser=True),
    "a bound, in a ramp": Recipe(
        MTLIBP(PGD(steps=2, threat=Linf(0.1)), alpha=0.3, threat=Linf(0.1)), optimiser=Adam(1e-2), ramp=0.8
    ),
    "snapshots": Recipe(Natural(), optimiser=Adam(1e-2), snapshots=3),
    "companion": Recipe(WithCompanion(), optimiser=Adam(1e-2)),
    "a second network": Recipe(ACT(steps=2, threat=Linf(0.1)), optimiser=SGD(0.05), keep_optimiser=True),
    "costs of classes": Recipe(FRL(steps=2, costs=ClassCosts(steps=2), threat=Linf(0.1)), optimiser=Adam(1e-2)),
    "a learned weighing": Recipe(
        CAAT(steps=2, weighing=Learned(every=2, lr=0.1), costs=ClassCosts(steps=2), threat=Linf(0.1)),
        optimiser=SGD(0.05),
        augmentation=CropFlip(1),
    ),
}
EPOCHS, BATCHES = 4, 5


@pytest.fixture
def examples(tiny_digits: tuple[Tensor, Tensor], examples: Examples) -> Examples:
    """41 to train on, and a meta set for the objectives that have one."""
    return Examples.join([examples, Examples.of(tiny_digits[0][41:53], tiny_digits[1][41:53], kind="meta")])


@pytest.fixture(params=RECIPES.values(), ids=RECIPES.keys())
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(request.param, epochs=EPOCHS, batch_size=8)


def same(first: Trained, second: Trained) -> bool:
    """Whether two trainings left the same, to the last bit."""
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert first.optimiser.keys() == second.optimiser.keys()
    tensors = [(ours[name], theirs[name]) for name in ours]
    tensors += [(first.optimiser[name], second.optimiser[name]) for name in first.optimiser]
    if first.companion is not None:
        assert second.companion is not None
        mine, its = first.companion.state_dict(), second.companion.state_dict()
        assert mine.keys() == its.keys()
        tensors += [(mine[name], its[name]) for name in mine]
    assert len(first.snapshots) == len(second.snapshots)
    for one, two in zip(first.snapshots, second.snapshots, strict=True):
        assert one.keys() == two.keys()
        tensors += [(one[name], two[name]) for name in one]
    numbers = (first.steps, first.epoch) == (second.steps, second.epoch)
    return numbers and all(torch.equal(one, two) for one, two in tensors)


def test_a_training_killed_in_the_middle_of_any_epoch_ends_as_an_unkilled_one(
    recipe: Recipe, examples: Examples, start: Trained, tmp_path: Path
) -> None:
    wanted = fit(recipe, examples, None, start, None, 0)
    for stop in (2, BATCHES, 2 * BATCHES + 3, 4 * BATCHES - 1):
        place = tmp_path / f"{stop}.safetensors"
        killed = Watching(recipe.objective, stop)
        with pytest.raises(KeyboardInterrupt):
            fit(replace(recipe, objective=killed), examples, None, start, None, 0, checkpoint=place)
        torch.rand(3)  # another process would find another global stream
        watching = Watching(recipe.objective)
        resumed = fit(replace(recipe, objective=watching), examples, None, start, None, 0, checkpoint=place)
        assert same(resumed, wanted)
        assert len(watching.batches) == BATCHES * (EPOCHS - stop // BATCHES)  # one unfinished epoch is repeated


def test_a_training_killed_by_its_monitor_keeps_the_best_as_an_unkilled_one(
    recipe: Recipe, examples: Examples, start: Trained, tmp_path: Path
) -> None:
    recipe = replace(recipe, keep="best")
    scores = [0.2, 0.6, 0.6, 0.1]

    def judge(model: nn.Module, epoch: int) -> float:
        return scores[epoch]

    wanted = fit(recipe, examples, None, start, judge, 0)
    assert wanted.epoch == 3
    for last in range(EPOCHS):
        place = tmp_path / f"{last}.safetensors"
        asked: list[int] = []

        def dying(model: nn.Module, epoch: int, last: int = last) -> float:
            if epoch == last:
                raise KeyboardInterrupt
            return judge(model, epoch)

        def living(model: nn.Module, epoch: int, asked: list[int] = asked) -> float:
            asked.append(epoch)
            return judge(model, epoch)

        with pytest.raises(KeyboardInterrupt):
            fit(recipe, examples, None, start, dying, 0, checkpoint=place)
        assert same(fit(recipe, examples, None, start, living, 0, checkpoint=place), wanted)
        assert asked == list(range(last, EPOCHS))


def test_killed_twice_is_as_good_as_killed_once(examples: Examples, start: Trained, tmp_path: Path) -> None:
    recipe = replace(RECIPES["Adam"], epochs=EPOCHS, batch_size=8)
    wanted = fit(recipe, examples, None, start, None, 0)
    for stop in (7, 6, 3):
        with pytest.raises(KeyboardInterrupt):
            fit(
                replace(recipe, objective=Watching(stop=stop)),
                examples,
                None,
                start,
                None,
                0,
                checkpoint=tmp_path / "now.safetensors",
            )
    assert same(fit(recipe, examples, None, start, None, 0, checkpoint=tmp_path / "now.safetensors"), wanted)


def test_a_training_that_was_finished_is_not_done_again(
    recipe: Recipe, examples: Examples, start: Trained, tmp_path: Path
) -> None:
    place = tmp_path / "done.safetensors"
    wanted = fit(recipe, examples, None, start, None, 0, checkpoint=place)
    watching = Watching(recipe.objective)
    again = fit(replace(recipe, objective=watching), examples, None, start, None, 0, checkpoint=place)
    assert same(again, wanted)
    assert watching.batches == []


def test_the_time_that_a_killed_process_spent_is_not_forgotten(
    examples: Examples, start: Trained, tmp_path: Path
) -> None:
    recipe = replace(RECIPES["Adam"], epochs=EPOCHS, batch_size=8, keep="best")

    def slow(model: nn.Module, epoch: int, stop: int = EPOCHS) -> float:
        if epoch == stop:
            raise KeyboardInterrupt
        time.sleep(0.2)
        return 0.0

    for killed in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, examples, None, start, partial(slow, stop=killed), 0, checkpoint=tmp_path / "now")
    trained = fit(recipe, examples, None, start, slow, 0, checkpoint=tmp_path / "now")
    assert trained.earlier >= 0.6  # three epochs were done before this call
    assert fit(recipe, examples, None, start, slow, 0, checkpoint=tmp_path / "now").earlier >= 0.8
    assert fit(recipe, examples, None, start, slow, 0).earlier == 0.0


def test_a_checkpoint_changes_nothing(recipe: Recipe, examples: Examples, start: Trained, tmp_path: Path) -> None:
    def judge(model: nn.Module, epoch: int) -> float:
        return float(epoch == 1)

    for keep in ("last", "best"):
        chosen: Any = replace(recipe, keep=keep)
        with_it = fit(chosen, examples, None, start, judge, 0, checkpoint=tmp_path / f"{keep}.safetensors")
        assert same(with_it, fit(chosen, examples, None, start, judge, 0))
