from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robal.errors import InputError
from robal.objectives import NFGSM, Batch, Natural
from robal.seeds import generator
from robal.threats import L2, Linf, with_threat
from small_models import convnet, linear


def a_batch(count: int = 6) -> Batch:
    inputs = torch.rand(count, 1, 8, 8, generator=generator(0, "batch")).round(decimals=1)
    return Batch(inputs, torch.arange(count) % 4, torch.ones(count))


@pytest.mark.parametrize("model", [linear(torch.randn(4, 64, generator=generator(0))), convnet(dropout=0.0).eval()])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_it_is_its_formula_in_plain_torch(model: nn.Module, step: float) -> None:
    batch, eps = a_batch(), 0.2
    values = NFGSM(step=step, threat=Linf(eps))(model, None, batch, generator(3))
    eta = (torch.rand(batch.inputs.shape, generator=generator(3)) * 2 - 1) * 2 * eps
    start = (batch.inputs + eta).clamp(0, 1).requires_grad_()
    F.cross_entropy(model(start), batch.labels).backward()
    assert start.grad is not None
    moved = (start.detach() + step * eps * start.grad.sign()).clamp(0, 1)
    wanted = F.cross_entropy(model(moved), batch.labels, reduction="none")
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-6)


def test_without_noise_it_is_one_step_to_the_edge_by_hand() -> None:
    """Logits are the pixels times log 3; the sign step of ¼ turns (½, ½) into (¼, ¾) for label 0."""
    batch = Batch(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), torch.ones(1))
    value = NFGSM(noise=0.0, threat=Linf(0.25))(linear(torch.eye(2) * math.log(3)), None, batch, generator(0))
    torch.testing.assert_close(value, torch.tensor([math.log(1 + 3**0.5)]))


class _Seeing(nn.Module):
    """A linear model that keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear(torch.randn(4, 64, generator=generator(0)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = inputs.detach()
        return self.inner(inputs)


def test_points_leave_the_ball_as_far_as_the_noise_goes_but_not_the_range_of_pixels() -> None:
    model = _Seeing().train()
    batch = Batch(torch.full((50, 1, 8, 8), 0.5), torch.arange(50) % 4, torch.ones(50))
    NFGSM(threat=Linf(0.1))(model, None, batch, generator(0))
    distance = (model.seen - 0.5).abs()
    assert 0.29 < distance.max() <= 0.3 + 1e-6
    assert (distance > 0.1 + 1e-6).float().mean() > 0.3
    NFGSM(threat=Linf(0.3))(model, None, batch, generator(0))
    assert model.seen.min() == 0
    assert model.seen.max() == 1


def test_without_a_radius_it_is_natural_training() -> None:
    batch, model = a_batch(), convnet(dropout=0.0).eval()
    robust = NFGSM(threat=Linf(0.0), label_smoothing=0.1)(model, None, batch, generator(0))
    assert torch.equal(robust, Natural(label_smoothing=0.1)(model, None, batch, generator(0)))


def test_another_threat_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"NFGSM is for Linf, not for L2, eps = 0.5; use Adversarial or Trades"):
        NFGSM(threat=L2(0.5))
    with pytest.raises(InputError, match="NFGSM is for Linf"):
        with_threat(NFGSM(), L2(0.5))


@pytest.mark.parametrize(
    ("settings", "came"),
    [({"noise": -0.1}, "-0.1 and 1.0"), ({"step": 0.0}, "2.0 and 0.0"), ({"noise": math.nan}, "nan and 1.0")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], came: str) -> None:
    with pytest.raises(InputError, match=f"NFGSM needs noise >= 0 and step > 0; {came} came"):
        NFGSM(**settings)
