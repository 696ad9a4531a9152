"""ProbCover: greedy coverage against a plain loop on whole numbers, where no rounding can hide."""

from __future__ import annotations

import importlib
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition.acquisition import select
from robal.acquisition.probcover import ProbCover, count_within, probcover, purest_radius
from robal.acquisition.typiclust import clusters_of
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import as_images

module = importlib.import_module("robal.acquisition.probcover")  # the package has a function of that name


def lattice(count: int, side: int, seed: int = 0) -> Tensor:
    """Points with whole coordinates in a square: many of them equal, many equally far apart."""
    return torch.randint(side, (count, 2), generator=generator(seed, "lattice")).float()


def squared(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def greedily(points: Tensor, known: Tensor, n: int, delta: float) -> list[int]:
    """The definition, every gain counted anew for every choice."""
    rows, seen = points.tolist(), known.tolist()
    uncovered = {i for i, row in enumerate(rows) if all(squared(row, other) >= delta**2 for other in seen)}
    free, chosen = list(range(len(rows))), []
    while len(chosen) < n:
        if uncovered:
            worth = {i: sum(squared(rows[i], rows[j]) < delta**2 for j in uncovered) for i in free}
        else:
            worth = {i: min((squared(rows[i], other) for other in seen), default=torch.inf) for i in free}
        best = min(free, key=lambda i: (-worth[i], i))
        free.remove(best)
        chosen.append(best)
        seen.append(rows[best])
        uncovered -= {j for j in uncovered if squared(rows[best], rows[j]) < delta**2}
    return chosen


def test_by_hand_the_ball_of_three_comes_before_the_ball_of_two_and_the_farthest_last() -> None:
    line = torch.tensor([[0.0], [4.0], [5.0], [9.0], [10.0], [11.0], [14.5]])
    # Balls of 1.5: of three around 10, of two around 4 (the lower index), then 0 and 14.5 alone; then all is covered,
    # and 5, 9 and 11 are all 1 from the nearest chosen.
    assert probcover(line, line[:0], 7, 1.5).tolist() == [4, 1, 0, 6, 2, 3, 5]
    # A label at 10 covers its three; 14.5 is alone, like 0, but of higher index.
    assert probcover(line, torch.tensor([[10.0]]), 3, 1.5).tolist() == [1, 0, 6]


@pytest.mark.parametrize("side", [4, 12, 40])
@pytest.mark.parametrize("known", [0, 1, 9])
def test_it_is_the_greedy_loop(side: int, known: int) -> None:
    for seed in range(2):
        points = lattice(50, side, seed)
        for delta in (0.5, 2.0, 3.3, 100.0):
            whole = greedily(points, points[:known], 50, delta)
            for n in (1, 7, 50):
                assert probcover(points, points[:known], n, delta).tolist() == whole[:n]


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    points, classes = lattice(50, 12), torch.arange(50) % 3
    wanted = probcover(points, points[:6], 50, 2.5), purest_radius(points[::2], classes[::2], generator(0), 0.3)
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "_COLUMNS", 3)
    assert torch.equal(probcover(points, points[:6], 50, 2.5), wanted[0])
    assert purest_radius(points[::2], classes[::2], generator(0), 0.3) == wanted[1]
    assert count_within(points, points, 2.5).tolist() == (torch.cdist(points, points) < 2.5).sum(1).tolist()


def test_greedy_coverage_is_at_least_63_percent_of_the_best() -> None:
    """Nemhauser, Wolsey and Fisher 1978: 1 - (1 - 1/n)^n of the optimum, which is found by trying all."""
    for seed in range(5):
        points = lattice(14, 8, seed)
        inside = torch.cdist(points, points) < 2.5
        best = max(int(inside[list(three)].any(0).sum()) for three in combinations(range(14), 3))
        got = int(inside[probcover(points, points[:0], 3, 2.5)].any(0).sum())
        assert (1 - (2 / 3) ** 3) * best <= got <= best


def test_a_radius_that_covers_nothing_takes_all_in_order_of_index() -> None:
    points = torch.arange(9.0)[:, None]
    assert probcover(points, points[:0], 9, 0.0).tolist() == list(range(9))
    assert probcover(points, points[:0], 4, torch.inf).tolist() == [0, 8, 4, 2]  # all is covered: farthest first


def test_rounding_does_not_decide_who_covers_itself_or_who_is_a_twin() -> None:
    directions = nn.functional.normalize(torch.randn(40, 84, generator=generator(0)))
    assert probcover(directions, directions[:0], 40, 1e-5).tolist() == list(range(40))
    twins = directions.repeat(2, 1)
    chosen = probcover(twins, directions[:0], 80, torch.inf).tolist()
    assert sorted(chosen[:40]) != chosen[:40]
    assert chosen[40:] == sorted(chosen[40:])


def pure_share(points: Tensor, classes: Tensor, radius: float) -> float:
    """The share of points whose open ball holds no other class."""
    inside = torch.cdist(points.double(), points.double()) < radius
    return float((~(inside & (classes[:, None] != classes))).all(1).double().mean())


def test_the_radius_by_hand() -> None:
    line, classes = torch.tensor([[0.0], [1.0], [3.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    # The nearest of the other class is 3, 2, 2 and 5 away.
    for purity, radius in ((0.25, 5.0), (0.5, 3.0), (0.51, 2.0), (0.75, 2.0), (1.0, 2.0)):
        assert purest_radius(line, classes, generator(0), purity) == pytest.approx(radius)
    assert purest_radius(line, torch.zeros(4).long(), generator(0)) == torch.inf
    assert purest_radius(line[:1], classes[:1], generator(0)) == torch.inf


@pytest.mark.parametrize("purity", [0.2, 0.7, 0.95, 1.0])
def test_balls_of_the_radius_are_pure_enough_and_larger_ones_are_not(purity: float) -> None:
    points = torch.rand(300, 2, generator=generator(0))
    classes = (points.sum(1) * 2).long()
    radius = purest_radius(points, classes, generator(0), purity)
    assert pure_share(points, classes, radius * (1 - 1e-3)) >= purity
    assert pure_share(points, classes, radius * (1 + 1e-3)) < purity


def test_a_sample_of_centres_gives_about_the_same_radius() -> None:
    points = torch.rand(2000, 2, generator=generator(0))
    classes = (points.sum(1) * 2).long()
    whole = purest_radius(points, classes, generator(0), 0.6)
    by_sample = [purest_radius(points, classes, generator(seed), 0.6, centres=400) for seed in range(5)]
    assert by_sample == pytest.approx([whole] * 5, rel=0.25)
    assert len(set(by_sample)) > 1
    assert purest_radius(points, classes, generator(1), 0.6) == whole


@pytest.mark.parametrize("labelled", [0, 1, 30])
def test_the_component_is_the_function_on_directions(labelled: int) -> None:
    points = torch.rand(90, 4, generator=generator(0)) + 0.01
    points = points / points.amax()
    model, images = as_images(points)
    labels = torch.full((90,), -1)
    labels[90 - labelled :] = 1
    pool = Pool(InMemory(images), labels, ("a", "b", "c"))
    directions = nn.functional.normalize(points)
    free, known = directions[: 90 - labelled], directions[90 - labelled :]
    estimated = purest_radius(free, points[: 90 - labelled, :3].argmax(1), generator(0), 0.5)
    for n in (1, 10, 90 - labelled):
        assert select(ProbCover(0.3), model, pool, n).tolist() == probcover(free, known, n, 0.3).tolist()
        by_purity = select(ProbCover(purity=0.5), model, pool, n)
        assert by_purity.tolist() == probcover(free, known, n, estimated).tolist()
        assert by_purity.tolist() == select(ProbCover(purity=0.5), model, pool, n, engine=Local(7)).tolist()


def test_where_one_class_is_predicted_clusters_take_the_place_of_classes() -> None:
    points = torch.rand(90, 4, generator=generator(0))
    model, images = as_images(points, bias=[9.0, 0.0, 0.0])
    directions = nn.functional.normalize(points)
    draw = generator(0, "select")
    radius = purest_radius(directions, clusters_of(directions, 3, draw), draw)
    assert radius < 1
    chosen = select(ProbCover(), model, images, 20)
    assert chosen.tolist() == probcover(directions, directions[:0], 20, radius).tolist()


@pytest.mark.parametrize("count", [1, 2, 80])
def test_equal_images_are_chosen_by_index(count: int) -> None:
    for value in (0.0, 0.3):
        model, images = as_images(torch.full((count, 4), value))
        for n in {1, count}:
            assert select(ProbCover(), model, images, n).tolist() == list(range(n))
            assert select(ProbCover(0.5), model, images, n).tolist() == list(range(n))


def test_what_is_given_stays_as_it_is() -> None:
    points, known = lattice(40, 9), lattice(5, 9, seed=1)
    kept = points.clone(), known.clone()
    probcover(points, known, 30, 2.5)
    purest_radius(points, torch.arange(40) % 2, generator(0))
    assert torch.equal(points, kept[0])
    assert torch.equal(known, kept[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delta": 0.0}, r"in \(0, 2\]; not 0.0"),
        ({"delta": 2.5}, r"in \(0, 2\]; not 2.5"),
        ({"delta": float("nan")}, r"in \(0, 2\]; not nan"),
        ({"purity": 0.0}, r"share in \(0, 1\]; not 0.0"),
        ({"purity": 1.5}, r"share in \(0, 1\]; not 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProbCover(**settings)
