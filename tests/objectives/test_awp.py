from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_batches import a_batch
from torch import Tensor, nn

from robal.attacks import FGSM
from robal.errors import InputError
from robal.objectives import NFGSM, Adversarial, Batch, Trades, hardest_weights
from robal.seeds import generator
from robal.threats import Linf
from small_models import Viewing, condition, convnet, linear

THREAT = Linf(0.1)
PLAIN: dict[str, Any] = {
    "Adversarial": Adversarial(FGSM(threat=THREAT)),
    "Trades": Trades(steps=2, threat=THREAT),
    "NFGSM": NFGSM(threat=THREAT),
}
MOVED: dict[str, Any] = {
    "Adversarial": Adversarial(FGSM(threat=THREAT), weight_radius=0.05),
    "Trades": Trades(steps=2, threat=THREAT, weight_radius=0.05),
    "NFGSM": NFGSM(threat=THREAT, weight_radius=0.05),
}


def a_small_net() -> nn.Sequential:
    return convnet(dropout=0.0).train()


def test_one_layer_moves_along_its_gradient_by_a_share_of_its_length() -> None:
    """Of one black-and-white image with probabilities p: g = (p - onehot) xᵀ."""
    weight = torch.tensor([[1.0, 2.0], [0.0, -1.0], [0.5, 0.0]])
    model = linear(weight)
    image, label = torch.tensor([1.0, 0.5]), 1
    loss = -model(image.view(1, 1, 1, 2)).log_softmax(1)[0, label]
    found = hardest_weights(model, loss, 0.3)
    probs = (weight @ image).softmax(0)
    gradient = (probs - torch.eye(3)[label])[:, None] * image
    assert set(found) == {"1.weight"}  # a bias has one dimension and stays
    torch.testing.assert_close(found["1.weight"], 0.3 * weight.norm() * gradient / gradient.norm())


def test_each_tensor_has_its_own_length_and_frozen_or_idle_ones_stay() -> None:
    model = a_small_net()
    model.register_module("idle", nn.Linear(3, 3))
    loss = model[:6](a_batch().inputs).logsumexp(1).mean()
    found = hardest_weights(model, loss, 0.01)
    assert set(found) == {"0.weight", "5.weight"}
    for name, change in found.items():
        torch.testing.assert_close(change.norm(), 0.01 * model.get_parameter(name).norm().detach())
        assert not change.requires_grad
    model[0].requires_grad_(False)
    assert set(hardest_weights(model, model[:6](a_batch().inputs).logsumexp(1).mean(), 0.01)) == {"5.weight"}
    model.requires_grad_(False)
    assert hardest_weights(model, torch.zeros(()), 0.01) == {}


def test_a_gradient_of_zero_moves_nothing() -> None:
    model = linear([[1.0, 2.0]])
    found = hardest_weights(model, (model(torch.ones(1, 1, 1, 2)) * 0).sum(), 0.5)
    assert torch.equal(found["1.weight"], torch.zeros(1, 2))


@pytest.mark.parametrize("name", MOVED)
def test_losses_and_gradients_are_those_of_a_copy_whose_weights_were_moved(name: str) -> None:
    """A model in eval mode, without BatchNorm's part; the crafting sees the unmoved weights, so it is made once."""
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    values = MOVED[name](model, None, batch, generator(1))
    values.mean().backward()
    found = hardest_weights(model, PLAIN[name](model, None, batch, generator(1)).mean(), 0.05)
    wanted, gradients = _of_a_moved_copy(name, model, batch, found)
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-5)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def _of_a_moved_copy(
    name: str, model: nn.Module, batch: Batch, changes: dict[str, Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    other: Any = copy.deepcopy(model)
    with torch.no_grad():
        for part, change in changes.items():
            other.get_parameter(part).add_(change)
    moved = _adversaries(name, model, batch)
    if name == "Trades":
        logits, moved_logits = other(batch.inputs), other(moved)
        divergence = nn.functional.kl_div(moved_logits.log_softmax(1), logits.softmax(1), reduction="none").sum(1)
        losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none") + 6.0 * divergence
    else:
        losses = nn.functional.cross_entropy(other(moved), batch.labels, reduction="none")
    return losses, torch.autograd.grad(losses.mean(), list(other.parameters()))


def _adversaries(name: str, model: nn.Module, batch: Batch) -> Tensor:
    """Where each objective moves the images, by the crafting of its own that is tested elsewhere."""
    if name == "Adversarial":
        return FGSM(threat=THREAT)(model, batch.inputs, batch.labels, generator(1))
    return PLAIN[name]._craft(model, batch.inputs if name == "Trades" else batch, generator(1))


@pytest.mark.parametrize("name", MOVED)
def test_moved_weights_are_worse_ones(name: str) -> None:
    plain, moved = (kinds[name](a_small_net(), None, a_batch(), generator(1)).mean() for kinds in (PLAIN, MOVED))
    assert moved > plain + 1e-3


@pytest.mark.parametrize("name", MOVED)
def test_the_search_leaves_weights_gradients_and_statistics_alone(name: str) -> None:
    """BatchNorm is updated as often as without: by the pass at the moved weights, not by the one that finds them."""
    model, plain = a_small_net(), a_small_net()
    before = condition(model)
    MOVED[name](model, None, a_batch(), generator(1))
    PLAIN[name](plain, None, a_batch(), generator(1))
    after = condition(model)
    assert (after[:3], after[4]) == (before[:3], before[4])
    assert model[1].num_batches_tracked == plain[1].num_batches_tracked == (2 if name == "Trades" else 1)
    assert not torch.equal(model[1].running_mean, a_small_net()[1].running_mean)
    assert not torch.equal(model[1].running_mean, plain[1].running_mean)


def test_an_example_of_no_weight_has_no_say_in_where_the_weights_go() -> None:
    model = linear(torch.randn(4, 64, generator=generator(0)))
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    whole = a_batch()
    batch = Batch(whole.inputs, whole.labels, weights)
    first = Batch(batch.inputs[:5], batch.labels[:5], weights[:5])
    objective = Adversarial(FGSM(threat=THREAT), weight_radius=0.1)
    values = objective(model, None, batch, generator(0))
    torch.testing.assert_close(values[:5], objective(model, None, first, generator(0)))


def test_training_on_the_hardest_weights_works_for_any_module() -> None:
    model = Viewing().train()
    values = MOVED["Adversarial"](model, None, a_batch(), generator(0))
    values.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_it_costs() -> None:
    """One more loss, which TRADES counts twice: for the images and for their adversaries."""
    assert [objective.passes for objective in PLAIN.values()] == [2, 4, 2]
    assert [objective.passes for objective in MOVED.values()] == [3, 6, 3]
    assert Trades(beta=0.0, weight_radius=0.1).passes == 2


@pytest.mark.parametrize("kind", [Adversarial, Trades, NFGSM])
@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_cannot_be_is_refused(kind: Any, radius: float) -> None:
    with pytest.raises(InputError, match=f"weight_radius is a share of a weight's length, 0 or more; {radius} came"):
        kind(weight_radius=radius)
