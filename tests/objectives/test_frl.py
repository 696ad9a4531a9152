from __future__ import annotations

from typing import Any

import pytest
import torch
from small_batches import a_batch
from torch import nn

from robal.errors import InputError
from robal.objectives import FRL, ClassCosts, Trades
from robal.objectives.class_costs import Multipliers
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import Linf
from small_models import convnet

THREAT = Linf(0.1)


class Brightness(nn.Module):
    """Class 1 where an image is brighter than ½, on the whole, else class 0; a third class never."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        mean = inputs.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5, -torch.ones_like(mean)], 1) * 4


def grey(*values: float) -> torch.Tensor:
    return (torch.tensor(values) * 255).round().to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def test_a_step_of_the_multipliers_by_hand() -> None:
    """Class 0: one of two images is wrong, the other falls. Class 1: both right, one falls. Class 2 is not there.

    Natural errors ½ and 0, of all ¼; boundary errors ½ and ½, of all ½.
    """
    costs = ClassCosts(natural_gap=0.05, boundary_gap=0.02, rate=0.1, radius_rate=0.2, steps=10)
    multipliers = Multipliers(3, torch.tensor([0.5, 0.25, 0.25]))
    images, labels = grey(0.6, 0.45, 0.55, 0.9), torch.tensor([0, 0, 1, 1])
    costs.update(multipliers, Brightness(), THREAT, images, labels, generator(0))
    torch.testing.assert_close(multipliers.natural, torch.tensor([0.1 * 0.2, 0.0, 0.0]))
    assert multipliers.boundary.tolist() == [0, 0, 0]  # 0.2 · (½ − ½ − 0.02), cut off
    torch.testing.assert_close(multipliers.radius, torch.tensor([-0.004, -0.004, 0.0]))
    assert int(multipliers.epochs) == 1


def test_weights_and_radii_by_hand() -> None:
    multipliers = Multipliers(2, torch.tensor([0.75, 0.25]))
    multipliers.natural.copy_(torch.tensor([0.0, 0.2]))
    multipliers.radius.copy_(torch.tensor([-1.0, 0.1]))
    labels = torch.tensor([0, 1, 1])
    natural, stable = ClassCosts().weights(multipliers, labels)
    # ½ ∓ 0.1, over their mean ¾ · 0.4 + ¼ · 0.6 = 0.45
    torch.testing.assert_close(natural, torch.tensor([0.4, 0.6, 0.6]) / 0.45)
    assert stable.tolist() == [1, 1, 1]
    torch.testing.assert_close(
        ClassCosts().radii(multipliers, labels)[:2], torch.tensor([0.98, 1.2214]), rtol=1e-4, atol=0
    )
    assert ClassCosts(remargin=False).radii(multipliers, labels).tolist() == [1, 1, 1]
    assert ClassCosts(reweight=False).weights(multipliers, labels)[0].tolist() == [1, 1, 1]


def test_multipliers_are_limited_in_sum_and_their_rate_halves() -> None:
    costs = ClassCosts(rate=10.0, limit=0.3, steps=2)
    multipliers = Multipliers(3, torch.full((3,), 1 / 3))
    images, labels = grey(0.9, 0.1, 0.1), torch.tensor([0, 1, 1])
    costs.update(multipliers, Brightness(), THREAT, images, labels, generator(0))
    assert float(multipliers.natural.sum()) == pytest.approx(0)  # all are wrong: no class is above the mean
    costs.update(multipliers, Brightness(), THREAT, grey(0.9, 0.9, 0.9), labels, generator(0))
    assert float(multipliers.natural.sum()) == pytest.approx(0.3)
    small = ClassCosts(rate=0.01, natural_gap=0.0, steps=2)
    rows = []
    for epochs in (0, 39, 40, 80):
        multipliers = Multipliers(3, torch.full((3,), 1 / 3))
        multipliers.epochs += epochs
        small.update(multipliers, Brightness(), THREAT, grey(0.9, 0.9, 0.9), labels, generator(0))
        rows.append(float(multipliers.natural[0]))
    assert rows == pytest.approx([0.01 * 2 / 3, 0.01 * 2 / 3, 0.005 * 2 / 3, 0.0025 * 2 / 3])


def test_before_anything_is_learned_it_is_trades() -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    objective = FRL(beta=2.0, steps=3, threat=THREAT)
    companion = objective.begin(model, Examples.of(batch.inputs, batch.labels))
    values = objective(model, companion, batch, generator(1))
    torch.testing.assert_close(values, Trades(beta=2.0, steps=3, threat=THREAT)(model, None, batch, generator(1)))


def test_a_class_with_a_larger_radius_is_moved_further() -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    objective = FRL(steps=3, threat=THREAT)
    companion = objective.begin(model, Examples.of(batch.inputs, batch.labels))
    before = objective(model, companion, batch, generator(1))
    companion.radius[2] = 0.3
    after = objective(model, companion, batch, generator(1))
    assert (after > before + 1e-3).tolist() == (batch.labels == 2).tolist()


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"steps": 0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="FRL needs beta > 0 and steps >= 1"):
        FRL(**settings)
