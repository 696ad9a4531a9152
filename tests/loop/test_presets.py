"""The presets against the published protocols, number by number (METHODS §1.1 to 1.3, as corrected there)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robal import presets
from robal.acquisition import DRE
from robal.attacks import PGD, AutoAttack
from robal.errors import PlanError
from robal.objectives import Adversarial, Natural
from robal.oracles import Hidden
from robal.plan import Plan
from robal.plans import read_plan, read_yaml
from robal.source import Source
from robal.threats import Linf
from robal.training import SGD, Adam, Constant, CropFlip, NoAugmentation, ReleasedCyclic, Triangular

# data, network, budget, initial, per stage, stages (table 3); eps, steps, step size, random start (§1.2, config.py)
PROTOCOLS: dict[str, tuple[Any, ...]] = {
    "dre-mnist": ("mnist", "LeNet5DRE", 5_000, 200, 200, 24, 0.3, 40, 0.01, False),
    "dre-fashion": ("fashion-mnist", "LeNet5DRE", 6_000, 200, 200, 29, 0.3, 40, 0.01, False),
    "dre-svhn": ("svhn", "VGG8", 10_000, 1_000, 500, 18, 8 / 255, 7, 2 / 255, False),
    "dre-cifar10-vgg16": ("cifar10", "VGG16", 25_000, 1_000, 500, 48, 8 / 255, 7, 2 / 255, True),
    "dre-cifar10-resnet18": ("cifar10", "ResNet18", 25_000, 1_000, 500, 48, 8 / 255, 7, 2 / 255, True),
    "dre-cifar10-preactresnet18": ("cifar10", "PreActResNet18", 25_000, 1_000, 500, 48, 8 / 255, 7, 2 / 255, True),
}
# epochs of every stage and of the initial model, optimiser, schedule, augmentation (§1.3, config.py)
TRAINING: dict[str, tuple[Any, ...]] = {
    "mnist": (10, Adam(1e-3, 0.0), Constant(), NoAugmentation()),
    "fashion-mnist": (10, Adam(1e-3, 0.0), Constant(), NoAugmentation()),
    "svhn": (20, Adam(1e-3, 0.0), Constant(), CropFlip(4, True)),
    "cifar10": (10, SGD(0.2, 0.9, 5e-4), Triangular(0.5), CropFlip(4, True)),
}
SHAPES = {"mnist": (1, 32, 32), "fashion-mnist": (1, 32, 32), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}

each = pytest.mark.parametrize("name", PROTOCOLS)


def preset(name: str) -> Plan:
    return read_plan(None, base=read_yaml(presets.text(name), name))


def test_every_published_protocol_has_its_preset() -> None:
    assert set(PROTOCOLS) <= set(presets.names())


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_a_plan_and_says_what_it_is(name: str) -> None:
    preset(name)
    summary = presets.summary(name)
    assert 20 < len(summary) < 120
    assert "\n" not in summary


@each
def test_published_protocols_train_on_labels_alone_and_by_epochs(name: str) -> None:
    plan = preset(name)
    for recipe in (plan.start.recipe, plan.recipe):
        assert recipe.pool is None
        assert recipe.budget is None
        assert (recipe.ramp, recipe.average, recipe.shrink) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "labels", "objective"),
    [
        ("few-labels-mnist", 1000, "Adversarial"),
        ("few-labels-fashion", 6000, "MTLIBP"),
        ("few-labels-cifar10", 4000, "NFGSM"),
    ],
)
def test_few_labels_trains_on_the_pool_and_buys_no_validation_labels(name: str, labels: int, objective: str) -> None:
    plan = preset(name)
    assert plan.budget == labels
    assert plan.rounds == 0
    assert plan.start.recipe.pool is not None
    assert type(plan.start.recipe.objective).__name__ == objective
    assert plan.validation.images == 0
    assert plan.evaluation.at_end == (AutoAttack(),)
    assert plan.evaluation.images == 1000


@each
def test_labels_are_bought_as_table_3_says(name: str) -> None:
    data, network, budget, initial, per_stage, stages, *_ = PROTOCOLS[name]
    plan = preset(name)
    assert (plan.data.name, type(plan.network).__name__) == (data, network)
    assert (plan.start.labels, plan.per_round, plan.rounds) == (initial, per_stage, stages)
    assert plan.budget == budget == initial + stages * per_stage
    assert plan.acquisition == DRE()
    assert plan.oracle == Hidden()


@each
def test_examples_are_crafted_as_the_released_configuration_says(name: str) -> None:
    *_, eps, steps, step_size, random_start = PROTOCOLS[name]
    plan = preset(name)
    assert plan.threat == Linf(eps)
    assert plan.recipe.objective == Adversarial(PGD(steps, step_size, random_start))
    assert plan.start.recipe.objective == Natural()


@each
def test_every_stage_is_trained_as_the_released_configuration_says(name: str) -> None:
    epochs, optimiser, schedule, augmentation = TRAINING[PROTOCOLS[name][0]]
    plan = preset(name)
    for recipe in (plan.start.recipe, plan.recipe):
        assert (recipe.epochs, recipe.batch_size) == (epochs, 100)
        assert recipe.optimiser == optimiser
        assert recipe.schedule == schedule
        assert recipe.augmentation == augmentation
        assert (recipe.warm_start, recipe.keep_optimiser) == (True, True)
    assert plan.recipe.keep == "best"
    assert plan.start.recipe.keep == "last"  # chosen by PGD-50, it may name one class for everything


@each
def test_models_are_chosen_and_measured_by_pgd_50_on_halves_of_the_test_split(name: str) -> None:
    eps = PROTOCOLS[name][6]
    attack = PGD(50, 0.01 if eps == 0.3 else 2 / 255, random_start=True)
    plan = preset(name)
    assert plan.validation.attack == attack
    assert plan.evaluation.each_round == (attack,)
    assert plan.evaluation.at_end == (AutoAttack("standard"),)
    assert (plan.data.held_out, plan.data.held_out_images) == ("test", 5_000)
    assert (plan.validation.images, plan.validation.bought_share) == (500, 0.0)


@each
def test_images_come_in_the_size_and_number_of_the_protocol(name: str) -> None:
    source = preset(name).data
    if source.name == "svhn":
        assert (source.train_images, source.test_images) == (50_000, 10_000)
    else:
        assert (source.train_images, source.test_images) == (None, None)
    assert source.resize == (32 if "mnist" in source.name else None)


@each
def test_the_network_of_a_preset_takes_its_images(name: str) -> None:
    plan = preset(name)
    shape = SHAPES[plan.data.name]
    model = plan.network(shape, 10, 0).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, *shape)).shape == (1, 10)


def test_the_released_learning_rate_wave_is_one_setting_away() -> None:
    base = read_yaml(presets.text("dre-cifar10-resnet18"), "")
    recipe = read_plan(None, ["recipe.schedule=ReleasedCyclic"], base).recipe
    # step_up = step_down = epochs · 500 / 2 (METHODS §1.3)
    assert recipe.schedule == ReleasedCyclic(half_cycle=10 * 500 // 2, base_momentum=0.8, max_momentum=0.9)
    assert recipe.optimiser == SGD(0.2, 0.9, 5e-4)


def test_a_preset_leaves_open_only_where_the_data_lie() -> None:
    assert preset("dre-mnist").data == Source("mnist", "", 32, "test", 5_000)
    plan = read_plan(None, ['data.folder="/data"'], read_yaml(presets.text("dre-mnist"), ""))
    assert plan.data.folder == "/data"
    assert plan.data.name == "mnist"


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(PlanError, match="no preset is called 'dre-mnits'; did you mean 'dre-mnist'"):
        presets.text("dre-mnits")
