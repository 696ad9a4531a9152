"""What interval bounds certify, and the sandwich between certified and clean."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import FGSM, PGD
from robal.errors import ContractError, InputError
from robal.evaluation.accuracy import clean, under_attack
from robal.evaluation.certified import certified, linear_radius, sandwich
from robal.networks import (
    interval_bounds,
    is_affine,
)
from robal.seeds import generator
from robal.threats import L2, Linf, Threat
from small_models import condition, convnet, linear, trained_like

EPS = 0.05  # what `proved` is trained for


@pytest.fixture(scope="module")
def proved(tiny_digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A small network trained on its own interval bounds, with a radius that grows; in eval mode."""
    images, labels = tiny_digits[0][:1000].float() / 255, tiny_digits[1][:1000]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(0)
    for epoch in range(20):
        share = min(1.0, epoch / 12)
        for batch in torch.randperm(1000, generator=draw).split(100):
            pixels, classes, radius = images[batch], labels[batch], EPS * share
            low, high = (pixels - radius).clamp(min=0), (pixels + radius).clamp(max=1)
            worst = -interval_bounds(model, low, high, classes).margins
            loss = (1 - share / 2) * F.cross_entropy(model(pixels), classes) + share / 2 * F.cross_entropy(
                worst, classes
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def few(tiny_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """200 digits that `proved` did not train on."""
    return tiny_digits[0][1000:1200].float() / 255, tiny_digits[1][1000:1200]


@pytest.fixture(scope="module")
def verdicts(proved: nn.Module, few: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of 50 images, under three attacks of robal's and two of the original AutoAttack."""
    images, labels = few[0][:50], few[1][:50]
    threat = Linf(EPS)
    result = {
        attack.label: under_attack(proved, images, labels, attack, 0).correct
        for attack in (PGD(50, threat=threat), PGD(10, restarts=3, threat=threat), FGSM(threat=threat))
    }
    with torch.random.fork_rng(devices=[]):
        official = pyautoattack.AutoAttack(
            proved, attacks=["apgd-ce", "apgd-t"], version="custom", eps=EPS, norm="Linf", seed=0
        )
        official.apgd_targeted.n_target_classes = 4
        for name, attack in (("APGD-CE", official.apgd), ("APGD-T", official.apgd_targeted)):
            attack.seed, attack.n_restarts = 0, 1
            with torch.no_grad():
                result[name] = proved(attack.perturb(images.clone(), labels.clone())).argmax(1) == labels
    return result


def test_on_a_network_trained_for_it_the_sandwich_holds_image_by_image(
    proved: nn.Module, few: tuple[Tensor, Tensor], verdicts: dict[str, Tensor]
) -> None:
    images, labels = few[0][:50], few[1][:50]
    result = sandwich(certified(proved, images, labels, EPS), verdicts, clean(proved, images, labels).correct)
    assert result.holds, str(result)
    assert result.accuracies["certified"] > 0.5  # far from zero, so that an unsound bound would be seen
    assert result.accuracies["worst case"] < result.accuracies["clean"]
    assert list(result.accuracies.values()) == sorted(result.accuracies.values())


def test_the_sandwich_sees_a_bound_that_was_taken_for_a_smaller_radius(
    proved: nn.Module, few: tuple[Tensor, Tensor], verdicts: dict[str, Tensor]
) -> None:
    images, labels = few[0][:50], few[1][:50]
    result = sandwich(certified(proved, images, labels, EPS / 8), verdicts, clean(proved, images, labels).correct)
    assert not result.holds
    assert {violation.below for violation in result.violations} == {"certified"}
    assert "PGD-50" in {violation.above for violation in result.violations}


def test_at_radius_zero_certified_is_clean_and_it_falls_as_the_radius_grows(
    proved: nn.Module, few: tuple[Tensor, Tensor]
) -> None:
    before = certified(proved, *few, 0.0)
    assert torch.equal(before, clean(proved, *few).correct)
    counts = []
    for eps in (1e-6, 0.01, 0.03, 0.05, 0.1, 0.3):
        after = certified(proved, *few, eps)
        assert not (after & ~before).any()
        counts.append(int(after.sum()))
        before = after
    assert len(set(counts)) == len(counts)
    assert counts[-1] == 0


def test_a_margin_that_rounding_could_eat_up_is_not_certified() -> None:
    """z_0 - z_1 is the pixel, 0.5: at least 1e-4 or 1e-7 over the box, with logits of up to 1."""
    model, image, label = linear([[1.0], [0.0]]), torch.tensor([[[[0.5]]]]), torch.tensor([0])
    assert certified(model, image, label, 0.5 - 1e-4).tolist() == [True]
    assert certified(model, image, label, 0.5 - 1e-7).tolist() == [False]


def test_the_model_has_the_last_word_on_ties_and_on_images_that_it_gets_wrong() -> None:
    tie, image = linear([[2.0], [-2.0]], [0.0, 2.0]), torch.tensor([[[[0.5]]]])  # z = (1, 1): class 0, just so
    assert certified(tie, image, torch.tensor([0]), 0.0).tolist() == [True]
    assert certified(tie, image, torch.tensor([0]), 1e-6).tolist() == [False]
    assert certified(tie, image, torch.tensor([1]), 0.0).tolist() == [False]
    assert linear_radius(tie, image, torch.tensor([0])).tolist() == [0.0]
    flat = linear([[1.0], [1.0]], [0.0, 2.0])  # class 1 everywhere
    assert linear_radius(flat, image, torch.tensor([0])).tolist() == [0.0]
    assert linear_radius(flat, image, torch.tensor([1])).tolist() == [float("inf")]


def test_bytes_batches_and_single_images_make_no_difference(
    proved: nn.Module, tiny_digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = tiny_digits[0][1000:1040], tiny_digits[1][1000:1040]
    wanted = certified(proved, images.float() / 255, labels, EPS)
    assert wanted.dtype == torch.bool
    assert torch.equal(certified(proved, images, labels, EPS), wanted)
    assert torch.equal(certified(proved, images, labels, EPS, batch_size=7), wanted)
    alone = [certified(proved, images[one : one + 1], labels[one : one + 1], EPS) for one in range(5)]
    assert torch.equal(torch.cat(alone), wanted[:5])


def test_the_model_and_the_images_come_back_as_they_were() -> None:
    model, images = convnet().train(), torch.rand(6, 1, 8, 8)
    model[3].eval()
    before, pixels = condition(model), images.clone()
    state = torch.get_rng_state()
    certified(model, images, torch.arange(6) % 4, 0.01)
    straight = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    kept = condition(straight)
    torch.set_rng_state(state)
    linear_radius(straight, images, torch.arange(6) % 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert condition(model) == before
    assert condition(straight) == kept
    assert torch.equal(images, pixels)


@pytest.mark.parametrize("classes", [2, 100])
def test_a_linear_model_is_certified_exactly_below_its_radius(classes: int) -> None:
    draw = generator(0, "linear", classes)
    model = linear(torch.randn(classes, 16, generator=draw), torch.randn(classes, generator=draw).tolist())
    images = torch.rand(30, 1, 4, 4, generator=draw)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % classes
    radius = linear_radius(model, images, labels)
    assert (radius[:5] == 0).all()
    for eps in (0.003, 0.01, 0.03, 0.1, 0.3):
        apart = (radius - eps).abs() > 1e-3 * eps
        assert torch.equal(certified(model, images, labels, eps)[apart], (radius > eps)[apart])
    ordinary = radius[(radius > 0) & (radius < 0.9)]
    assert len(ordinary) > 10


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_radius_of_a_linear_model_is_what_optimisers_find(norm: str) -> None:
    """linprog and SLSQP solve: smallest ‖δ‖ such that some class draws level and x + δ lies in [0, 1]."""
    draw = generator(1, "linear")
    weight, bias = torch.randn(3, 5, generator=draw), torch.randn(3, generator=draw)
    images = torch.rand(6, 1, 1, 5, generator=draw).round(decimals=1)
    images[:2] = images[:2].round()  # corners of [0, 1], where the box binds
    labels = (images.flatten(1) @ weight.T + bias).argmax(1)
    found = linear_radius(linear(weight, bias.tolist()), images, labels, norm)  # type: ignore[arg-type]
    seen = 0
    for image, label, radius in zip(images.flatten(1).double().numpy(), labels, found, strict=True):
        wanted = float("inf")
        for k in set(range(3)) - {int(label)}:
            d = (weight[label] - weight[k]).double().numpy()
            gap = float(d @ image + bias[label].double() - bias[k].double())
            reach = sum(-x * c if c > 0 else (1 - x) * c for x, c in zip(image, d, strict=True))
            if reach > -gap:
                continue  # no image in [0, 1] draws level
            if norm == "linf":
                ones = [[*(1.0 if i == j else 0.0 for j in range(5)), -1.0] for i in range(5)]
                minus = [[*(-1.0 if i == j else 0.0 for j in range(5)), -1.0] for i in range(5)]
                result = linprog(
                    [0.0] * 5 + [1.0],
                    A_ub=[*ones, *minus, [*d, 0.0]],
                    b_ub=[0.0] * 10 + [-gap],
                    bounds=[*((-x, 1 - x) for x in image), (0, None)],
                )
                wanted = min(wanted, result.fun)
            else:
                result = minimize(
                    lambda delta: (delta**2).sum(),
                    -gap * d / (d @ d),
                    jac=lambda delta: 2 * delta,
                    bounds=[(-x, 1 - x) for x in image],
                    constraints={"type": "ineq", "fun": lambda delta, d=d, gap=gap: -gap - d @ delta},
                    method="SLSQP",
                    options={"ftol": 1e-14, "maxiter": 500},
                )
                assert result.success
                wanted = min(wanted, float(result.fun) ** 0.5)
        seen += wanted < float("inf")
        assert float(radius) == pytest.approx(wanted, rel=1e-4)
    assert seen >= 4


def test_far_from_the_edges_the_radius_is_the_margin_over_the_dual_norm() -> None:
    """z = (2.25, 1, 0): class 1 is 1.25 away by d = (3, -4), class 2 is 2.25 away by d = (3, 0)."""
    model = linear([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    image, label = torch.tensor([[[[0.75, 0.25]]]]), torch.tensor([0])
    assert float(linear_radius(model, image, label, "l2")) == pytest.approx(1.25 / 5)
    assert float(linear_radius(model, image, label, "linf")) == pytest.approx(1.25 / 7)


def test_at_the_edge_of_the_pixels_the_radius_is_larger() -> None:
    """x = (0.9, 0.875), d = (3, -4), m = 2.7 - 3.5 + 1.5 = 0.7. The second pixel gains 4 · 0.125 = 0.5 at most, the
    first needs 0.2 / 3 more; without the edge 0.7 / 7 = 0.1 and 0.7 / 5 = 0.14 at δ = (0.084, 0.112) do not meet it."""
    model = linear([[3.0, 0.0], [0.0, 4.0]], [1.5, 0.0])
    image, label = torch.tensor([[[[0.9, 0.875]]]]), torch.tensor([0])
    assert float(linear_radius(model, image, label)) == pytest.approx(0.1, rel=1e-5)
    image = torch.tensor(
        [[[[0.9, 0.95]]]]
    )  # m = 2.7 - 3.8 + 1.5 = 0.4: 0.2 by the second at 0.05, 0.2 / 3 by the first
    assert float(linear_radius(model, image, label)) == pytest.approx(0.2 / 3, rel=1e-5)
    assert float(linear_radius(model, image, label, "l2")) == pytest.approx((0.05**2 + (0.2 / 3) ** 2) ** 0.5, rel=1e-5)


def test_an_image_that_no_pixel_can_turn_has_an_infinite_radius() -> None:
    model, image = linear([[1.0], [0.0]], [0.75, 0.0]), torch.tensor([[[[0.5]]]])
    for norm in ("linf", "l2"):
        assert linear_radius(model, image, torch.tensor([0]), norm).tolist() == [float("inf")]  # type: ignore[arg-type]
        assert linear_radius(model, image, torch.tensor([1]), norm).tolist() == [0.0]  # type: ignore[arg-type]
    assert certified(model, image, torch.tensor([0]), 1.0).tolist() == [True]


@pytest.mark.parametrize(("threat", "norm"), [(Linf, "linf"), (L2, "l2")])
def test_attacks_break_a_linear_model_beyond_its_radius_and_not_before(threat: type[Threat], norm: str) -> None:
    """Also one of a convolution and BatchNorm, whose matrix nobody writes down."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 2)))
    model = trained_like(model).eval()
    assert is_affine(model)
    image = torch.rand(1, 1, 8, 8, generator=generator(0, "image")) * 0.4 + 0.3
    with torch.no_grad():
        label = model(image).argmax(1)
    radius = float(linear_radius(model, image, label, norm))  # type: ignore[arg-type]
    assert 0.001 < radius < float("inf")
    for share, stands in ((0.99, True), (1.01, False)):
        attack = PGD(100, random_start=False, threat=threat(radius * share))  # type: ignore[call-arg]
        assert under_attack(model, image, label, attack, 0).correct.tolist() == [stands]


def test_a_layer_without_a_rule_is_named() -> None:
    image, label = torch.rand(1, 1, 8, 8), torch.tensor([0])
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(1, 2, 3))
    net.add_module("norm", nn.GroupNorm(1, 2))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(72, 3))
    with pytest.raises(InputError, match=r"no rule for the layer 'norm' \(GroupNorm\); they know Linear, Conv2d"):
        certified(net, image, label, 0.1)
    net.norm = nn.BatchNorm2d(2, track_running_stats=False)
    with pytest.raises(InputError, match=r"no rule for the layer 'norm' \(BatchNorm2d\)"):
        certified(net, image, label, 0.1)
    net.norm = nn.Conv2d(2, 2, 1, padding_mode="reflect")
    with pytest.raises(InputError, match=r"no rule for the layer 'norm' \(Conv2d\)"):
        certified(net, image, label, 0.1)

    class Sine(nn.ReLU):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.sin()

    with pytest.raises(InputError, match="no rule for the operation 'sin'"):
        certified(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Sine()), image, label, 0.1)

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(inputs.flatten(1)) if inputs.sum() > 0 else self.head(-inputs.flatten(1))

    with pytest.raises(InputError, match=r"need a network whose layers torch\.fx can read; Branching is not"):
        certified(Branching(), image, label, 0.1)


def test_a_model_whose_hook_changes_what_its_layers_say_is_refused() -> None:
    for layer in (2, 5):
        model = convnet()
        model[layer].register_forward_hook(lambda layer, args, output: -output)
        with pytest.raises(ContractError, match="computes something else than its layers"):
            certified(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), 0.1)


GOOD = torch.full((3, 1, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("inputs", "labels", "eps", "message"),
    [
        (GOOD * 3, [0, 1, 2], 0.1, r"must lie in \[0, 1\]"),
        (GOOD * float("nan"), [0, 1, 2], 0.1, "NaN or infinity"),
        (GOOD, [0, 4, 2], 0.1, r"labels must lie in \[0, 4\)"),
        (GOOD, [0, 1], 0.1, r"3 images came with labels of shape \[2\]"),
        (GOOD, [0, 1, 2], 8.0, r"eps is a radius in \[0, 1\].*Divide by 255"),
        (GOOD, [0, 1, 2], float("nan"), r"eps is a radius in \[0, 1\]"),
        (GOOD[:0], [], 0.1, "there is no image"),
    ],
)
def test_what_cannot_be_right_is_refused(inputs: Tensor, labels: list[int], eps: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        certified(convnet(), inputs, torch.tensor(labels, dtype=torch.int64), eps)


def test_boxes_that_are_none_and_models_that_are_not_linear_are_refused() -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(InputError, match="low <= high everywhere"):
        interval_bounds(convnet(), GOOD, GOOD - 0.1, labels)
    with pytest.raises(InputError, match=r"labels must lie in \[0, 4\)"):
        interval_bounds(convnet(), GOOD, GOOD, labels + 2)
    with pytest.raises(InputError, match="needs an affine model, and this one has ReLU or maximum pooling"):
        linear_radius(convnet(), GOOD, labels)
    with pytest.raises(InputError, match="norm is one of l2, linf; not 'l1'"):
        linear_radius(linear([[1.0], [0.0]]), GOOD[:, :, :1, :1], labels % 2, "l1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_size must be positive"):
        certified(convnet(), GOOD, labels, 0.1, batch_size=0)


def bools(text: str) -> Tensor:
    return torch.tensor([sign == "1" for sign in text])


def test_the_sandwich_says_which_image_violates_which_order_by_hand() -> None:
    result = sandwich(bools("11001"), {"PGD": bools("10100"), "FGSM": bools("11110")}, bools("11100"))
    assert not result.holds
    assert [(violation.below, violation.above, violation.images) for violation in result.violations] == [
        ("certified", "PGD", (1, 4)),
        ("certified", "FGSM", (4,)),
        ("certified", "clean", (4,)),
        ("FGSM", "clean", (3,)),
    ]
    assert result.worst_case.tolist() == [True, False, True, False, False]
    assert result.accuracies == {"certified": 0.6, "worst case": 0.4, "PGD": 0.4, "FGSM": 0.8, "clean": 0.6}
    assert "VIOLATED" in str(result)
    assert "certified but not PGD, 2 images (1, 4): the bound is not sound, or the attack" in str(result)


def test_two_attacks_may_break_different_images_and_no_attack_is_allowed() -> None:
    assert sandwich(bools("000"), {"A": bools("100"), "B": bools("010")}, bools("110")).holds
    alone = sandwich(bools("010"), {}, bools("110"))
    assert alone.holds
    assert alone.worst_case.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("proof", "attacks", "right", "message"),
    [
        (bools("110"), {"A": bools("11")}, bools("110"), r"'A' is bool \[2\], clean has \[3\]"),
        (torch.ones(3), {}, bools("110"), r"'certified' is float32 \[3\]"),
        (bools(""), {}, bools(""), "N >= 1"),
        (bools("110"), {"clean": bools("110")}, bools("110"), "an attack is called 'clean'"),
    ],
)
def test_verdicts_that_do_not_fit_together_are_refused(
    proof: Tensor, attacks: dict[str, Tensor], right: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sandwich(proof, attacks, right)
