from __future__ import annotations

from typing import Any

import pytest
import torch
from small_batches import a_batch
from torch.nn import functional as F

from robal.attacks import ascend
from robal.errors import InputError
from robal.objectives import ACT
from robal.objectives.trades import kl_divergence
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import Linf
from small_models import convnet

THREAT = Linf(0.1)


def test_it_is_its_formula_with_the_crafting_written_out() -> None:
    robust, natural, batch = convnet(dropout=0.0).eval(), convnet(seed=1, dropout=0.0).eval(), a_batch()
    companion = ACT().begin(natural, Examples.of(batch.inputs, batch.labels))
    for layer in companion.modules():  # the loss's pass is in training mode; here statistics are to be the running ones
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.train = lambda mode=True, layer=layer: layer  # type: ignore[method-assign]
            layer.training = False
    values = ACT(share=0.7, temperature=2.0, steps=3, step_size=0.04, threat=THREAT)(
        robust, companion, batch, generator(1)
    )
    with torch.no_grad():
        beside = natural(batch.inputs)

    def climbed(images: torch.Tensor) -> torch.Tensor:
        logits = robust(images)
        wrong = F.cross_entropy(logits, batch.labels, reduction="none")
        return 0.3 * wrong + 0.7 * F.kl_div(
            logits.log_softmax(1), beside.log_softmax(1), reduction="none", log_target=True
        ).sum(1)

    start = batch.inputs + 0.001 * torch.randn(batch.inputs.shape, generator=generator(1))
    moved = ascend(climbed, batch.inputs, THREAT, steps=3, step_size=0.04, start=start)
    ours = robust(moved)
    wanted = 0.3 * F.cross_entropy(ours, batch.labels, reduction="none")
    wanted = wanted + 0.3 * F.cross_entropy(beside, batch.labels, reduction="none")
    wanted = wanted + 0.7 * 4 * (kl_divergence(beside / 2, ours / 2) + kl_divergence(ours / 2, beside / 2))
    torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)


def test_each_network_is_taught_by_its_own_part_alone() -> None:
    """With share 1 each follows the other: where both answer alike there is nothing to learn."""
    model, batch = convnet(dropout=0.0).train(), a_batch()
    objective = ACT(share=1.0, steps=1, threat=Linf(0.0))
    companion = objective.begin(model, Examples.of(batch.inputs, batch.labels))
    values = objective(model, companion, batch, generator(0))
    assert (values.abs() < 1e-4).all()
    values = ACT(share=0.0, steps=1, threat=THREAT)(model, companion, batch, generator(0))
    values.mean().backward()
    natural = F.cross_entropy(companion(batch.inputs), batch.labels)
    wanted = torch.autograd.grad(natural, list(companion.parameters()))
    for parameter, gradient in zip(companion.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("settings", [{"share": 1.1}, {"temperature": 0.0}, {"steps": 0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"ACT needs share in \[0, 1\], temperature > 0 and steps >= 1"):
        ACT(**settings)
