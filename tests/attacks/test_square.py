"""Square behind guards: pyautoattack's verdicts under a budget."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robal.attacks import perturb
from robal.attacks.square import Square
from robal.errors import InputError
from robal.seeds import generator
from robal.threats import L2, Linf, Threat
from small_models import Counting, Stepped, linear, standing

Images = tuple[Tensor, Tensor]
SEED = int(torch.randint(2**31 - 1, (1,), generator=generator(0)))  # what it draws from this generator


@pytest.fixture(scope="session")
def some(tiny_model: nn.Module, tiny_digits: Images) -> Images:
    """40 digits that the model classifies correctly."""
    images, labels = tiny_digits[0][1000:].float() / 255, tiny_digits[1][1000:]
    right = standing(tiny_model, images, labels).nonzero().flatten()[:40]
    return images[right], labels[right]


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.6)], ids=str)
def test_images_are_those_of_pyautoattack(tiny_model: nn.Module, some: Images, threat: Threat) -> None:
    moved = Square(200, threat=threat)(tiny_model, *some, generator(0))
    with torch.random.fork_rng():
        bare = SquareAttack(
            tiny_model, norm=type(threat).__name__, n_queries=200, eps=threat.eps, seed=SEED, resc_schedule=False
        )
        wanted = bare.perturb(*some)
    stands = standing(tiny_model, moved, some[1])
    assert torch.equal(stands, standing(tiny_model, wanted, some[1]))
    assert torch.equal(moved[~stands], wanted[~stands])
    assert 0 < stands.sum() < len(stands)
    assert threat.size(moved - some[0]).max() <= threat.eps * (1 + 1e-5)


def test_a_linear_model_of_one_pixel_by_hand() -> None:
    """Logits (x, 0.5): the first query moves x by 0.25 up or down, and down suffices; 20 queries find it."""
    model = linear([[1.0], [0.0]], [0.0, 0.5])
    moved = Square(20, threat=Linf(0.25))(model, torch.full((1, 1, 1, 1), 0.625), torch.tensor([0]), generator(0))
    assert moved.item() == 0.375


def test_it_spends_no_more_than_its_queries_and_asks_only_about_what_stands(
    tiny_model: nn.Module, some: Images
) -> None:
    counting = Counting(tiny_model)
    wrong = torch.where(torch.arange(40) < 10, (some[1] + 1) % 10, some[1])
    moved = Square(50, threat=Linf(0.1))(counting, some[0], wrong, generator(0))
    asked = counting.passes[1:-1]  # without the questions who stands, before and after
    assert counting.passes[0] == 40
    assert asked[0] == 30
    assert len(asked) <= 51
    assert all(later <= sooner for sooner, later in pairwise(asked))
    assert torch.equal(moved[:10], some[0][:10])


def test_an_image_that_stands_comes_back_at_its_lowest_lead(tiny_model: nn.Module, some: Images) -> None:
    def leads(moved: Tensor) -> Tensor:
        with torch.no_grad():
            logits = tiny_model(moved)
        own = logits.gather(1, some[1].view(-1, 1)).flatten()
        return own - logits.scatter(1, some[1].view(-1, 1), -torch.inf).amax(1)

    one, many = (leads(Square(queries, threat=Linf(0.05))(tiny_model, *some, generator(0))) for queries in (1, 50))
    stood = many > 0
    assert stood.sum() > 10
    assert (many <= one)[stood].all()
    assert (many < leads(some[0]))[stood].all()


def test_more_queries_or_restarts_only_break_more(tiny_model: nn.Module, some: Images) -> None:
    def stands(queries: int, restarts: int = 1) -> Tensor:
        moved = Square(queries, restarts, Linf(0.08))(tiny_model, *some, generator(0))
        return standing(tiny_model, moved, some[1])

    by_queries = [stands(queries) for queries in (1, 30, 300)]
    by_restarts = [stands(30, restarts) for restarts in (1, 2, 4)]
    assert all((more <= fewer).all() for fewer, more in (*pairwise(by_queries), *pairwise(by_restarts)))
    assert by_queries[-1].sum() < by_queries[0].sum()
    assert by_restarts[-1].sum() < by_restarts[0].sum()


def test_it_needs_no_gradient(tiny_model: nn.Module, some: Images) -> None:
    moved = perturb(Square(200, threat=Linf(0.2)), Stepped(tiny_model), *some, generator(0))
    assert standing(Stepped(tiny_model), moved, some[1]).double().mean() < 0.7


def test_the_global_random_stream_stays(tiny_model: nn.Module, some: Images) -> None:
    before = torch.get_rng_state()
    Square(3, threat=Linf(0.1))(tiny_model, *some, generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_radius_of_zero_and_a_model_that_is_always_wrong_change_nothing(tiny_model: nn.Module, some: Images) -> None:
    assert torch.equal(Square(5, threat=Linf(0.0))(tiny_model, *some, generator(0)), some[0])
    wrong = (some[1] + 1) % 10
    assert torch.equal(Square(5, threat=Linf(0.3))(tiny_model, some[0], wrong, generator(0)), some[0])


class Wary(nn.Module):
    """Equal logits for all, and no answer to a batch of none, as `view` would have it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(len(inputs), -1)[:, :3] * 0


def test_equal_logits_are_no_reason_to_fall_over() -> None:
    inputs, labels = torch.rand(2, 1, 5, 5, generator=generator(0)), torch.tensor([0, 0])
    moved = Square(5, threat=Linf(0.1))(Wary(), inputs, labels, generator(0))
    assert standing(Wary(), moved, labels).all()


def test_tiny_images_are_refused_in_l2_and_met_in_linf() -> None:
    model, inputs = linear(torch.eye(4)), torch.rand(2, 1, 2, 2, generator=generator(0))
    labels = model(inputs).argmax(1)
    with pytest.raises(InputError, match=r"at least 5 x 5 pixels; these are 2 x 2. Take Linf"):
        Square(5, threat=L2(0.5))(model, inputs, labels, generator(0))
    assert not standing(model, Square(50, threat=Linf(1.0))(model, inputs, labels, generator(0)), labels).all()


def test_a_threat_that_it_does_not_know_is_refused() -> None:
    class Patch:
        eps = 0.1

        def __str__(self) -> str:
            return "a patch"

    with pytest.raises(InputError, match="knows the threats Linf and L2; not a patch"):
        Square(threat=Patch())(linear(torch.eye(4)), torch.rand(1, 1, 2, 2), torch.tensor([0]), generator(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"), [({"queries": 0}, "0 and 1 came"), ({"restarts": 0}, "5000 and 0 came")]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Square(**settings)


def test_it_says_what_it_is_and_what_it_costs() -> None:
    assert (Square().label, Square().passes) == ("Square-5000", 1666)
    assert (Square(300, 2).label, Square(300, 2).passes) == ("Square-300x2", 200)


def test_the_second_restart_begins_with_what_still_stands(tiny_model: nn.Module, some: Images) -> None:
    left = standing(tiny_model, Square(20, 1, Linf(0.12))(tiny_model, *some, generator(0)), some[1]).sum()
    counting = Counting(tiny_model)
    Square(20, 2, Linf(0.12))(counting, *some, generator(0))
    assert counting.passes[23] == left < 40  # after the question who is right, 21 queries and the check
