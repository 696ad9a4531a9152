from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from robal.attacks import PGD
from robal.errors import InputError
from robal.objectives import Adversarial, Natural
from robal.plans import known
from robal.seeds import generator
from robal.threats import L1, L2, Linf, Threat, parse, with_threat

EXPORTED = known(Threat)


@pytest.fixture(params=sorted(EXPORTED))
def threat(request: pytest.FixtureRequest) -> Threat:
    return EXPORTED[request.param](0.3)


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(6, 2, 4, 5, generator=generator(0, "inputs"))


def image(*pixels: float) -> Tensor:
    return torch.tensor(pixels).view(1, 1, 1, -1)


def noise(inputs: Tensor, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(inputs.shape, generator=generator(1, "noise"))


def test_three_threats_are_found_by_their_export() -> None:
    assert set(EXPORTED) == {"L1", "L2", "Linf"}


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 100.0])
def test_a_projection_lies_inside_and_projecting_again_changes_nothing(
    threat: Threat, inputs: Tensor, scale: float
) -> None:
    once = threat.project(inputs, inputs + noise(inputs, scale))
    assert threat.size(once - inputs).max() <= threat.eps * (1 + 1e-5)
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(threat.project(inputs, once), once, rtol=0, atol=1e-6)


def test_a_point_inside_stays_where_it_is(threat: Threat, inputs: Tensor) -> None:
    inside = (inputs + noise(inputs, 0.005)).clamp(0, 1)
    assert threat.size(inside - inputs).max() < threat.eps
    torch.testing.assert_close(threat.project(inputs, inside), inside, rtol=0, atol=1e-7)


def test_projecting_leaves_its_arguments_alone(threat: Threat, inputs: Tensor) -> None:
    moved = inputs + noise(inputs)
    before = inputs.clone(), moved.clone()
    threat.project(inputs, moved)
    threat.steepest(moved)
    threat.random_start(inputs, generator(0))
    assert torch.equal(inputs, before[0])
    assert torch.equal(moved, before[1])


def test_linf_projects_each_pixel_for_itself() -> None:
    projected = Linf(0.25).project(image(0.5, 0.5, 0.9, 0.125), image(0.625, 0.1, 1.5, -1.0))
    assert torch.equal(projected, image(0.625, 0.25, 1.0, 0.0))


def test_l2_shortens_the_change_and_then_clips() -> None:
    torch.testing.assert_close(L2(0.5).project(image(0.0, 0.0), image(0.6, 0.8)), image(0.3, 0.4))
    torch.testing.assert_close(L2(0.5).project(image(0.9, 0.5), image(1.5, 1.3)), image(1.0, 0.9))


def test_l1_shortens_the_change_inside_the_ball_and_the_box_at_once() -> None:
    """u = (0.5, 0.1, 0.9) with room (0.5, 0.5, 0.1): λ = 0.1 leaves 0.4 + 0 + 0.1. One after the other, the ball would
    take the pixel that has no room for the longest, and leave (0.05, 0, 0.1)."""
    projected = L1(0.5).project(image(0.5, 0.5, 0.9), image(1.0, 0.6, 1.8))
    torch.testing.assert_close(projected, image(0.9, 0.5, 1.0))


def by_bisection(centre: Tensor, wish: Tensor, eps: float) -> Tensor:
    """The nearest point of the L1 ball and the box: λ found by halving, in double precision, one image at a time."""
    change = wish - centre
    low, high = 0.0, float(change.abs().max())
    for _ in range(200):
        middle = (low + high) / 2
        shrunk = (centre + change.sign() * (change.abs() - middle).clamp_min(0)).clamp(0, 1) - centre
        low, high = (middle, high) if shrunk.abs().sum() > eps else (low, middle)
    return (centre + change.sign() * (change.abs() - high).clamp_min(0)).clamp(0, 1)


def test_the_l1_projection_is_the_one_that_bisection_finds() -> None:
    draw = generator(0, "cases")
    for pixels in (1, 2, 3, 7, 40):
        centres = torch.rand(60, 1, 1, pixels, generator=draw)
        centres[:20] = centres[:20].round()  # on the box
        wishes = centres + torch.randn(centres.shape, generator=draw) * torch.rand(60, 1, 1, 1, generator=draw) * 2
        wishes[50:] = centres[50:]  # inside
        wishes[::3] = wishes[::3].clamp(0, 1)
        radii = pixels * torch.rand(60, generator=draw) ** 3
        radii[::10] = 0
        moved = L1().project(centres, wishes, radii)
        wanted = [
            by_bisection(centre, wish, eps)
            for centre, wish, eps in zip(centres.double(), wishes.double(), radii.tolist(), strict=True)
        ]
        torch.testing.assert_close(moved, torch.stack(wanted).float(), rtol=0, atol=1e-6)
        assert torch.equal(moved[radii == 0], centres[radii == 0])


@pytest.mark.parametrize("seed", range(8))
def test_no_point_of_the_l1_ball_and_the_box_is_nearer_than_the_projection(seed: int) -> None:
    """By scipy's SLSQP, with the change split into what is added and what is taken away, so that all is smooth."""
    draw = generator(seed, "quadratic")
    centre, wish = torch.rand(5, generator=draw), 2 * torch.randn(5, generator=draw)
    eps = 1.5 * float(torch.rand((), generator=draw))
    goal, room = (wish - centre).double().numpy(), centre.double().numpy()
    best = minimize(
        lambda parts: float(((parts[:5] - parts[5:] - goal) ** 2).sum()),
        np.zeros(10),
        bounds=[(0, 1 - value) for value in room] + [(0, value) for value in room],
        constraints={"type": "ineq", "fun": lambda parts: eps - parts.sum()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    moved = L1(eps).project(centre.view(1, 1, 1, -1), wish.view(1, 1, 1, -1)).flatten() - centre
    np.testing.assert_allclose(moved.double().numpy(), best.x[:5] - best.x[5:], atol=1e-4)


def test_the_l1_ball_is_not_left_by_the_rounding_of_a_hundred_thousand_pixels() -> None:
    flat = torch.full((1, 3, 200, 200), 0.7)
    for eps in (1e-3, 0.3, 10.0):
        moved = L1(eps).project(flat, flat + 0.2)
        assert (moved - flat).double().abs().sum() <= eps * (1 + 1e-9)


def test_linf_projection_is_the_clipping_that_numpy_does(inputs: Tensor) -> None:
    delta = noise(inputs)
    wanted = np.clip(inputs.numpy() + np.clip(delta.numpy(), -0.1, 0.1), 0, 1)
    torch.testing.assert_close(Linf(0.1).project(inputs, inputs + delta), torch.from_numpy(wanted))


def test_sizes_are_the_norms() -> None:
    delta = torch.tensor([[[[0.3, -0.4]]], [[[0.0, 0.0]]]])
    torch.testing.assert_close(Linf(0.5).size(delta), torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(L2(0.5).size(delta), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(L1(0.5).size(delta), torch.tensor([0.7, 0.0]))


@pytest.mark.parametrize("threat", [Linf(0.3), L2(0.3)], ids=str)
def test_no_step_of_size_one_climbs_a_linear_function_higher_than_the_steepest(threat: Threat, inputs: Tensor) -> None:
    gradient = noise(inputs)
    steepest = threat.steepest(gradient)
    torch.testing.assert_close(threat.size(steepest), torch.ones(len(inputs)))
    best = (gradient * steepest).flatten(1).sum(1)
    order = 1 if isinstance(threat, Linf) else 2  # the dual norm
    torch.testing.assert_close(best, gradient.flatten(1).norm(p=order, dim=1))
    for seed in range(20):
        other = torch.randn(inputs.shape, generator=generator(seed, "other"))
        other /= threat.size(other).view(-1, 1, 1, 1)
        assert ((gradient * other).flatten(1).sum(1) <= best + 1e-5).all()


def test_the_l1_step_is_shared_equally_by_the_twentieth_of_the_pixels_with_the_largest_gradient() -> None:
    gradient = torch.zeros(2, 1, 1, 40)
    gradient[0, 0, 0, [3, 8, 30]] = torch.tensor([-5.0, 1.0, 4.0])
    gradient[1, 0, 0, 7] = -1e-30  # one pixel that moves at all carries the whole step
    steps = L1(0.3).steepest(gradient).flatten(1)
    assert steps.nonzero().tolist() == [[0, 3], [0, 30], [1, 7]]
    assert steps[steps != 0].tolist() == [-0.5, 0.5, -1.0]
    assert L1(0.3).steepest(torch.ones(1, 1, 1, 3)).count_nonzero() == 1


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-10, 1.0, 1e30])
def test_the_steepest_step_has_size_one_however_small_the_gradient(
    threat: Threat, inputs: Tensor, scale: float
) -> None:
    steepest = threat.steepest(noise(inputs) * scale)
    torch.testing.assert_close(threat.size(steepest), torch.ones(len(inputs)), rtol=1e-4, atol=0)


def test_where_there_is_no_gradient_there_is_no_step(threat: Threat) -> None:
    assert not threat.steepest(torch.zeros(2, 1, 3, 3)).any()


def test_random_starts_lie_inside_and_are_a_function_of_the_generator(threat: Threat, inputs: Tensor) -> None:
    start = threat.random_start(inputs, generator(3, "start"))
    assert threat.size(start - inputs).max() <= threat.eps * (1 + 1e-5)
    assert threat.size(start - inputs).min() > 0
    assert start.min() >= 0
    assert start.max() <= 1
    assert torch.equal(start, threat.random_start(inputs, generator(3, "start")))
    assert not torch.equal(start, threat.random_start(inputs, generator(4, "start")))


def test_random_starts_fill_the_ball_evenly(threat: Threat) -> None:
    """The share of a ball of d dimensions that lies within radius r is (r / eps) ** d, so its mean is a half."""
    middle = torch.full((4000, 1, 1, 2), 0.5)
    share = (threat.size(threat.random_start(middle, generator(0, "many")) - middle) / threat.eps) ** 2
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)  # four standard errors


def test_every_example_may_have_its_own_radius(threat: Threat, inputs: Tensor) -> None:
    eps = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.5, 0.9])
    projected = threat.project(inputs, inputs + noise(inputs), eps)
    started = threat.random_start(inputs, generator(0, "start"), eps)
    for points in (projected, started):
        assert (threat.size(points - inputs) <= eps * (1 + 1e-5) + 1e-7).all()
        assert torch.equal(points[0], inputs[0])
    alone = [
        type(threat)(radius).project(inputs[i : i + 1], projected[i : i + 1]) for i, radius in enumerate(eps.tolist())
    ]
    torch.testing.assert_close(torch.cat(alone), projected, rtol=0, atol=1e-6)
    assert threat.size(projected - inputs)[4] > threat.eps  # the radii replace the threat's own, they do not cap it


def test_a_radius_may_be_a_whole_number(inputs: Tensor) -> None:
    for whole, same in ((Linf(1), Linf(1.0)), (L2(1), L2(1.0)), (L1(1), L1(1.0))):
        moved = inputs + noise(inputs)
        assert torch.equal(whole.project(inputs, moved), same.project(inputs, moved))
        assert torch.equal(whole.random_start(inputs, generator(0)), same.random_start(inputs, generator(0)))


@pytest.mark.parametrize("eps", [8, 1.01, -0.1, float("nan")])
def test_a_radius_in_grey_levels_is_refused_with_the_way_out(eps: float) -> None:
    with pytest.raises(InputError, match=r"radius in \[0, 1\] for pixels in \[0, 1\].*Divide by 255"):
        Linf(eps)


@pytest.mark.parametrize("eps", [-0.5, float("nan")])
@pytest.mark.parametrize("kind", [L1, L2])
def test_an_l1_or_l2_radius_is_refused_where_it_cannot_be(kind: type, eps: float) -> None:
    with pytest.raises(InputError, match=r"radius in \[0, inf\].*Divide by 255"):
        kind(eps)


def test_threats_are_values() -> None:
    assert Linf(0.3) == Linf(0.3) != Linf(0.2)
    assert len({Linf(0.3), Linf(0.3), L2(0.3)}) == 2
    assert str(Linf(0.3)) == "Linf, eps = 0.3"
    assert str(L2(0.5)) == "L2, eps = 0.5"
    assert str(L1(10)) == "L1, eps = 10"


def test_an_open_threat_is_filled_in_however_deep_it_lies_and_a_given_one_stays() -> None:
    assert with_threat(PGD(), L2(1.0)) == PGD(threat=L2(1.0))
    assert with_threat(PGD(threat=Linf(0.1)), L2(1.0)) == PGD(threat=Linf(0.1))
    assert with_threat(Adversarial(PGD(steps=3)), Linf(0.2)) == Adversarial(PGD(steps=3, threat=Linf(0.2)))
    natural = Natural()
    assert with_threat(natural, Linf(0.2)) is natural


@pytest.mark.parametrize(
    ("text", "threat"),
    [
        ("linf:0.3", Linf(0.3)),
        ("Linf:8/255", Linf(8 / 255)),
        ("l_inf:1", Linf(1.0)),
        ("L2:0.5", L2(0.5)),
        ("l1:10", L1(10.0)),
    ],
)
def test_threats_can_be_written_in_a_word(text: str, threat: Threat) -> None:
    assert parse(text) == threat


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l3:0.5", r"unknown norm 'l3'; known: l1, l2, l_inf, linf"),
        ("linf", r"'' is not a radius; write linf:0.3"),
        ("linf:8/0", r"'8/0' is not a radius"),
        ("l2:half", r"'half' is not a radius"),
        ("l1:-1", r"radius in \[0, inf\]"),
        ("linf:8", r"Divide by 255"),
    ],
)
def test_a_word_that_is_no_threat_is_refused_with_one_that_is(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)
