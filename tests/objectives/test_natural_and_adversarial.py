from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from robal.attacks import FGSM, PGD
from robal.errors import InputError
from robal.objectives import Adversarial, Batch, Natural
from robal.seeds import generator
from robal.threats import Linf
from small_models import convnet, linear

PAIR = Batch(torch.tensor([[[[0.5, 0.5]]], [[[1.0, 0.25]]]]), torch.tensor([0, 1]), torch.ones(2))


def test_natural_training_is_the_cross_entropy_by_hand() -> None:
    """Logits are the pixels times log 3: (½, ½) gives log 2, and (1, ¼) gives label 1 log(1 + 3^¾)."""
    values = Natural()(linear(torch.eye(2) * math.log(3)), None, PAIR, generator(0))
    torch.testing.assert_close(values, torch.tensor([math.log(2), math.log(1 + 3**0.75)]))


def test_smoothing_mixes_in_the_mean_over_the_classes() -> None:
    model = linear(torch.eye(2) * math.log(3))
    values = Natural(label_smoothing=0.2)(model, None, PAIR, generator(0))
    each = -F.log_softmax(model(PAIR.inputs), 1)
    torch.testing.assert_close(values, 0.8 * each[[0, 1], [0, 1]] + 0.2 * each.mean(1))


def test_adversarial_training_by_hand() -> None:
    """The sign step of ¼ lowers the pixel of the label and raises the other, within [0, 1]."""
    attack = FGSM(threat=Linf(0.25))
    values = Adversarial(attack)(linear(torch.eye(2) * math.log(3)), None, PAIR, generator(0))
    torch.testing.assert_close(values, torch.tensor([math.log(1 + 3**0.5), math.log(1 + 3.0)]))


def test_a_share_of_clean_images_is_theirs_of_the_loss() -> None:
    """log(1 + √3) and log 4 where attacked, log 2 and log(1 + 3^¾) as they are."""
    objective = Adversarial(FGSM(threat=Linf(0.25)), clean=0.25)
    values = objective(linear(torch.eye(2) * math.log(3)), None, PAIR, generator(0))
    robust = torch.tensor([math.log(1 + 3**0.5), math.log(1 + 3.0)])
    natural = torch.tensor([math.log(2), math.log(1 + 3**0.75)])
    torch.testing.assert_close(values, 0.75 * robust + 0.25 * natural)
    assert objective.passes == Adversarial(FGSM()).passes + 1
    assert Adversarial(FGSM(), weight_radius=0.01, clean=0.5).passes == 1 + 2 * 2


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_of_clean_images_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"clean is a share in \[0, 1\); (-0.1|1.0|nan) came"):
        Adversarial(clean=share)


def test_adversarial_training_without_a_radius_is_natural_training() -> None:
    batch = Batch(torch.rand(5, 1, 8, 8), torch.arange(5) % 4, torch.ones(5))
    model = convnet(dropout=0.0).eval()
    robust = Adversarial(PGD(threat=Linf(0.0)), label_smoothing=0.1)(model, None, batch, generator(0))
    assert torch.equal(robust, Natural(label_smoothing=0.1)(model, None, batch, generator(0)))


def test_adversarial_losses_are_no_smaller_than_natural_ones() -> None:
    batch = Batch(torch.rand(8, 1, 8, 8), torch.arange(8) % 4, torch.ones(8))
    model = convnet(dropout=0.0).eval()
    narrow, wide = (
        Adversarial(PGD(random_start=False, threat=Linf(eps)))(model, None, batch, generator(0)) for eps in (0.02, 0.1)
    )
    natural = Natural()(model, None, batch, generator(0))
    assert (narrow > natural).all()
    assert (wide > narrow).all()


def test_costs_count_the_crafting_and_the_step() -> None:
    assert Natural().passes == 1
    assert Adversarial(PGD(steps=7)).passes == 8
    assert Adversarial(FGSM()).passes == 2


@pytest.mark.parametrize("kind", [Natural, Adversarial])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_bounds_is_refused(kind: type, share: float) -> None:
    with pytest.raises(InputError, match=r"label_smoothing lies in \[0, 1\); (-0.1|1.0|nan) came"):
        kind(label_smoothing=share)
