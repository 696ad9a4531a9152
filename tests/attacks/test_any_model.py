"""Attacks on models of every number of classes and images of every shape, in every threat, or a clear refusal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import APGD, FGSM, PGD, Attack, AutoAttack, DeepFool, Monitor, Square, perturb
from robal.errors import ContractError, InputError
from robal.plans import known
from robal.seeds import generator
from robal.threats import L1, L2, Linf, Threat, with_threat

Images = tuple[Tensor, Tensor]
BRIEF: dict[str, Any] = {
    "APGD": APGD(steps=3),
    "AutoAttack": AutoAttack("reduced"),
    "FGSM": FGSM(),
    "Monitor": Monitor(3, 2, 3),
    "PGD": PGD(steps=3),
    "Square": Square(3),
}
WHITE_BOX: dict[str, Any] = {name: BRIEF[name] for name in ("APGD", "FGSM", "PGD")} | {"Monitor": Monitor(3, 2, 0)}
SHAPES = [(1, 8, 8), (3, 8, 8), (1, 9, 6), (3, 64, 64)]


def classifier(shape: tuple[int, int, int], classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, classes)
        ).eval()


def said(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs).argmax(1)


def is_inside(threat: Threat, inputs: Tensor, moved: Tensor) -> bool:
    small = bool((threat.size(moved - inputs) <= threat.eps * (1 + 1e-5) + 1e-6).all())
    return small and moved.shape == inputs.shape and float(moved.min()) >= 0 and float(moved.max()) <= 1


def test_every_exported_attack_is_tried_here() -> None:
    assert set(BRIEF) == set(known(Attack))


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@pytest.mark.parametrize("name", sorted(set(BRIEF) - {"AutoAttack"}))
def test_any_number_of_classes_and_one_image_or_many_can_be_attacked(name: str, classes: int) -> None:
    model = classifier((1, 8, 8), classes)
    inputs = torch.rand(3, 1, 8, 8, generator=generator(0, "inputs"))
    labels = said(model, inputs)
    for threat in (Linf(0.3), L2(2.0)):
        attack = with_threat(BRIEF[name], threat)
        for count in (1, 3):
            moved = perturb(attack, model, inputs[:count], labels[:count], generator(0))
            assert is_inside(threat, inputs[:count], moved)
            assert not torch.equal(moved, inputs[:count])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(set(BRIEF) - {"AutoAttack"}))
def test_images_of_any_shape_can_be_attacked(name: str, shape: tuple[int, int, int]) -> None:
    model, inputs = classifier(shape, 3), torch.rand(2, *shape, generator=generator(0, "inputs"))
    for threat in (Linf(0.1), L2(1.0)):
        moved = perturb(with_threat(BRIEF[name], threat), model, inputs, said(model, inputs), generator(0))
        assert is_inside(threat, inputs, moved)


@pytest.mark.parametrize(("classes", "shape"), [(2, (1, 8, 8)), (3, (3, 8, 8)), (5, (1, 9, 6)), (100, (3, 64, 64))])
def test_autoattack_takes_any_classes_and_shape(classes: int, shape: tuple[int, int, int]) -> None:
    """A ball so wide that the first of its attacks breaks all, so that the others need not run."""
    model, inputs = classifier(shape, classes), torch.rand(2, *shape, generator=generator(0, "inputs"))
    labels = said(model, inputs)
    attack = AutoAttack("standard" if classes > 3 else "reduced", threat=Linf(0.9))
    for count in (1, 2):
        moved = perturb(attack, model, inputs[:count], labels[:count], generator(0))
        assert is_inside(Linf(0.9), inputs[:count], moved)
        assert (said(model, moved) != labels[:count]).all()


@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted-dlr", "targeted-margin"])
@pytest.mark.parametrize("classes", [2, 3, 5, 100])
def test_each_loss_of_apgd_takes_the_classes_it_is_defined_for(loss: Any, classes: int) -> None:
    model, inputs = classifier((1, 8, 8), classes), torch.rand(2, 1, 8, 8, generator=generator(0, "inputs"))
    attack = APGD(loss, 3, threat=Linf(0.3))
    if classes < {"dlr": 3, "targeted-dlr": 4}.get(loss, 2):
        with pytest.raises(InputError, match=rf"this model has {classes}"):
            perturb(attack, model, inputs, said(model, inputs), generator(0))
    else:
        assert is_inside(Linf(0.3), inputs, perturb(attack, model, inputs, said(model, inputs), generator(0)))


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_deepfool_finds_a_boundary_of_any_model(shape: tuple[int, int, int], classes: int) -> None:
    model, inputs = classifier(shape, classes), torch.rand(2, *shape, generator=generator(0, "inputs"))
    for count in (1, 2):
        found = DeepFool()(model, inputs[:count])
        assert torch.equal(found.flipped, said(model, found.adversaries) != said(model, inputs[:count]))
        assert found.flipped.any() or classes == 2


def test_a_model_of_one_class_is_refused() -> None:
    for attack in BRIEF.values():
        with pytest.raises(ContractError, match="one logit a class"):
            perturb(attack, classifier((1, 8, 8), 1), torch.rand(1, 1, 8, 8), torch.zeros(1).long(), generator(0))


@pytest.mark.parametrize("name", sorted(BRIEF))
@pytest.mark.parametrize("threat", [Linf(0.2), L2(1.0), L1(3.0)], ids=str)
def test_a_radius_of_zero_leaves_every_image_as_it_is(name: str, threat: Threat) -> None:
    attacks = WHITE_BOX if isinstance(threat, L1) else BRIEF
    if name not in attacks:
        return
    model, inputs = classifier((1, 8, 8), 5), torch.rand(4, 1, 8, 8, generator=generator(0, "inputs"))
    attack = with_threat(attacks[name], replace(threat, eps=0.0))  # type: ignore[type-var]
    assert torch.equal(perturb(attack, model, inputs, said(model, inputs), generator(0)), inputs)


@pytest.mark.parametrize("name", sorted(BRIEF))
def test_images_that_are_all_misclassified_stay_so(name: str) -> None:
    model, inputs = classifier((1, 8, 8), 3), torch.rand(4, 1, 8, 8, generator=generator(0, "inputs"))
    wrong = (said(model, inputs) + 1) % 3
    moved = perturb(with_threat(BRIEF[name], Linf(0.01)), model, inputs, wrong, generator(0))
    assert (said(model, moved) != wrong).all()


@pytest.mark.parametrize("name", sorted(WHITE_BOX))
def test_within_l1_the_white_box_attacks_keep_to_the_ball_and_break_images(
    name: str, tiny_model: nn.Module, seen: Images
) -> None:
    threat = L1(5.0)
    moved = perturb(with_threat(WHITE_BOX[name], threat), tiny_model, *seen, generator(0))
    assert is_inside(threat, seen[0], moved)
    assert standing(tiny_model, with_threat(WHITE_BOX[name], threat), seen) < 0.7


@pytest.mark.parametrize("build", [Square, AutoAttack, Monitor])
def test_attacks_that_do_not_know_l1_say_so_before_they_start(build: Any) -> None:
    with pytest.raises(InputError, match=r"knows? the threats Linf and L2; .*L1, eps = 10"):
        build(threat=L1(10.0))
    with pytest.raises(InputError, match="knows the threats Linf and L2"):
        with_threat(build(), L1(10.0))
    with pytest.raises(InputError, match="one of l2, linf; not 'l1'"):
        DeepFool("l1")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def seen(tiny_model: nn.Module, tiny_digits: Images) -> Images:
    """60 digits that the model classifies correctly."""
    images, labels = tiny_digits[0][1000:].float() / 255, tiny_digits[1][1000:]
    right = (said(tiny_model, images) == labels).nonzero().flatten()[:60]
    return images[right], labels[right]


def standing(model: nn.Module, attack: Attack, images: Images) -> float:
    moved = perturb(attack, model, *images, generator(0))
    return float((said(model, moved) == images[1]).double().mean())


@pytest.mark.parametrize(
    ("attack", "radii"),
    [
        (PGD(steps=10), (Linf, 0.0, 0.03, 0.07, 0.12)),
        (APGD(steps=10), (L2, 0.0, 0.2, 0.5, 0.9)),
        (PGD(steps=10), (L1, 0.0, 0.7, 2.0, 4.0)),
        (APGD(steps=10), (L1, 0.0, 0.7, 2.0, 4.0)),
        (Square(60), (Linf, 0.0, 0.07, 0.15, 0.4)),
    ],
    ids=lambda value: value.label if isinstance(value, Attack) else value[0].__name__,
)
def test_a_wider_ball_leaves_no_more_standing(attack: Attack, radii: Any, tiny_model: nn.Module, seen: Images) -> None:
    kind, *sizes = radii
    shares = [standing(tiny_model, with_threat(attack, kind(eps)), seen) for eps in sizes]
    assert shares[0] == 1.0
    assert all(wide <= narrow + 0.02 for narrow, wide in pairwise(shares))  # one image of sixty
    assert shares[-1] < 0.5


def test_more_restarts_never_raise_robust_accuracy_within_l1(tiny_model: nn.Module, seen: Images) -> None:
    for attack in (PGD(steps=3, threat=L1(1.5)), APGD(steps=3, threat=L1(1.5))):
        shares = [standing(tiny_model, replace(attack, restarts=n), seen) for n in (1, 2, 5)]
        assert shares[0] >= shares[1] >= shares[2]
        assert shares[2] < 1.0


def test_more_steps_of_pgd_within_l1_break_more(lenet: nn.Module, unseen: Images) -> None:
    shares = [standing(lenet, PGD(steps=steps, threat=L1(10.0)), unseen) for steps in (1, 3, 10, 30)]
    assert all(more <= fewer + 0.02 for fewer, more in pairwise(shares))
    assert shares[-1] < shares[0] - 0.05


def test_apgd_within_l1_breaks_no_less_than_pgd(lenet: nn.Module, unseen: Images) -> None:
    by_pgd, by_apgd = (standing(lenet, kind(steps=20, threat=L1(10.0)), unseen) for kind in (PGD, APGD))
    assert by_apgd <= by_pgd
