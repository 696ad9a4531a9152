"""Crafted: what was chosen comes back as adversarial examples, and training leaves those as they are."""

from __future__ import annotations

import torch

from robal.acquisition import DFAL, DRE, Crafted, MaxEntropy, examples_of, select
from robal.attacks import PGD, perturb
from robal.candidates import Candidates
from robal.images import InMemory, unit
from robal.objectives import Adversarial, Batch
from robal.pool import Examples, Pool
from robal.seeds import generator
from robal.threats import Linf
from robal.training import Recipe
from robal.training.batches import batches
from small_models import convnet

PIXELS = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "pixels"))
POOL = Pool.unlabelled(InMemory(PIXELS), ("a", "b", "c", "d"))
ATTACK = PGD(steps=3, threat=Linf(0.1))


def test_it_chooses_as_the_inner_function_does() -> None:
    model = convnet()
    for inner in (MaxEntropy(), DRE(bins=4)):
        assert select(Crafted(inner), model, POOL, 5).tolist() == select(inner, model, POOL, 5).tolist()


def test_its_examples_are_the_attacks() -> None:
    model, chosen, labels = convnet().eval(), torch.tensor([4, 0, 9]), torch.tensor([1, 2, 0])
    candidates = Candidates(model, POOL, POOL.candidates)
    found = examples_of(Crafted(MaxEntropy(), ATTACK), candidates, chosen, labels, generator(3))
    assert found.count("crafted") == len(found) == 3
    assert found.origin.tolist() == [4, 0, 9]
    assert found.labels.tolist() == [1, 2, 0]
    torch.testing.assert_close(found.images, perturb(ATTACK, model, unit(PIXELS[chosen]), labels, generator(3)))
    assert 0.05 < (found.images - unit(PIXELS[chosen])).abs().max() <= 0.1 + 1e-6


def test_what_the_inner_function_adds_is_added_too() -> None:
    candidates, chosen = Candidates(convnet().eval(), POOL, POOL.candidates), torch.tensor([4, 0, 9])
    found = examples_of(Crafted(DFAL(), ATTACK), candidates, chosen, torch.tensor([1, 2, 0]), generator(3))
    assert found.count("crafted") == 3
    assert found.count("twin") == len(found) - 3 > 0


def test_training_does_not_attack_them_again() -> None:
    labels = torch.arange(6) % 4
    bought = Examples.of(PIXELS[:6], labels, torch.arange(6))
    crafted = Examples.of(unit(PIXELS[6:10]), labels[:4], kind="crafted")
    recipe, both, here = Recipe(batch_size=5), Examples.join([bought, crafted]), torch.device("cpu")
    shown = list(batches(recipe, both, None, generator(0), here))
    assert sum(int(batch.crafted.sum()) for batch in shown if batch.crafted is not None) == 4
    assert next(batches(recipe, bought, None, generator(0), here)).crafted is None
    model, batch = convnet().eval(), shown[0]
    losses = Adversarial(ATTACK)(model, None, batch, generator(1))
    as_they_are = torch.nn.functional.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    assert batch.crafted is not None
    assert 0 < int(batch.crafted.sum()) < 5
    same = torch.isclose(losses, as_they_are, atol=1e-6)
    assert torch.equal(same, batch.crafted)
    everywhere = Batch(batch.inputs, batch.labels, batch.weights)
    assert not torch.isclose(Adversarial(ATTACK)(model, None, everywhere, generator(1)), as_they_are).any()
