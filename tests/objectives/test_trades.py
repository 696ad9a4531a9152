from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_batches import a_batch
from torch.nn import functional as F

from robal.attacks import FGSM, ascend
from robal.errors import InputError
from robal.objectives import Adversarial, Batch, Natural, Trades
from robal.objectives.trades import kl_divergence
from robal.seeds import generator
from robal.threats import Linf
from small_models import convnet, linear


def test_the_divergence_by_hand() -> None:
    """½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4 / 3), and the other way round ¼ log ½ + ¾ log(3 / 2)."""
    half, quarter = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    assert float(kl_divergence(half, quarter)) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(kl_divergence(quarter, half)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(kl_divergence(quarter, quarter)) == 0


def test_the_divergence_is_that_of_torch() -> None:
    first, second = torch.randn(7, 5, generator=generator(0)), torch.randn(7, 5, generator=generator(1))
    wanted = F.kl_div(second.log_softmax(1), first.log_softmax(1), reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(kl_divergence(first, second), wanted)


def test_trades_on_a_linear_model_by_hand() -> None:
    """Logits (x log 3, 0) at x = ½, radius ½: the outputs (√3, 1) / (√3 + 1) diverge most from (1, 1) / 2 at x = 0.

    At x = 1 they would diverge from (3, 1) / 4, which is less; the start decides, and this seed starts downwards.
    """
    model = linear([[math.log(3)], [0.0]])
    batch = Batch(torch.full((1, 1, 1, 1), 0.5), torch.tensor([1]), torch.ones(1))
    value = Trades(beta=2.0, threat=Linf(0.5))(model, None, batch, _starting_downwards())
    p = math.sqrt(3) / (math.sqrt(3) + 1)
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert float(value.detach()) == pytest.approx(-math.log(1 - p) + 2.0 * divergence, rel=1e-5)


def _starting_downwards() -> torch.Generator:
    for seed in range(20):
        if torch.randn(1, generator=generator(seed)) < 0:
            return generator(seed)
    raise AssertionError


def test_trades_without_its_penalty_is_natural_training() -> None:
    batch = a_batch()
    model = convnet(dropout=0.0).train()
    natural = Natural()(model, None, batch, generator(0))
    assert torch.equal(Trades(beta=0.0)(model, None, batch, generator(0)), natural)
    assert Trades(beta=0.0).passes == 1


def test_trades_without_a_radius_is_natural_training() -> None:
    batch = a_batch()
    model = convnet(dropout=0.0).eval()
    natural = Natural()(model, None, batch, generator(0))
    torch.testing.assert_close(Trades(threat=Linf(0.0))(model, None, batch, generator(0)), natural)


def test_trades_is_its_formula_with_the_crafting_written_out() -> None:
    model, batch, threat = convnet(dropout=0.0).eval(), a_batch(), Linf(0.1)
    values = Trades(beta=3.0, steps=4, step_size=0.03, threat=threat)(model, None, batch, generator(5))
    start = batch.inputs + 0.001 * torch.randn(batch.inputs.shape, generator=generator(5))
    with torch.no_grad():
        logits = model(batch.inputs)
    moved = ascend(
        lambda x: kl_divergence(logits, model(x)), batch.inputs, threat, steps=4, step_size=0.03, start=start
    )
    wanted = F.cross_entropy(logits, batch.labels, reduction="none") + 3.0 * kl_divergence(logits, model(moved))
    torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
    assert (values > F.cross_entropy(logits, batch.labels, reduction="none")).all()


def test_the_penalty_grows_with_its_weight() -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    zero, one, three = (
        Trades(beta=beta, threat=Linf(0.1))(model, None, batch, generator(0)) for beta in (0.0, 1.0, 3.0)
    )
    torch.testing.assert_close(three - zero, 3 * (one - zero), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("radius", [0.0, 0.1])
def test_images_without_labels_bring_their_divergence_and_nothing_else(radius: float) -> None:
    """Two calls by hand, one noise after the other: the mean loss is (Σ CE + β · Σ KL over all 10 images) / 6."""
    model, objective = convnet(dropout=0.0).eval(), Trades(beta=3.0, steps=2, threat=Linf(0.1), on_unlabelled=True)
    batch, beside = a_batch(), torch.rand(4, 1, 8, 8, generator=generator(1, "beside"))
    as_batch = Batch(beside, torch.zeros(4, dtype=torch.int64), torch.ones(4))
    noise = generator(5)
    alone = objective(model, None, batch, noise)
    divergence = objective(model, None, as_batch, noise) - Natural()(model, None, as_batch, noise)
    together = replace(objective, weight_radius=radius)(model, None, replace(batch, unlabelled=beside), generator(5))
    if radius:
        assert together.mean() > (alone.sum() + divergence.sum()) / 6 + 1e-3  # weights are moved for all images
    else:
        torch.testing.assert_close(together, alone + divergence.sum() / 6)
    without = replace(objective, beta=0.0)(model, None, replace(batch, unlabelled=beside), generator(5))
    assert torch.equal(without, Natural()(model, None, batch, generator(5)))


def test_images_without_labels_train_the_model() -> None:
    model, batch = convnet(dropout=0.0).train(), a_batch()
    beside = torch.rand(4, 1, 8, 8, generator=generator(1, "beside"))
    objective = Trades(steps=2, threat=Linf(0.1), on_unlabelled=True)
    objective(model, None, replace(batch, unlabelled=beside), generator(0)).mean().backward()
    assert model[1].num_batches_tracked == 2  # all images as they are, and all adversaries
    changed = convnet(dropout=0.0).train()
    objective(changed, None, batch, generator(0)).mean().backward()
    assert (model[5].weight.grad - changed[5].weight.grad).abs().max() > 1e-3


def test_others_leave_images_without_labels_alone() -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    beside = replace(batch, unlabelled=torch.rand(4, 1, 8, 8, generator=generator(1, "beside")))
    for objective in (Natural(), Adversarial(FGSM(threat=Linf(0.1))), Trades(steps=1, threat=Linf(0.1))):
        given = objective(model, None, beside, generator(0))
        assert torch.equal(given, objective(model, None, batch, generator(0)))


def test_costs_count_the_crafting_and_both_losses() -> None:
    assert (Trades(steps=7).passes, Trades(steps=7).unlabelled_passes) == (9, 0)
    assert Trades(steps=7, on_unlabelled=True).unlabelled_passes == 9
    assert (Trades(beta=0.0).passes, Trades(beta=0.0).unlabelled_passes) == (1, 0)


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"steps": 0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"Trades needs beta >= 0 and steps >= 1; (-1.0 and 10|6.0 and 0) came"):
        Trades(**settings)
