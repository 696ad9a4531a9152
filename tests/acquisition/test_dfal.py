"""DFAL: the nearest first, out of a random draw, and the twins that the labels bring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition.acquisition import examples_of, is_score, select
from robal.acquisition.dfal import DFAL, draw, fool
from robal.attacks.deepfool import DeepFool
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Examples, Pool
from robal.seeds import generator
from small_models import Counting, linear

WHOLE = DFAL(candidates_per_query=0)
ONE_PIXEL = linear([[0.0], [10.0]], [5.0, 0.0])  # the boundary lies at a half


def shades(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def twins_of(acquisition: DFAL, model: nn.Module, images: Tensor, chosen: list[int], labels: list[int]) -> Examples:
    pool = Pool.unlabelled(InMemory(images), [str(number) for number in range(10)])
    candidates = Candidates(model, pool, pool.candidates)
    return examples_of(acquisition, candidates, torch.tensor(chosen), torch.tensor(labels), generator(0))


def test_the_nearest_to_the_boundary_come_first() -> None:
    images = shades(0.9, 0.45, 0.15, 0.52, 0.7)  # distances 0.4, 0.05, 0.35, 0.02, 0.2
    for n in range(1, 5):
        assert select(WHOLE, ONE_PIXEL, images, n).tolist() == [3, 1, 4, 2][:n]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("tile", [7, 128])
def test_on_a_linear_model_the_order_is_that_of_the_closed_form(norm: Any, tile: int) -> None:
    weight = torch.randn(4, 9, generator=generator(0, "weight"))
    images = 0.3 + 0.4 * torch.rand(40, 1, 3, 3, generator=generator(0, "images"))
    logits = images.flatten(1) @ weight.T
    distances = []
    for row in logits:
        own = int(row.argmax())
        gaps = [(row[own] - row[k], weight[own] - weight[k]) for k in range(4) if k != own]
        distances.append(min(float(f / (w.norm() if norm == "l2" else w.abs().sum())) for f, w in gaps))
    acquisition = DFAL(0, attack=DeepFool(norm, steps=10, overshoot=0.0, classes=None, clip=False))
    wanted = sorted(range(40), key=lambda index: distances[index])
    assert select(acquisition, linear(weight), images, 40, engine=Local(tile)).tolist() == wanted


def test_what_cannot_be_flipped_comes_last_and_in_the_order_of_the_pool() -> None:
    """The ReLU is off above a half: no gradient there, and no boundary to be found."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    for layer, weight, bias in ((model[1], [[-1.0]], [0.5]), (model[3], [[-1.0], [1.0]], [0.0, -0.9])):
        layer.weight.data.copy_(torch.tensor(weight))
        layer.bias.data.copy_(torch.tensor(bias))
    images = shades(0.9, 0.2, 0.7, 0.1, 0.8)
    assert select(WHOLE, model, images, 5).tolist() == [3, 1, 0, 2, 4]
    assert select(WHOLE, ONE_PIXEL, shades(*[0.3] * 9), 9).tolist() == list(range(9))


def test_only_the_drawn_candidates_are_looked_at() -> None:
    """Of four drawn at random the two nearest: as often as a draw of four holds an image is how often the best wins."""
    images = torch.linspace(0.51, 0.99, 12).view(-1, 1, 1, 1)
    first, once = torch.zeros(12), torch.zeros(12)
    for seed in range(200):
        first[select(DFAL(2), ONE_PIXEL, images, 2, seed)[0]] += 1
        once[select(DFAL(1), ONE_PIXEL, images, 2, seed)] += 1
    assert abs(first[0] / 200 - 4 / 12) < 0.14  # four standard deviations
    assert first[9:].sum() == 0  # of four, three are always nearer
    assert (once / 200 - 2 / 12).abs().max() < 0.11  # with one candidate an image, chance alone chooses
    assert select(DFAL(6), ONE_PIXEL, images, 2).tolist() == [0, 1]
    assert select(DFAL(0), ONE_PIXEL, images, 2).tolist() == [0, 1]


def test_a_draw_is_without_replacement_and_ascending() -> None:
    drawn = draw(50, 20, generator(0))
    assert len(set(drawn.tolist())) == 20
    assert drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() == draw(50, 20, generator(0)).tolist() != draw(50, 20, generator(1)).tolist()


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 2, 2], [2, 2], [2, 0, 2], [1], [0, 0, 1], []])
def test_copies_at_the_end_of_a_tile_are_fooled_once_and_have_the_same_answer(order: list[int]) -> None:
    model, batch = Counting(ONE_PIXEL), shades(0.9, 0.45, 0.6)[order]
    found, wanted = fool(DeepFool(), model, batch), DeepFool()(ONE_PIXEL, batch)
    assert torch.equal(found.distance, wanted.distance)
    assert torch.equal(found.adversaries, wanted.adversaries)
    assert torch.equal(found.flipped, wanted.flipped)
    once = {(0, 2, 2, 2): 2, (2, 2): 1}.get(tuple(order), len(order))
    assert max(model.passes, default=0) == once


def test_labelled_images_are_left_out_and_positions_are_those_of_the_pool() -> None:
    images = shades(0.9, 0.45, 0.1, 0.52, 0.7)
    pool = Pool.unlabelled(InMemory(images), ("0", "1")).reveal(torch.tensor([3]), torch.tensor([1]))
    assert select(WHOLE, ONE_PIXEL, pool, 2).tolist() == [1, 4]


@pytest.mark.parametrize("attack", [DeepFool(steps=10), DeepFool("linf"), DeepFool(overshoot=0.02, clip=False)])
def test_twins_have_the_image_s_label_and_another_prediction(
    lenet: nn.Module, digits: tuple[Tensor, Tensor], attack: DeepFool
) -> None:
    images, chosen = digits[0][1000:1200], [17, 3, 101]
    added = twins_of(DFAL(attack=attack), lenet, images, chosen, [7, 7, 1])
    assert added.labels.tolist() == [7, 7, 1]
    assert added.origin.tolist() == chosen
    assert added.kind.tolist() == [Examples.KINDS.index("twin")] * 3
    assert added.weight.tolist() == [1.0] * 3
    assert added.images.dtype == torch.float32
    assert added.images.min() >= 0
    assert added.images.max() <= 1
    plain = images[chosen].float() / 255
    found = attack(lenet, plain)
    torch.testing.assert_close(added.images, found.adversaries.clamp(0, 1), rtol=0, atol=1e-4)
    if attack.clip:
        with torch.no_grad():
            assert (lenet(added.images).argmax(1) != lenet(plain).argmax(1)).all()


def test_the_twin_by_hand_and_none_where_none_is_wanted_or_found() -> None:
    images = shades(0.9, 0.45)
    added = twins_of(DFAL(), ONE_PIXEL, images, [1, 0], [1, 0])
    assert ((added.images.flatten() - torch.tensor([0.5, 0.5])).abs() < 0.009).all()
    assert (added.images.flatten() > 0.5).tolist() == [True, False]
    assert len(twins_of(DFAL(twins=False), ONE_PIXEL, images, [1, 0], [1, 0])) == 0
    # With one step in the box, half the way, nothing flips.
    assert len(twins_of(DFAL(attack=DeepFool(steps=1)), ONE_PIXEL, images, [1, 0], [1, 0])) == 0


def test_it_chooses_and_looks_at_one_candidate_an_image_or_more() -> None:
    assert not is_score(DFAL())
    with pytest.raises(InputError, match=r"DFAL looks at candidates_per_query >= 1 .* or 0 for all; -1 came"):
        DFAL(candidates_per_query=-1)
