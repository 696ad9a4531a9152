"""AutoAttack behind guards: the official verdicts, and none of the traps."""

from __future__ import annotations

import logging

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from robal.attacks import AutoAttack, perturb
from robal.attacks.autoattack import Stage
from robal.errors import InputError
from robal.evaluation import under_attack
from robal.seeds import generator
from robal.threats import L2, Linf, Threat
from small_models import convnet, linear

SEED = int(torch.randint(2**31 - 1, (1,), generator=generator(0)))  # what it draws from this generator


@pytest.fixture(scope="session")
def some(tiny_model: nn.Module, tiny_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """18 digits: 4 that the model gets wrong, then 14 that it gets right."""
    images, labels = tiny_digits[0][1000:].float() / 255, tiny_digits[1][1000:]
    right = predictions(tiny_model, images) == labels
    chosen = torch.cat([(~right).nonzero().flatten()[:4], right.nonzero().flatten()[:14]])
    return images[chosen], labels[chosen]


def predictions(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs).argmax(1)


@pytest.mark.parametrize("threat", [Linf(0.1), pytest.param(L2(0.6), marks=pytest.mark.slow)], ids=str)
def test_verdicts_and_images_are_those_of_bare_pyautoattack(
    tiny_model: nn.Module,
    some: tuple[Tensor, Tensor],
    threat: Threat,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs, labels = some
    moved = AutoAttack(batch_size=16, threat=threat)(tiny_model, inputs, labels, generator(0))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    with torch.random.fork_rng():
        bare = pyautoattack.AutoAttack(tiny_model, eps=threat.eps, norm=type(threat).__name__, seed=SEED)
        wanted, _ = bare.run_standard_evaluation(inputs, labels, batch_size=16)
    assert torch.equal(moved, wanted)
    stands = predictions(tiny_model, moved) == labels
    assert 0 < stands.sum() < (predictions(tiny_model, inputs) == labels).sum()
    assert threat.size(moved - inputs).max() <= threat.eps * (1 + 1e-5)
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_images_that_stand_or_were_wrong_come_back_as_they_were(
    tiny_model: nn.Module, some: tuple[Tensor, Tensor]
) -> None:
    inputs, labels = some[0][3:9], some[1][3:9]
    moved = AutoAttack(threat=Linf(0.3))(tiny_model, inputs, labels, generator(0))
    assert torch.equal(moved[0], inputs[0])
    changed = (moved != inputs).flatten(1).any(1)
    assert torch.equal(changed, (predictions(tiny_model, moved) != labels) & (torch.arange(6) > 0))


def test_the_global_random_state_stays(tiny_model: nn.Module, some: tuple[Tensor, Tensor]) -> None:
    before = torch.get_rng_state()
    AutoAttack(threat=Linf(0.4))(tiny_model, some[0][4:7], some[1][4:7], generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_radius_of_zero_is_clean_accuracy(tiny_model: nn.Module, some: tuple[Tensor, Tensor]) -> None:
    verdicts = under_attack(tiny_model, *some, AutoAttack(threat=Linf(0.0)), seed=0)
    assert torch.equal(verdicts.correct, predictions(tiny_model, some[0]) == some[1])


def certain(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, one image that no small change can break, and one that any will; all of class 0."""
    rows = torch.zeros(classes, 4)
    rows[0, 0], rows[1:, 1] = 1.0, torch.linspace(0.5, 1.0, classes - 1)
    images = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.51, 0.5, 0.0, 0.0]]).view(2, 1, 2, 2)
    return linear(rows).eval(), images, torch.tensor([0, 0])


def test_three_classes_are_refused_by_the_standard_version_and_met_by_the_reduced_one() -> None:
    model, images, labels = certain(3)
    with pytest.raises(InputError, match=r"at least 4 classes.*this model has 3.*version: reduced"):
        AutoAttack(threat=Linf(0.1))(model, images, labels, generator(0))
    moved = perturb(AutoAttack("reduced", threat=Linf(0.1)), model, images, labels, generator(0))
    assert (predictions(model, moved) == labels).tolist() == [True, False]
    assert AutoAttack("reduced").label == "AutoAttack-reduced"
    assert AutoAttack("reduced").passes < AutoAttack().passes


def test_fewer_than_ten_classes_have_fewer_targets() -> None:
    """pyautoattack would aim at nine targets of four classes, and fall over its own index."""
    model, images, labels = certain(4)
    moved = AutoAttack(threat=Linf(0.1))(model, images, labels, generator(0))
    assert (predictions(model, moved) == labels).tolist() == [True, False]


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match="needs a model in eval mode; call it through `perturb`"):
        AutoAttack()(convnet().train(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), generator(0))


def test_a_threat_that_it_does_not_know_is_refused() -> None:
    class Patch:
        eps = 0.1

        def __str__(self) -> str:
            return "a patch"

    model, images, labels = certain(4)
    with pytest.raises(InputError, match="knows the threats Linf and L2; not a patch"):
        AutoAttack(threat=Patch())(model, images, labels, generator(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"version": "rand"}, "one of standard, reduced; not 'rand'"), ({"batch_size": 0}, "must be positive; 0 came")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AutoAttack(**settings)  # type: ignore[arg-type]


def test_it_adds_no_handler_to_the_log() -> None:
    assert logging.getLogger("auto-attack").handlers == []


def test_the_stages_are_the_attacks_in_their_order_with_the_targets_that_there_are() -> None:
    stages = AutoAttack(threat=L2(0.5)).stages(5, seed=7)
    assert [stage.name for stage in stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert {(stage.targets, stage.threat, stage.seed) for stage in stages} == {(4, L2(0.5), 7)}
    assert [stage.name for stage in AutoAttack("reduced").stages(2, seed=0)] == ["apgd-ce", "fab-t", "square"]
    assert {stage.targets for stage in AutoAttack("reduced").stages(2, seed=0)} == {1}
    assert {stage.targets for stage in AutoAttack().stages(100, seed=0)} == {9}


def test_an_image_costs_what_its_stages_cost() -> None:
    """100 + 9 * 100 + 9 * 200 gradients and 5,000 queries, of which three cost as much as a gradient."""
    assert AutoAttack().passes == 100 + 900 + 1800 + 1666
    assert AutoAttack("reduced").passes == 100 + 1800 + 1666


def test_a_stage_depends_on_its_seed_and_its_batch_alone(tiny_model: nn.Module, some: tuple[Tensor, Tensor]) -> None:
    inputs, labels = some[0][4:12], some[1][4:12]
    first = Stage("apgd-ce", Linf(0.1))(tiny_model, inputs, labels)
    Stage("apgd-ce", Linf(0.2), seed=5)(tiny_model, inputs[:3], labels[:3])
    torch.rand(10)
    assert torch.equal(Stage("apgd-ce", Linf(0.1))(tiny_model, inputs, labels), first)
    assert not torch.equal(Stage("apgd-ce", Linf(0.1), seed=1)(tiny_model, inputs, labels), first)


def test_square_within_l2_needs_images_that_it_can_tile() -> None:
    model, images, labels = certain(4)
    with pytest.raises(InputError, match=r"Square within L2 needs images of at least 5 x 5; these are \[2, 2\]"):
        Stage("square", L2(0.1), targets=3)(model, images, labels)
