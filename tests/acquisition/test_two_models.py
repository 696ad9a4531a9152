"""Entropy of attacked images, and of a standard model beside the robust one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import DRE, AdversarialEntropy, EntropyMix, MaxEntropy, select
from robal.attacks import FGSM
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.scores import entropy
from robal.seeds import generator
from robal.threats import Linf
from small_models import convnet, linear

PIXELS = torch.rand(40, 1, 8, 8, generator=generator(0, "pixels"))


def seen(model: nn.Module, rounds: int = 0, teacher: nn.Module | None = None, tile: int = 16) -> Candidates:
    pool = Pool.unlabelled(InMemory(PIXELS), ("a", "b", "c", "d"))
    history = [{"round": number} for number in range(rounds)]
    return Candidates(model, pool, pool.candidates, Local(tile), teacher, history=history)


def test_the_adversarial_entropy_of_a_linear_model_is_that_of_its_corner() -> None:
    """With logits ± w·x, w > 0, FGSM lowers every pixel of an image of class 0 by ε, wherever it is above it."""
    weight = torch.rand(64, generator=generator(0, "weight")) * 0.1
    model = linear(torch.stack([weight, -weight]))
    pool = Pool.unlabelled(InMemory(PIXELS.clamp(0.2, 0.8)), ("a", "b"))
    candidates = Candidates(model, pool, pool.candidates)
    got = AdversarialEntropy(FGSM(threat=Linf(0.1)))(candidates, generator(0))
    logit = (PIXELS.clamp(0.2, 0.8) - 0.1).flatten(1) @ weight
    torch.testing.assert_close(got, entropy(torch.stack([logit, -logit], 1).softmax(1)))


def test_an_attack_of_no_size_leaves_the_entropy_as_it_is() -> None:
    model = convnet().eval()
    with torch.no_grad():
        plain = MaxEntropy()(seen(model), generator(0))
        attacked = AdversarialEntropy(FGSM(threat=Linf(0.0)))(seen(model), generator(0))
        real = AdversarialEntropy(FGSM(threat=Linf(0.1)))(seen(model), generator(0))
    torch.testing.assert_close(attacked, plain)
    assert not torch.allclose(real, plain)


def test_the_adversarial_entropy_may_be_what_dre_follows() -> None:
    assert len(select(DRE(score=AdversarialEntropy(FGSM()), bins=4), convnet(), PIXELS, 10)) == 10


@pytest.mark.parametrize(("rounds", "weight"), [(0, 1.0), (1, 1.0), (2, 0.75), (4, 0.25), (5, 0.0), (9, 0.0)])
def test_the_standard_model_decides_early_and_the_robust_one_late(rounds: int, weight: float) -> None:
    robust, standard = convnet(seed=0).eval(), convnet(seed=1).eval()
    with torch.no_grad():
        got = EntropyMix(rounds=4)(seen(robust, rounds, standard), generator(0))
        both = [entropy(model(PIXELS).softmax(1)) for model in (standard, robust)]
    torch.testing.assert_close(got, weight * both[0] + (1 - weight) * both[1], rtol=1e-4, atol=1e-6)


def test_without_a_standard_model_the_mix_says_what_to_give() -> None:
    with pytest.raises(InputError, match="a standard model is needed beside the robust one"):
        select(EntropyMix(), convnet(), PIXELS, 3)
    with pytest.raises(InputError, match="at least one round; 0 came"):
        EntropyMix(rounds=0)


def test_the_teacher_comes_back_as_it_was() -> None:
    def modes(model: nn.Module) -> list[bool]:
        return [part.training for part in model.modules()]

    teacher = convnet(seed=1).train()
    before: list[Tensor] = [tensor.clone() for tensor in teacher.state_dict().values()]
    select(EntropyMix(), convnet(), PIXELS, 3, teacher=teacher)
    assert all(modes(teacher))
    assert all(torch.equal(one, two) for one, two in zip(before, teacher.state_dict().values(), strict=True))
