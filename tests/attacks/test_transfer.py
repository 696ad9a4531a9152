"""Adversaries of one model on another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import PGD, perturb
from robal.attacks.transfer import transfer
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import Linf
from small_models import condition, convnet, linear, standing

Images = tuple[Tensor, Tensor]
ATTACK = PGD(steps=10, threat=Linf(0.12))


@pytest.fixture(scope="session")
def other(tiny_digits: Images) -> nn.Module:
    """A second model of the 8 x 8 digits, of other weights."""
    images, labels = tiny_digits[0][:1000].float() / 255, tiny_digits[1][:1000]
    model = convnet(classes=10, seed=5, dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="session")
def some(tiny_digits: Images) -> Images:
    return tiny_digits[0][1000:1100].float() / 255, tiny_digits[1][1000:1100]


def test_two_linear_models_by_hand() -> None:
    """The source weighs the first pixel; one model weighs the second, which stays as it is, another the first too."""
    image, labels = torch.tensor([[[[0.6, 0.6]]]]), torch.tensor([0])
    attack = PGD(steps=1, random_start=False, threat=Linf(0.25))
    source, deaf = linear([[1.0, 0.0], [0.0, 0.0]]), linear([[0.0, 1.0], [0.0, 0.0]])
    alike = linear([[1.0, 0.0], [0.0, 0.0]], [0.0, 0.5])
    missed = transfer(attack, source, deaf, image, labels, generator(0))
    hit = transfer(attack, source, alike, image, labels, generator(0))
    assert missed.adversaries.flatten().tolist() == pytest.approx([0.35, 0.6])
    assert (missed.right.tolist(), missed.stands.tolist(), missed.rate) == ([True], [True], 0.0)
    assert (hit.right.tolist(), hit.stands.tolist(), hit.rate) == ([True], [False], 1.0)


def test_from_a_model_to_itself_it_is_the_attack(tiny_model: nn.Module, some: Images) -> None:
    own = transfer(ATTACK, tiny_model, tiny_model, *some, generator(0))
    moved = perturb(ATTACK, tiny_model, *some, generator(0))
    assert torch.equal(own.adversaries, moved)
    assert torch.equal(own.right, standing(tiny_model, *some))
    assert torch.equal(own.stands, own.right & standing(tiny_model, moved, some[1]))


def test_adversaries_fool_their_source_most_and_another_model_more_than_noise_does(
    tiny_model: nn.Module, other: nn.Module, some: Images
) -> None:
    within, between = (transfer(ATTACK, source, tiny_model, *some, generator(0)) for source in (tiny_model, other))
    noise = ATTACK.threat.random_start(some[0], generator(0))  # type: ignore[union-attr]
    fooled = 1 - (standing(tiny_model, noise, some[1]) & between.right).sum() / between.right.sum()
    assert within.rate > between.rate > fooled + 0.1
    assert not (between.stands & ~between.right).any()
    assert ATTACK.threat.size(between.adversaries - some[0]).max() <= 0.12 * (1 + 1e-5)  # type: ignore[union-attr]


def test_batches_follow_each_other_and_none_is_left_out(tiny_model: nn.Module, other: nn.Module, some: Images) -> None:
    plain = PGD(steps=3, random_start=False, threat=Linf(0.1))
    whole = transfer(plain, other, tiny_model, *some, generator(0))
    parts = transfer(plain, other, tiny_model, *some, generator(0), batch_size=33)
    torch.testing.assert_close(parts.adversaries, whole.adversaries, rtol=0, atol=1e-6)
    assert torch.equal(parts.stands, whole.stands)


def test_both_models_come_back_as_they_were(some: Images) -> None:
    source, model = convnet(classes=10, seed=1).train(), convnet(classes=10, seed=2).train()
    before = condition(source), condition(model)
    first = transfer(ATTACK, source, model, *some, generator(0))
    assert (condition(source), condition(model)) == before
    again = transfer(ATTACK, source.eval(), model.eval(), *some, generator(0))
    assert torch.equal(first.adversaries, again.adversaries)
    assert torch.equal(first.stands, again.stands)


def test_a_model_that_is_always_wrong_is_fooled_by_nothing(
    tiny_model: nn.Module, other: nn.Module, some: Images
) -> None:
    with torch.no_grad():
        wrong = (tiny_model(some[0]).argmax(1) + 1) % 10
    result = transfer(ATTACK, other, tiny_model, some[0], wrong, generator(0))
    assert (result.rate, result.stands.any().item()) == (0.0, False)


def test_models_of_other_classes_are_refused(tiny_model: nn.Module, some: Images) -> None:
    with pytest.raises(InputError, match="same classes; the source has 4, the model 10"):
        transfer(ATTACK, convnet(), tiny_model, *some, generator(0))
    with pytest.raises(InputError, match=r"100 images came with labels of shape \[3\]"):
        transfer(ATTACK, tiny_model, tiny_model, some[0], some[1][:3], generator(0))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        transfer(ATTACK, tiny_model, tiny_model, some[0] * 3, some[1], generator(0))
