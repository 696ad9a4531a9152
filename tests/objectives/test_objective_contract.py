"""The law book of objectives: every exported one is found by its export and keeps the contract."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from small_batches import a_batch
from torch import Tensor, nn

from robal.objectives import ALIASES, CAAT, FRL, Batch, Lesson, Objective, Trades
from robal.plans import known
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import L2, Linf, Threat, with_threat
from robal.training.lookahead import lookahead
from small_models import condition, convnet, linear

EXPORTED = known(Objective)
THREATS: list[Threat] = [Linf(0.1), L2(0.5)]
LINF_ONLY = {"MTLIBP", "NFGSM"}
PAIRS = [(name, threat) for name in sorted(EXPORTED) for threat in THREATS[: 1 if name in LINF_ONLY else 2]]


@pytest.fixture(params=sorted(EXPORTED))
def kind(request: pytest.FixtureRequest) -> Any:
    return EXPORTED[request.param]


@pytest.fixture(params=PAIRS, ids=str)
def objective(request: pytest.FixtureRequest) -> Any:
    name, threat = request.param
    return with_threat(EXPORTED[name](), threat)


def losses(objective: Any, model: nn.Module, batch: Batch, seed: int = 0) -> Tensor:
    examples = Examples.of(batch.inputs, batch.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the dropout layers, as the trainer sets it
        return objective(model, objective.begin(model, examples), batch, generator(seed, "crafting"))


def test_nine_objectives_are_found_by_their_export() -> None:
    assert set(EXPORTED) == {"ACT", "CAAT", "FRL", "Adversarial", "FixMatch", "MTLIBP", "NFGSM", "Natural", "Trades"}
    assert set(ALIASES.values()) <= set(EXPORTED)


def test_objectives_are_frozen_values_that_can_be_built_without_arguments(kind: Any) -> None:
    assert kind() == kind()
    with pytest.raises(FrozenInstanceError):
        kind().passes = 0
    assert kind().passes >= 1


@pytest.mark.parametrize("count", [2, 6])
def test_there_is_one_finite_loss_an_example(objective: Any, count: int) -> None:
    values = losses(objective, convnet().train(), a_batch(count))
    assert values.shape == (count,)
    assert torch.isfinite(values).all()
    assert (values > 0).all()


def test_a_step_along_the_gradient_lowers_the_loss(objective: Any) -> None:
    model = convnet(dropout=0.0).train()
    before = losses(objective, model, a_batch()).mean()
    before.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model[5].parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.05 * parameter.grad  # type: ignore[operator]
    assert losses(objective, model, a_batch()).mean() < before


def test_the_model_stays_in_the_mode_it_was_in_and_no_gradient_is_left_behind(objective: Any) -> None:
    model = convnet().train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    modes, flags, weights, _, _ = condition(model)
    losses(objective, model, a_batch())
    after = condition(model)
    assert after[:3] == [modes, flags, weights]
    assert after[4] == [None] * 6


def test_crafting_leaves_the_statistics_of_batchnorm_alone(objective: Any) -> None:
    """The loss is one forward pass in training mode (TRADES, FRL, CAAT: two); crafting is none."""
    model = convnet(dropout=0.0).train()
    losses(objective, model, a_batch())
    assert model[1].num_batches_tracked == (2 if isinstance(objective, CAAT | FRL | Trades) else 1)


def test_the_batch_is_left_alone_and_equal_generators_give_equal_losses(objective: Any) -> None:
    batch = a_batch()
    kept = batch.inputs.clone(), batch.labels.clone()
    model = convnet(dropout=0.0).eval()
    first = losses(objective, model, batch)
    assert torch.equal(first, losses(objective, model, batch))
    assert torch.equal(batch.inputs, kept[0])
    assert torch.equal(batch.labels, kept[1])


def test_examples_do_not_influence_each_other(objective: Any) -> None:
    """On a model without BatchNorm: another last image changes the last loss and no other."""
    model = linear(torch.randn(4, 64, generator=generator(0, "weight"))).train()
    batch = a_batch()
    changed = batch.inputs.clone()
    changed[-1] = 1 - changed[-1]
    first, second = losses(objective, model, batch), losses(objective, model, replace(batch, inputs=changed))
    torch.testing.assert_close(first[:-1], second[:-1])
    assert (first[-1] - second[-1]).abs() > 1e-3


def test_weights_are_the_trainers_business(objective: Any) -> None:
    batch, model = a_batch(), convnet(dropout=0.0).eval()
    heavier = replace(batch, weights=torch.full((6,), 7.0))
    assert torch.equal(losses(objective, model, batch), losses(objective, model, heavier))


def test_learning_beside_the_model_changes_the_companion_alone(objective: Any) -> None:
    if not hasattr(objective, "learn"):
        return
    model, batch = convnet(dropout=0.0).train(), a_batch()
    companion = objective.begin(model, Examples.of(batch.inputs, batch.labels))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    lesson = Lesson(batch.inputs.flip(0), batch.labels.flip(0), 0, lookahead(optimiser, model))
    before, learned = condition(model), {name: one.clone() for name, one in companion.state_dict().items()}
    objective.learn(model, companion, batch, lesson, generator(0, "learning"))
    assert condition(model) == before
    assert any(not torch.equal(one, learned[name]) for name, one in companion.state_dict().items())
    assert all(parameter.grad is None for parameter in companion.parameters())
