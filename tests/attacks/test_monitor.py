"""The monitor: its parts one after the other on what stands, near AutoAttack's verdict."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import AutoAttack, perturb
from robal.attacks.apgd import APGD
from robal.attacks.monitor import Monitor
from robal.attacks.square import Square
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L2, Linf, Threat, with_threat
from small_models import Counting, Stepped, linear, standing

Images = tuple[Tensor, Tensor]


@pytest.fixture(scope="session")
def some(tiny_model: nn.Module, tiny_digits: Images) -> Images:
    """40 digits, of which the model has the first 5 wrong."""
    images, labels = tiny_digits[0][1000:].float() / 255, tiny_digits[1][1000:]
    right = standing(tiny_model, images, labels)
    chosen = torch.cat([(~right).nonzero().flatten()[:5], right.nonzero().flatten()[:35]])
    return images[chosen], labels[chosen]


def test_its_parts_are_the_three_attacks_under_its_own_threat() -> None:
    assert Monitor(50, 5, 200, Linf(0.1)).parts(10) == (
        APGD("ce", 50, threat=Linf(0.1)),
        APGD("targeted-dlr", 50, targets=5, threat=Linf(0.1)),
        Square(200, threat=Linf(0.1)),
    )
    assert len(Monitor(square=0).parts(10)) == 2
    assert with_threat(Monitor(), L2(1.0)).parts(4)[2].threat == L2(1.0)


@pytest.mark.parametrize("threat", [Linf(0.12), pytest.param(L2(0.6), marks=pytest.mark.slow)], ids=str)
def test_its_verdicts_are_those_of_autoattack(tiny_model: nn.Module, some: Images, threat: Threat) -> None:
    inputs, labels = some[0][4:16], some[1][4:16]
    own = standing(tiny_model, Monitor(50, square=50, threat=threat)(tiny_model, inputs, labels, generator(0)), labels)
    wanted = standing(tiny_model, AutoAttack(threat=threat)(tiny_model, inputs, labels, generator(0)), labels)
    assert torch.equal(own, wanted)
    assert 0 < own.sum() < 11


def test_no_part_alone_breaks_what_the_monitor_does_not(tiny_model: nn.Module, some: Images) -> None:
    monitor = Monitor(20, 3, 100, Linf(0.07))
    stands = standing(tiny_model, perturb(monitor, tiny_model, *some, generator(0)), some[1])
    alone = [standing(tiny_model, part(tiny_model, *some, generator(1)), some[1]) for part in monitor.parts(10)]
    assert not stands[:5].any()
    assert 0 < stands.sum() < 30
    assert all((stands & ~one).sum() <= 1 for one in alone)  # another random start may be luckier once


def test_each_part_attacks_what_the_one_before_left(tiny_model: nn.Module, some: Images) -> None:
    counting = Counting(tiny_model)
    monitor = Monitor(3, 2, 4, Linf(0.07))
    first = standing(tiny_model, monitor.parts(10)[0](tiny_model, *some, generator(0)), some[1])
    monitor(counting, *some, generator(0))
    starts = [now for before, now in pairwise(counting.passes) if now != before]
    assert counting.passes[0] == 40
    assert counting.passes[1] == 35
    assert counting.passes[-1] <= int(first.sum()) + 2
    assert max(starts[1:]) <= 35


def test_square_sees_what_masked_gradients_hide(tiny_model: nn.Module, some: Images) -> None:
    model = Stepped(tiny_model)
    counts = [
        int(standing(model, perturb(Monitor(5, 2, queries, Linf(0.2)), model, *some, generator(0)), some[1]).sum())
        for queries in (0, 200)
    ]
    assert counts[1] < 0.7 * counts[0]


def test_more_queries_or_targets_only_break_more(tiny_model: nn.Module, some: Images) -> None:
    def stands(**changes: Any) -> Tensor:
        attack = replace(Monitor(3, 1, 0, Linf(0.08)), **changes)
        return standing(tiny_model, attack(tiny_model, *some, generator(0)), some[1])

    for name, values in (("square", (0, 10, 200)), ("targets", (1, 2, 9))):
        each = [stands(**{name: value}) for value in values]
        assert all((more <= fewer).all() for fewer, more in pairwise(each))


def test_a_wider_radius_leaves_fewer_standing_and_a_radius_of_zero_all(tiny_model: nn.Module, some: Images) -> None:
    counts = [
        int(standing(tiny_model, Monitor(10, 2, 20, Linf(eps))(tiny_model, *some, generator(0)), some[1]).sum())
        for eps in (0.0, 0.03, 0.06, 0.1, 0.3)
    ]
    assert counts[0] == 35
    assert all(wide <= narrow for narrow, wide in pairwise(counts))
    assert counts[-1] == 0


def test_an_image_that_stands_comes_back_at_its_highest_cross_entropy(tiny_model: nn.Module, some: Images) -> None:
    monitor = Monitor(5, 2, 5, Linf(0.02))
    moved = monitor(tiny_model, *some, generator(0))
    stands = standing(tiny_model, moved, some[1])
    assert stands.sum() > 20
    with torch.no_grad():
        before, after = (nn.functional.cross_entropy(tiny_model(x)[stands], some[1][stands]) for x in (some[0], moved))
    assert after > 1.1 * before


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 100])
def test_it_works_with_any_number_of_classes(classes: int) -> None:
    model = linear(torch.eye(classes, 25))
    images = torch.full((2, 1, 5, 5), 0.1)
    images.view(2, 25)[:, :2] = torch.tensor([[0.9, 0.1], [0.51, 0.5]])
    labels = torch.tensor([0, 0])
    for threat in (Linf(0.1), L2(0.1)):
        moved = perturb(Monitor(5, 9, 5, threat), model, images, labels, generator(0))
        assert standing(model, moved, labels).tolist() == [True, False]
        one = perturb(Monitor(5, 9, 5, threat), model, images[1:], labels[1:], generator(0))
        assert not standing(model, one, labels[1:]).any()
    assert (Monitor().parts(classes)[1].label == "APGD-T-100") is (classes > 3)


def test_a_model_that_is_always_wrong_costs_one_pass(tiny_model: nn.Module, some: Images) -> None:
    counting = Counting(tiny_model)
    with torch.no_grad():
        wrong = (tiny_model(some[0]).argmax(1) + 1) % 10
    assert torch.equal(Monitor(threat=Linf(0.1))(counting, some[0], wrong, generator(0)), some[0])
    assert counting.passes == [40]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 0}, "0, 9 and"), ({"targets": 0}, "100, 0 and"), ({"square": -1}, "square >= 0; 100, 9 and -1 came")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Monitor(**settings)


def test_it_says_what_it_is_and_what_it_costs() -> None:
    assert Monitor().label == "Monitor"
    assert Monitor(10, 3, 0).passes == 11 + 33
    assert Monitor(10, 3, 300).passes == 11 + 33 + 100
    assert Monitor().passes < 0.35 * AutoAttack().passes
