"""A backbone learned on CIFAR-10's classes 0 to 4 helps with 5 to 9, where the data lie in ROBAL_DATA."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_model
from torch import Tensor, nn

from robal.attacks import PGD
from robal.datasets import load
from robal.errors import DataMissing
from robal.evaluation import clean, under_attack
from robal.networks import LeNet5, load_weights
from robal.objectives import Adversarial
from robal.pool import Examples
from robal.threats import Linf, with_threat
from robal.training import Adam, Recipe, Trained, Triangular, fit

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def cifar() -> tuple[Tensor, Tensor]:
    try:
        dataset = load("cifar10", os.environ["ROBAL_DATA"])
    except (KeyError, DataMissing):
        pytest.skip("CIFAR-10 lies in no folder that ROBAL_DATA names")
    return dataset.images[:20_000], dataset.labels[:20_000]


def part(cifar: tuple[Tensor, Tensor], low: int) -> tuple[Tensor, Tensor]:
    chosen = (cifar[1] >= low) & (cifar[1] < low + 5)
    return cifar[0][chosen], cifar[1][chosen] - low


def trained(recipe: Recipe, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> nn.Module:
    return fit(recipe, Examples.of(images, labels), None, Trained(model.eval()), None, seed).model


@pytest.mark.slow
def test_it_helps_with_classes_it_has_not_seen_also_under_attack(cifar: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    threat = Linf(2 / 255)
    robust = with_threat(Adversarial(PGD(steps=3)), threat)
    before = Recipe(robust, budget=400_000, batch_size=100, optimiser=Adam(2e-3), schedule=Triangular(0.2))
    save_model(trained(before, LeNet5()(SHAPE, 5, 0), *part(cifar, 0)), str(tmp_path / "backbone.safetensors"))
    images, labels = part(cifar, 5)
    few = Recipe(robust, epochs=40, batch_size=20, optimiser=Adam(2e-3), schedule=Triangular(0.2))
    probing, tuning = replace(few, optimiser=Adam(5e-3), backbone=0.0), replace(few, backbone=0.1, probe=0.3)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(3):
        bought, rest = slice(100 * seed, 100 * seed + 100), slice(-2_000, None)
        for name, recipe in (("fresh", few), ("probed", probing), ("tuned", tuning)):
            model = LeNet5()(SHAPE, 6, seed)
            if name != "fresh":
                load_weights(model, tmp_path / "backbone.safetensors", head_may_differ=True)
            after = trained(recipe, model, images[bought], labels[bought], seed)
            attacked = under_attack(after, images[rest], labels[rest], PGD(steps=10, threat=threat), 0).accuracy
            found.setdefault(name, []).append((clean(after, images[rest], labels[rest]).accuracy, attacked))
    means = {name: [sum(one) / 3 for one in zip(*rates, strict=True)] for name, rates in found.items()}
    print(means)
    for name in ("probed", "tuned"):
        assert means[name][0] > means["fresh"][0] + 0.02
        assert means[name][1] > means["fresh"][1] + 0.02
