"""Auto-PGD, step for step beside pyautoattack's, and its laws."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, perturb
from robal.attacks.apgd import APGD, climb, dlr, likely_targets, targeted_dlr
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L2, Linf, Threat
from small_models import Counting, linear, standing

Images = tuple[Tensor, Tensor]
LOSSES = ("ce", "dlr", "targeted-dlr", "targeted-margin")


@pytest.fixture(scope="session")
def some(tiny_model: nn.Module, tiny_digits: Images) -> Images:
    """60 digits that the model did not train on and classifies correctly."""
    images, labels = tiny_digits[0][1000:].float() / 255, tiny_digits[1][1000:]
    right = standing(tiny_model, images, labels).nonzero().flatten()[:60]
    return images[right], labels[right]


def test_on_a_linear_loss_by_hand() -> None:
    """The first step goes 2 eps along the sign and is held at the corner of the ball and of [0, 1], the best point."""
    seen = []

    def loss(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(points.detach().clone())
        return (points * torch.tensor([1.0, -2.0])).flatten(1).sum(1), torch.zeros(len(rows), dtype=torch.bool)

    image = torch.tensor([[[[0.5, 0.125]]]])
    points, losses, broken = climb(loss, image, Linf(0.25), steps=2, start=image)
    assert [point.flatten().tolist() for point in seen] == [[0.5, 0.125], [0.75, 0.0], [0.75, 0.0]]
    assert (points.flatten().tolist(), losses.item(), broken.item()) == ([0.75, 0.0], 0.75, False)


def test_the_second_step_keeps_a_quarter_of_the_first() -> None:
    """loss = -(x - 0.3)²: from 0.25 up by 2 · 0.1, held at 0.35; then down, 0.35 - 0.75 · 0.2 + 0.25 · 0.1 = 0.225."""
    seen = []

    def loss(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(points.item())
        return -((points - 0.3) ** 2).flatten(1).sum(1), torch.zeros(1, dtype=torch.bool)

    image = torch.full((1, 1, 1, 1), 0.25)
    climb(loss, image, Linf(0.1), steps=10, start=image)  # so many, that no checkpoint comes before the third point
    assert seen[:3] == pytest.approx([0.25, 0.35, 0.225])


def peer(loss: str, model: nn.Module, threat: Threat, steps: int, targets: Tensor) -> APGDAttack:
    norm = type(threat).__name__
    if loss != "targeted-dlr":
        return APGDAttack(model, n_iter=steps, norm=norm, eps=threat.eps, loss=loss)
    attack = APGDAttack_targeted(model, n_iter=steps, norm=norm, eps=threat.eps)
    attack.y_target = targets
    return attack


def own_loss(name: str, model: nn.Module, labels: Tensor, targets: Tensor) -> Callable[[Tensor, Tensor], Any]:
    """The loss, by which no image is ever done."""
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "ce": lambda logits: F.cross_entropy(logits, labels, reduction="none"),
        "dlr": lambda logits: dlr(logits, labels),
        "targeted-dlr": lambda logits: targeted_dlr(logits, labels, targets),
    }
    return lambda points, rows: (measures[name](model(points)), torch.zeros(len(rows), dtype=torch.bool))


@pytest.mark.filterwarnings("ignore:there are")  # a random start on a kink has no DLR gradient, says the peer
@pytest.mark.parametrize("steps", [5, 100])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.6)], ids=str)
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted-dlr"])
def test_from_the_same_start_it_climbs_as_pyautoattack_does(
    tiny_model: nn.Module, some: Images, loss: str, threat: Threat, steps: int
) -> None:
    inputs, labels = some
    start = threat.random_start(inputs, generator(0))
    with torch.no_grad():
        targets = likely_targets(tiny_model(inputs), labels, 1)[0]
    official = peer(loss, tiny_model, threat, steps, targets)
    official.init_hyperparam(inputs)
    wanted_points, _, wanted, _ = official.attack_single_run(inputs, labels, x_init=start)
    points, losses, broken = climb(
        own_loss(loss, tiny_model, labels, targets), inputs, threat, steps=steps, start=start
    )
    assert not broken.any()
    if isinstance(threat, Linf):
        torch.testing.assert_close(points, wanted_points, rtol=0, atol=1e-6)
        torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-5)
    else:  # lengths are rounded otherwise, which a kink of the loss now and then makes large
        close = (losses - wanted).abs() <= 1e-3 * (1 + wanted.abs())
        assert close.double().mean() >= (0.9 if steps == 100 else 1.0)


@pytest.mark.parametrize(("loss", "threat"), [("ce", Linf(0.08)), ("targeted-dlr", Linf(0.08)), ("ce", L2(0.5))])
def test_its_verdicts_are_those_of_pyautoattack(tiny_model: nn.Module, some: Images, loss: Any, threat: Threat) -> None:
    inputs, labels = some
    own = standing(tiny_model, APGD(loss, 25, targets=3, threat=threat)(tiny_model, *some, generator(0)), labels)
    settings = {"n_iter": 25, "norm": type(threat).__name__, "eps": threat.eps, "seed": 0, "device": inputs.device}
    if loss == "targeted-dlr":
        official = APGDAttack_targeted(tiny_model, n_target_classes=3, **settings)
    else:
        official = APGDAttack(tiny_model, loss=loss, **settings)
    with torch.random.fork_rng():
        wanted = standing(tiny_model, official.perturb(inputs, labels), labels)
    assert 0.1 * len(labels) < own.sum() < 0.9 * len(labels)
    assert (own != wanted).sum() <= 1  # the random starts differ


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("threat", [Linf(0.08), L2(0.5)], ids=str)
def test_the_result_keeps_to_the_threat_and_errs_more(
    tiny_model: nn.Module, some: Images, loss: Any, threat: Threat
) -> None:
    moved = perturb(APGD(loss, 20, targets=2, threat=threat), tiny_model, *some, generator(0))
    assert not moved.requires_grad
    assert threat.size(moved - some[0]).max() <= threat.eps * (1 + 1e-5)
    assert not torch.equal(moved, some[0])
    with torch.no_grad():
        before, after = (F.cross_entropy(tiny_model(images), some[1]) for images in (some[0], moved))
    assert after > before + 0.5


def test_broken_images_leave_the_batch(tiny_model: nn.Module, some: Images) -> None:
    counting = Counting(tiny_model)
    moved = APGD(steps=20, threat=Linf(0.1))(counting, *some, generator(0))
    seen = counting.passes[1:]  # the first pass asks which images are right
    assert len(seen) == 21
    assert all(later <= sooner for sooner, later in pairwise(seen))
    assert seen[-1] < 0.6 * seen[0]
    assert seen[-1] >= standing(tiny_model, moved, some[1]).sum()


def test_an_image_fares_alone_as_it_does_in_company(tiny_model: nn.Module, some: Images) -> None:
    threat = Linf(0.1)
    # in float64, for a number that another batch rounds the other way would move all later steps
    model, inputs = copy.deepcopy(tiny_model).double(), some[0].double()
    start = threat.random_start(some[0], generator(0)).double()

    def fate(chosen: slice) -> tuple[Tensor, Tensor, Tensor]:
        labels = some[1][chosen]

        def loss(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(points)
            return dlr(logits, labels[rows]), logits.argmax(1) != labels[rows]

        return climb(loss, inputs[chosen], threat, steps=20, start=start[chosen])

    together, alone = fate(slice(None)), [fate(slice(k, k + 1)) for k in range(10)]
    for k, mine in enumerate(alone):
        for one, all_of_them in zip(mine, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[k], rtol=1e-4, atol=1e-5)


def test_images_that_are_wrong_come_back_as_they_were(tiny_model: nn.Module, some: Images) -> None:
    labels = torch.where(torch.arange(len(some[1])) < 5, (some[1] + 1) % 10, some[1])
    moved = APGD(steps=3, threat=Linf(0.1))(tiny_model, some[0], labels, generator(0))
    assert torch.equal(moved[:5], some[0][:5])
    assert (moved[5:] != some[0][5:]).flatten(1).any(1).all()
    assert torch.equal(APGD()(tiny_model, some[0], (some[1] + 1) % 10, generator(0)), some[0])


@pytest.mark.parametrize("loss", ["ce", "targeted-dlr"])
def test_more_restarts_only_break_more(tiny_model: nn.Module, some: Images, loss: Any) -> None:
    attack = APGD(loss, steps=1, targets=1, threat=Linf(0.12))
    stands = [
        standing(tiny_model, replace(attack, restarts=n)(tiny_model, *some, generator(0)), some[1]) for n in (1, 2, 5)
    ]
    assert all((more <= fewer).all() for fewer, more in pairwise(stands))
    assert stands[2].sum() < stands[0].sum()


def test_more_targets_only_break_more(tiny_model: nn.Module, some: Images) -> None:
    attack = APGD("targeted-dlr", steps=5, threat=Linf(0.12))
    stands = [
        standing(tiny_model, replace(attack, targets=n)(tiny_model, *some, generator(0)), some[1]) for n in (1, 3, 50)
    ]
    assert all((more <= fewer).all() for fewer, more in pairwise(stands))
    assert stands[2].sum() < stands[0].sum()


def test_more_steps_and_a_wider_radius_leave_fewer_standing(tiny_model: nn.Module, some: Images) -> None:
    def count(steps: int, eps: float) -> int:
        moved = APGD("dlr", steps, threat=Linf(eps))(tiny_model, *some, generator(0))
        return int(standing(tiny_model, moved, some[1]).sum())

    by_steps = [count(steps, 0.07) for steps in (1, 5, 50)]
    by_eps = [count(20, eps) for eps in (0.0, 0.03, 0.07, 0.12, 0.3)]
    assert all(more <= fewer for fewer, more in (*pairwise(by_steps), *pairwise(by_eps)))
    assert (by_eps[0], by_eps[-1]) == (len(some[1]), 0)


def test_of_the_restarts_of_an_image_that_stands_the_highest_is_kept(tiny_model: nn.Module, some: Images) -> None:
    threat = Linf(0.02)

    def losses(restarts: int) -> Tensor:
        moved = APGD(steps=3, restarts=restarts, threat=threat)(tiny_model, *some, generator(0))
        with torch.no_grad():
            right = standing(tiny_model, moved, some[1])
            return F.cross_entropy(tiny_model(moved), some[1], reduction="none").masked_fill(~right, torch.inf)

    one, four = losses(1), losses(4)
    assert (four >= one - 1e-6).all()
    assert (four > one + 1e-6).any()


def test_the_losses_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0], [4.0, 1.0, 2.0, 0.0]])
    labels, targets = torch.tensor([0, 2]), torch.tensor([1, 0])
    assert dlr(logits, labels).tolist() == pytest.approx([-2 / 3, 2 / 3])
    assert targeted_dlr(logits, labels, targets).tolist() == pytest.approx([-3 / 3.5, 2 / 3.5])
    assert likely_targets(logits, labels, 2).tolist() == [[2, 0], [1, 1]]


def test_dlr_does_not_see_a_scale_or_a_shift() -> None:
    logits = torch.randn(20, 6, generator=generator(0))
    labels, targets = torch.arange(20) % 6, (torch.arange(20) + 1) % 6
    for scaled in (1000 * logits, logits + 7):
        torch.testing.assert_close(dlr(scaled, labels), dlr(logits, labels), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            targeted_dlr(scaled, labels, targets), targeted_dlr(logits, labels, targets), rtol=1e-4, atol=1e-5
        )


def test_where_cross_entropy_is_flat_the_dlr_loss_still_climbs(tiny_model: nn.Module, some: Images) -> None:
    """Logits a thousand times as large: the cross-entropy and its gradient are 0 in float32."""

    class Loud(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return 1000 * tiny_model(inputs)

    counts = {
        loss: int(standing(Loud(), APGD(loss, 20, threat=Linf(0.1))(Loud(), *some, generator(0)), some[1]).sum())
        for loss in ("ce", "dlr")
    }
    assert counts["dlr"] < 0.75 * counts["ce"]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_are_refused_where_the_loss_is_undefined_and_met_where_it_is_not(classes: int) -> None:
    model = linear(torch.eye(classes, 4))
    images = torch.tensor([[0.9, 0.1, 0.1, 0.1], [0.51, 0.5, 0.1, 0.1]]).view(2, 1, 2, 2)
    labels = torch.tensor([0, 0])
    for loss, fewest in (("ce", 2), ("dlr", 3), ("targeted-dlr", 4), ("targeted-margin", 2)):
        attack = APGD(loss, 5, threat=Linf(0.1))  # type: ignore[arg-type]
        if classes < fewest:
            with pytest.raises(
                InputError, match=rf"'{loss}' is defined for {fewest} or more.*has {classes}. Take 'ce'"
            ):
                attack(model, images, labels, generator(0))
        else:
            assert standing(model, attack(model, images, labels, generator(0)), labels).tolist() == [True, False]


def test_a_model_that_says_one_thing_stands() -> None:
    """Equal logits: no class leads, so no point is wrong, though rounding may say so of the last bit."""
    inputs, labels = torch.rand(3, 1, 2, 2, generator=generator(0)), torch.zeros(3, dtype=torch.int64)
    moved = APGD("dlr", 5, threat=Linf(0.1))(linear(torch.zeros(4, 4)), inputs, labels, generator(0))
    assert moved.isfinite().all()
    assert standing(linear(torch.zeros(4, 4)), moved, labels).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "margin"}, "one of ce, dlr, targeted-dlr, targeted-margin; not 'margin'"),
        ({"steps": 0}, "targets >= 1; 0, 1 and 9 came"),
        ({"restarts": 0}, "100, 0 and 9 came"),
        ({"targets": 0}, "100, 1 and 0 came"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        APGD(**settings)


def test_it_says_what_it_is_and_what_it_costs() -> None:
    assert (APGD().label, APGD().passes) == ("APGD-CE-100", 101)
    twice = APGD("targeted-dlr", 50, restarts=2)
    assert (twice.label, twice.passes) == ("APGD-T-50x2", 918)
    assert {APGD(loss).label for loss in LOSSES} == {  # type: ignore[arg-type]
        "APGD-CE-100",
        "APGD-DLR-100",
        "APGD-T-100",
        "APGD-T-margin-100",
    }


def test_targeted_pgd_aims_at_each_of_the_likely_classes_and_keeps_the_worst() -> None:
    """Logits (x1, x2, 0.2) from (0.5, 0.3): towards class 1 lies (0.4, 0.4), a tie, so 0.11 passes it; towards class 2
    lies (0.39, 0.19), which is right; untargeted, both pixels move too."""
    model = linear([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [0.0, 0.0, 0.2])
    attack = PGD(steps=1, step_size=0.11, random_start=False, threat=Linf(0.11), targets=9)
    moved = attack(model, torch.tensor([[[[0.5, 0.3]]]]), torch.tensor([0]), generator(0))
    assert moved.flatten().tolist() == pytest.approx([0.39, 0.41])
    assert (attack.label, PGD(50, restarts=2, targets=3).passes) == ("PGD-T-1", 300)
    with pytest.raises(InputError, match="0 for none; -1 came"):
        PGD(targets=-1)


def test_targeted_pgd_breaks_what_one_target_leaves(tiny_model: nn.Module, some: Images) -> None:
    stands = [
        standing(
            tiny_model,
            PGD(10, random_start=False, threat=Linf(0.12), targets=n)(tiny_model, *some, generator(0)),
            some[1],
        )
        for n in (1, 9)
    ]
    assert (stands[1] <= stands[0]).all()
    assert stands[1].sum() < stands[0].sum()


def test_the_second_restart_begins_with_what_still_stands(tiny_model: nn.Module, some: Images) -> None:
    left = standing(tiny_model, APGD(steps=3, threat=Linf(0.12))(tiny_model, *some, generator(0)), some[1]).sum()
    counting = Counting(tiny_model)
    APGD(steps=3, restarts=2, threat=Linf(0.12))(counting, *some, generator(0))
    assert counting.passes[5] == left < len(some[1])  # after the question who is right, and the first climb's four
