"""What a recipe may add to plain training: budgets, a growing eps, averaged weights, shrinking, an early stop."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from watching import Watching, weights

from robal.attacks import PGD
from robal.errors import ContractError, InputError
from robal.objectives import Adversarial, Batch, Natural
from robal.pool import Examples
from robal.threats import Linf, Threat
from robal.training import SGD, Adam, Recipe, Trained, fit
from small_models import convnet, linear

NATURAL = Recipe(Natural(), epochs=3, batch_size=8, optimiser=Adam(1e-2))


def test_a_budget_decides_how_many_steps_are_taken(examples: Examples, start: Trained) -> None:
    """PGD-2 costs three evaluations an image: 240 are ten batches of eight, two epochs of five."""
    recipe = replace(NATURAL, objective=Adversarial(PGD(2)), budget=240)
    trained = fit(recipe, examples.only(torch.arange(40)), None, start, None, 0)
    assert (trained.steps, trained.epoch, trained.evaluations) == (10, 2, 240)
    partial = fit(replace(recipe, budget=250), examples.only(torch.arange(40)), None, start, None, 0)
    assert (partial.steps, partial.epoch) == (11, 3)  # the third epoch is not finished


def test_epochs_or_the_same_budget_are_the_same_training(examples: Examples, start: Trained) -> None:
    few = examples.only(torch.arange(40))
    by_epochs = fit(NATURAL, few, None, start, None, 0)
    assert by_epochs.evaluations == 3 * 40
    assert torch.equal(weights(fit(replace(NATURAL, budget=120), few, None, start, None, 0)), weights(by_epochs))


@dataclass(frozen=True)
class Measuring:
    """Natural training that notes the radius it was given at each step."""

    threat: Threat | None = None
    radii: list[float] = field(default_factory=list, compare=False)
    passes: int = 1

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(self, model: nn.Module, companion: Any, batch: Batch, draw: torch.Generator) -> Tensor:
        assert self.threat is not None
        self.radii.append(self.threat.eps)
        return Natural()(model, companion, batch, draw)


@pytest.mark.parametrize(("threat", "eps"), [(Linf(0.2), 0.2), (None, 8 / 255)])
def test_eps_grows_in_a_straight_line_over_the_ramp(
    examples: Examples, start: Trained, threat: Threat | None, eps: float
) -> None:
    measuring = Measuring(threat)
    recipe = Recipe(measuring, epochs=2, batch_size=8, ramp=0.4)  # 10 steps, 4 of them on the way
    fit(recipe, examples.only(torch.arange(40)), None, start, None, 0)
    assert measuring.radii == pytest.approx([eps * share for share in (0.25, 0.5, 0.75, *[1.0] * 7)])


def test_the_average_is_the_one_a_reader_would_write(examples: Examples) -> None:
    """Decay min(0.9, n/(n + 9)) at step n, from the initial weights on."""
    start = Trained(linear(torch.zeros(10, 64)).eval())
    recipe = Recipe(Natural(), epochs=3, batch_size=8, optimiser=SGD(0.5, 0.0, 0.0), average=0.9)
    wanted, few = torch.zeros(10, 64), examples.only(torch.arange(40))
    for step in range(1, 16):
        there = fit(replace(recipe, average=0.0, budget=8 * step), few, None, start, None, 0)
        decay = min(0.9, step / (step + 9))
        wanted = decay * wanted + (1 - decay) * there.model[1].weight.detach()  # type: ignore[index]
    got = fit(recipe, few, None, start, None, 0).model[1].weight.detach()  # type: ignore[index]
    torch.testing.assert_close(got, wanted)


def test_averaged_batchnorm_has_the_latest_statistics(examples: Examples, start: Trained) -> None:
    plain, averaged = (fit(replace(NATURAL, average=part), examples, None, start, None, 0) for part in (0.0, 0.9))
    assert not torch.equal(weights(plain), weights(averaged))
    for one, two in zip(plain.model.buffers(), averaged.model.buffers(), strict=True):
        assert torch.equal(one, two)


def test_the_monitor_judges_the_averaged_model_and_that_one_is_kept(examples: Examples, start: Trained) -> None:
    seen: list[Tensor] = []

    def judge(model: nn.Module, epoch: int) -> float:
        seen.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        return [0.1, 0.9, 0.2][epoch]

    trained = fit(replace(NATURAL, average=0.9, keep="best"), examples, None, start, judge, 0)
    assert trained.epoch == 2
    assert torch.equal(weights(trained), seen[1])


def test_shrink_mixes_the_previous_weights_with_fresh_ones(examples: Examples, start: Trained) -> None:
    fresh = convnet(classes=10, seed=5)
    still = replace(NATURAL, optimiser=Adam(1e-30), epochs=1, shrink=0.25)
    before = copy.deepcopy(fresh.state_dict())
    mixed = fit(still, examples, None, start, None, 0, fresh=lambda _: fresh)
    for parameter, old, new in zip(mixed.model.parameters(), start.model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), 0.25 * old.detach() + 0.75 * new.detach())
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items())


def test_patience_ends_a_training_that_gets_no_better(examples: Examples, start: Trained, tmp_path: Path) -> None:
    scores = [0.3, 0.5, 0.4, 0.4, 0.9]
    watching = Watching()
    recipe = replace(NATURAL, objective=watching, epochs=5, keep="best", patience=2)
    place = tmp_path / "training.safetensors"
    trained = fit(recipe, examples, None, start, lambda model, epoch: scores[epoch], 0, checkpoint=place)
    assert (trained.epoch, trained.steps, len(watching.batches)) == (2, 4 * 5, 4 * 5)
    assert trained.evaluations == 4 * 41
    again = fit(recipe, examples, None, start, lambda model, epoch: 1 / 0, 0, checkpoint=place)
    assert (again.epoch, again.steps, again.evaluations) == (2, 20, 4 * 41)


def test_a_budget_is_spent_however_few_examples_there_are(examples: Examples, start: Trained) -> None:
    """Ten examples in batches of up to 100: each step costs ten evaluations, and 300 are 30 steps."""
    trained = fit(replace(NATURAL, batch_size=100, budget=300), examples.only(torch.arange(10)), None, start, None, 0)
    assert (trained.steps, trained.evaluations) == (30, 300)


def test_patience_does_not_take_the_last_snapshot_away(examples: Examples, start: Trained) -> None:
    recipe = replace(NATURAL, epochs=10, keep="best", patience=1, snapshots=5)
    trained = fit(recipe, examples, None, start, lambda model, epoch: -float(epoch), 0)
    assert trained.epoch == 1
    assert len(trained.snapshots) == 2  # after epoch 2, and at the end
    assert all(torch.equal(trained.snapshots[-1][name], part) for name, part in trained.model.state_dict().items())


def test_more_snapshots_than_steps_are_refused(examples: Examples, start: Trained) -> None:
    with pytest.raises(InputError, match="of a training of 2 steps"):
        fit(replace(NATURAL, budget=16, snapshots=3), examples.only(torch.arange(40)), None, start, None, 0)


def test_a_monitor_without_an_answer_is_an_error(examples: Examples, start: Trained) -> None:
    with pytest.raises(ContractError, match="the monitor answered NaN in epoch 1"):
        fit(replace(NATURAL, keep="best"), examples, None, start, lambda model, epoch: float("nan"), 0)


def test_snapshots_of_a_budget_are_spread_over_its_steps(examples: Examples, start: Trained) -> None:
    few = examples.only(torch.arange(40))
    trained = fit(replace(NATURAL, budget=8 * 7, snapshots=3), few, None, start, None, 0)
    assert len(trained.snapshots) == 3
    for snapshot, steps in zip(trained.snapshots, (3, 5, 7), strict=True):
        # The learning rate is constant, so a shorter training is the beginning of a longer one.
        shorter = fit(replace(NATURAL, budget=8 * steps), few, None, start, None, 0).model.state_dict()
        assert all(torch.equal(snapshot[name], value) for name, value in shorter.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "at least 1; 0 came"),
        ({"unlabelled_batch": 1}, "unlabelled_batch counts images, at least 2"),
        ({"ramp": 1.5}, "ramp lies in"),
        ({"average": 1.0}, "average in"),
        ({"shrink": 0.0}, "shrink in"),
        ({"shrink": 0.5, "warm_start": False}, "shrink is for a warm start"),
        ({"patience": 3}, "goes with keep"),
        ({"patience": 0, "keep": "best"}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**settings)
