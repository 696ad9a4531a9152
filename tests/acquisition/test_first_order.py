"""RobOT's first-order loss against the definition, and the choices made by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.acquisition import BEST, KMST, FirstOrderLoss, select
from robal.acquisition.first_order import first_order_loss
from robal.attacks import FGSM, PGD, perturb
from robal.candidates import Candidates
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L1, L2, Linf, Threat
from small_models import convnet

IMAGES = torch.rand(24, 1, 8, 8, generator=generator(0, "images"))


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.7), L1(3.0)])
def test_it_is_what_a_linear_loss_could_still_rise(threat: Threat) -> None:
    model, attack = convnet().eval(), PGD(steps=3, threat=threat)
    labels = model(IMAGES).argmax(1)
    moved = perturb(attack, model, IMAGES, labels, generator(1))
    found = first_order_loss(model, IMAGES, moved, labels, attack)
    at = moved.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(at), labels, reduction="sum"), at)
    dual = {"Linf": 1, "L2": 2, "L1": torch.inf}[type(threat).__name__]
    wanted = threat.eps * slope.flatten(1).norm(dual, dim=1) - (slope * (moved - IMAGES)).flatten(1).sum(1)
    torch.testing.assert_close(found, wanted.clamp_min(0), atol=1e-5, rtol=1e-4)


def test_it_vanishes_where_the_attack_has_converged() -> None:
    class Bilinear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)

    inner = torch.full((4, 1, 2, 2), 0.5)
    attack = FGSM(threat=Linf(0.25))  # for such a model one step is all there is
    labels = torch.zeros(4, dtype=torch.int64)
    moved = perturb(attack, Bilinear(), inner, labels, generator(0))
    before = first_order_loss(Bilinear(), inner, inner, labels, attack)
    assert (first_order_loss(Bilinear(), inner, moved, labels, attack) < 1e-6).all()
    assert (before > 0.01).all()


def by_index(candidates: Candidates, draw: torch.Generator) -> Tensor:
    """0 for the first image, 1 for the second, but 1000 for the last."""
    return torch.where(candidates.indices == 19, 1000, candidates.indices).float()


def test_kmst_takes_equal_shares_of_equal_ranges() -> None:
    def even(candidates: Candidates, draw: torch.Generator) -> Tensor:
        return candidates.indices.float()

    chosen = select(KMST(even, sections=4), convnet(), IMAGES[:20], 8)
    assert sorted((chosen // 5).tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    others = select(KMST(even, sections=4), convnet(), IMAGES[:20], 8, seed=1)
    assert chosen.tolist() != others.tolist()
    uneven = select(KMST(even, sections=4), convnet(), IMAGES[:20], 6)
    assert sorted((uneven // 5).tolist()) == [0, 0, 1, 1, 2, 3]


def test_kmst_fills_up_where_a_range_is_short() -> None:
    chosen = select(KMST(by_index), convnet(), IMAGES[:20], 8).tolist()
    assert 19 in chosen  # alone in the last range
    assert len(set(chosen)) == 8


def test_best_takes_both_ends() -> None:
    assert select(BEST(by_index), convnet(), IMAGES[:20], 5).tolist() == [19, 18, 17, 0, 1]
    assert sorted(select(BEST(by_index), convnet(), IMAGES[:20], 20).tolist()) == list(range(20))


def test_the_plans_threat_counts() -> None:
    small, large = (FirstOrderLoss(PGD(steps=2, random_start=False, threat=Linf(eps))) for eps in (0.01, 0.3))
    pool = select(small, convnet(), IMAGES, 24).tolist()
    assert pool != select(large, convnet(), IMAGES, 24).tolist()


def test_no_section_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="at least one range; sections=0 came"):
        KMST(sections=0)
