"""MTL-IBP: a mixture of the loss on adversaries and of a bound that no adversary exceeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robal.attacks import PGD
from robal.errors import InputError
from robal.evaluation import certified, clean, under_attack
from robal.networks import interval_bounds
from robal.objectives import MTLIBP, Adversarial, Batch
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import L2, Linf, scaled
from robal.training import Adam, Recipe, Trained, Triangular, fit
from small_models import convnet

EPS = Linf(0.1)
PLAIN = MTLIBP(PGD(3, threat=EPS), alpha=0.3, threat=EPS)


def a_batch() -> Batch:
    return Batch(torch.rand(5, 1, 8, 8, generator=generator(0, "batch")), torch.arange(5), torch.ones(5))


def test_it_is_the_mixture_of_both_losses() -> None:
    model, batch = convnet(classes=10).eval(), a_batch()
    low, high = (batch.inputs - 0.1).clamp(0, 1), (batch.inputs + 0.1).clamp(0, 1)
    bound = F.cross_entropy(-interval_bounds(model, low, high, batch.labels).margins, batch.labels, reduction="none")
    crafted = Adversarial(PGD(3, threat=EPS))(model, None, batch, generator(0, "crafting"))
    for alpha in (0.0, 0.3, 0.9):
        losses = replace(PLAIN, alpha=alpha)(model, None, batch, generator(0, "crafting"))
        assert torch.allclose(losses, (1 - alpha) * crafted + alpha * bound, rtol=1e-5)
    assert bool((bound >= crafted).all())  # no adversary is worse


def test_the_bound_does_not_shrink_with_weights_before_a_batchnorm() -> None:
    """BatchNorm undoes a factor of the weights before it; a bound by running ones would fall with it, endlessly."""
    norm = torch.nn.BatchNorm2d(4, eps=1e-12, momentum=0.0)  # running statistics stay, by which PGD attacks
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.Linear(144, 10)
    model = torch.nn.Sequential(first, norm, torch.nn.ReLU(), torch.nn.Flatten(), last).train()
    before = PLAIN(model, None, a_batch(), generator(0, "crafting"))
    (gradient,) = torch.autograd.grad(before.sum(), [first.weight])
    assert abs(float((gradient * first.weight.detach()).sum())) < 1e-4 * float(
        gradient.norm() * first.weight.detach().norm()
    )
    first.weight.data.mul_(0.5)
    norm.running_mean.mul_(0.5)  # type: ignore[union-attr, operator]
    norm.running_var.mul_(0.25)  # type: ignore[union-attr, operator]
    assert torch.allclose(before, PLAIN(model, None, a_batch(), generator(0, "crafting")), rtol=1e-4)
    assert not norm._forward_pre_hooks


def test_what_it_costs_and_how_it_grows() -> None:
    assert (PLAIN.passes, replace(PLAIN, alpha=0.0).passes) == (3 + 1 + 2, 3 + 1)
    grown = scaled(PLAIN, 0.5)
    assert (grown.alpha, grown.threat) == (0.15, Linf(0.05))
    assert grown.attack == PGD(3, threat=Linf(0.05))


@pytest.mark.slow
def test_training_by_it_certifies_what_adversarial_training_does_not(tiny_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = tiny_digits
    start, bought = Trained(convnet(classes=10).eval()), Examples.of(images, labels)
    recipe = Recipe(PLAIN, epochs=20, batch_size=20, optimiser=Adam(5e-3), schedule=Triangular(0.1), ramp=0.5)
    models = [
        fit(replace(recipe, objective=objective), bought, None, start, None, 0).model
        for objective in (PLAIN, replace(PLAIN, alpha=0.0))
    ]
    proved, without = (float(certified(model, images, labels, 0.1).float().mean()) for model in models)
    robust = under_attack(models[0], images, labels, PGD(20, threat=EPS), 0).accuracy
    assert clean(models[0], images, labels).accuracy >= robust >= proved > 0.3 > 0.05 > without


def test_settings_that_make_no_sense_are_refused() -> None:
    for alpha in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            MTLIBP(alpha=alpha)
    with pytest.raises(InputError, match="label_smoothing"):
        MTLIBP(label_smoothing=1.0)
    for threats in ({"threat": L2(0.5)}, {"attack": PGD(4, threat=L2(0.5))}):
        with pytest.raises(InputError, match="Linf"):
            MTLIBP(**threats)  # type: ignore[arg-type]


def test_smoothing_and_soft_targets_are_of_the_first_term_alone() -> None:
    model, batch = convnet(classes=10).eval(), a_batch()
    soft = replace(batch, targets=torch.full((5, 10), 0.1))
    hard, smoothed, even = (
        replace(PLAIN, label_smoothing=smoothing)(model, None, some, generator(0, "crafting"))
        for smoothing, some in ((0.0, batch), (0.2, batch), (0.0, soft))
    )
    for alone, losses, some, smoothing in ((hard, smoothed, batch, 0.2), (hard, even, soft, 0.0)):
        of_attack = [
            Adversarial(PGD(3, threat=EPS), label_smoothing=share)(model, None, part, generator(0, "crafting"))
            for share, part in ((0.0, batch), (smoothing, some))
        ]
        assert torch.allclose(losses - alone, 0.7 * (of_attack[1] - of_attack[0]), atol=1e-5)


def test_a_network_without_known_bounds_is_refused_before_the_first_step() -> None:
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.GELU())
    with pytest.raises(InputError, match="GELU"):
        PLAIN.begin(model, Examples.of(images, labels))
    with pytest.raises(InputError, match="GELU"):
        fit(Recipe(PLAIN, epochs=1, batch_size=4), Examples.of(images, labels), None, Trained(model), None, 0)
    replace(PLAIN, alpha=0.0).begin(model, Examples.of(images, labels))


def test_a_batchnorm_that_is_used_twice_is_refused() -> None:
    norm = torch.nn.BatchNorm2d(1)
    model = torch.nn.Sequential(norm, torch.nn.ReLU(), norm, torch.nn.Flatten(), torch.nn.Linear(64, 10)).train()
    with pytest.raises(InputError, match="uses twice"):
        PLAIN(model, None, a_batch(), generator(0, "crafting"))
    assert not norm._forward_pre_hooks
    assert len(replace(PLAIN, alpha=0.0)(model, None, a_batch(), generator(0, "crafting"))) == 5
