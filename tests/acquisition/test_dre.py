"""DRE: every allocation against a plain loop, and the density that it is for."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from robal.acquisition import DRE, Margin, dre, select
from robal.acquisition.dre import Allocation, histogram_bins, largest_remainder
from robal.errors import InputError
from robal.scores import entropy, margin
from robal.seeds import generator
from small_models import Stated, stated

ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
SHAPES = {
    "skewed": lambda draw, m: torch.rand(m, generator=draw) ** 3,
    "even": lambda draw, m: torch.rand(m, generator=draw),
    "two heaps": lambda draw, m: (torch.rand(m, generator=draw) - 0.5).sign() + 0.1 * torch.randn(m, generator=draw),
}


def some_scores(shape: str, count: int, seed: int = 0) -> Tensor:
    return SHAPES[shape](generator(seed, "scores", shape), count)


def bins_of(scores: Tensor, bins: int) -> tuple[list[int], list[int]]:
    """The bin of each score and the counts, by numpy."""
    counts, edges = np.histogram(scores.double().numpy(), bins)
    return np.clip(np.digitize(scores.double().numpy(), edges) - 1, 0, bins - 1).tolist(), counts.tolist()


def hamilton(counts: list[int], n: int) -> list[int]:
    """Shares by largest remainder, one after the other, in fractions."""
    total = sum(counts)
    shares = [math.floor(Fraction(n * count, total)) for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (shares[i] - Fraction(n * counts[i], total), i))
    for index in by_remainder[: n - sum(shares)]:
        shares[index] += 1
    return shares


def as_released(scores: Tensor, n: int, bins: int) -> list[int]:
    """How many of each bin the released code takes: rounded up, half-open bins, surplus cut from the low end."""
    bin_of, counts = bins_of(scores, bins)
    largest = float(scores.max())
    taken = []
    for number in range(bins):
        open_to = [i for i, b in enumerate(bin_of) if b == number and float(scores[i]) < largest]
        taken.append(min(math.ceil(Fraction(n * counts[number], len(scores))), len(open_to)))
    surplus = sum(taken) - n
    for number in range(bins):
        cut = min(max(surplus, 0), taken[number])
        taken[number] -= cut
        surplus -= cut
    return taken


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [1, 7, 50])
def test_bins_are_those_of_numpy(shape: str, bins: int) -> None:
    scores = some_scores(shape, 500)
    bin_of, counts = bins_of(scores, bins)
    assert histogram_bins(scores, bins).tolist() == bin_of
    assert torch.bincount(histogram_bins(scores, bins), minlength=bins).tolist() == counts


def test_three_quarters_of_the_pool_are_three_quarters_of_the_sample() -> None:
    """Six low scores and two high ones; of four, three are low and one is high, whatever the seed."""
    scores = torch.tensor([0.0, 0.1, 0.9, 0.2, 0.1, 1.0, 0.3, 0.1])
    seen: Counter[int] = Counter()
    for seed in range(200):
        chosen = dre(scores, 4, generator(seed), bins=2).tolist()
        assert sum(index in (2, 5) for index in chosen) == 1
        seen.update(chosen)
    assert set(seen) == set(range(8))


def test_shares_by_largest_remainder_are_those_of_a_plain_loop() -> None:
    for seed in range(100):
        draw = generator(seed, "counts")
        counts = torch.randint(0, 2 + seed % 30, (1 + seed % 20,), generator=draw)
        total = int(counts.sum())
        for n in {0, total // 3, total // 2, max(total - 1, 0), total} if total else ():
            shares = largest_remainder(counts, n)
            assert shares.tolist() == hamilton(counts.tolist(), n)
            assert int(shares.sum()) == n
            assert (shares <= counts).all()
            assert ((shares - n * counts / total).abs() < 1).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 10, 37, 199, 200])
def test_the_largest_remainder_keeps_every_bin_within_one_image_of_its_share(shape: str, n: int) -> None:
    scores = some_scores(shape, 200)
    bin_of, counts = bins_of(scores, 20)
    chosen = dre(scores, n, generator(1), bins=20)
    taken = Counter(bin_of[index] for index in chosen.tolist())
    assert [taken[number] for number in range(20)] == hamilton(counts, n)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 10, 37, 150, 199])
def test_released_takes_from_each_bin_what_the_released_code_takes(shape: str, n: int) -> None:
    scores = some_scores(shape, 200)
    bin_of, _ = bins_of(scores, 20)
    chosen = dre(scores, n, generator(1), bins=20, allocation="released").tolist()
    taken, wanted = Counter(bin_of[index] for index in chosen), as_released(scores, n, 20)
    assert sum(wanted) == n
    assert [taken[number] for number in range(20)] == wanted
    assert [bin_of[index] for index in chosen] == sorted(bin_of[index] for index in chosen)


@pytest.mark.parametrize("shape", SHAPES)
def test_released_never_takes_the_most_uncertain_image_unless_it_takes_all(shape: str) -> None:
    scores = some_scores(shape, 60)
    most = int(scores.argmax())
    for seed in range(20):
        for n in (1, 30, 59):
            assert most not in dre(scores, n, generator(seed), allocation="released").tolist()
    assert most in dre(scores, 60, generator(0), allocation="released").tolist()
    for other in ("largest_remainder", "random_trim"):
        assert any(most in dre(scores, 30, generator(seed), 3, other).tolist() for seed in range(40))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_within_a_bin_no_image_is_preferred(allocation: Allocation) -> None:
    """Five low and five high scores, three of ten: also in the bin that the surplus is cut from."""
    scores = torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04, 0.90, 0.91, 0.92, 0.93, 1.0])
    seen = torch.zeros(10)
    for seed in range(2000):
        seen[dre(scores, 3, generator(seed), bins=2, allocation=allocation)] += 1
    low, high = seen[:5], seen[5:9] if allocation == "released" else seen[5:]
    for heap in (low, high):
        share = float(heap.mean()) / 2000
        deviation = math.sqrt(2000 * share * (1 - share))
        assert (heap - heap.mean()).abs().max() < 4 * deviation


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 10, 37, 199])
def test_random_trim_rounds_up_and_drops_the_surplus_anywhere(shape: str, n: int) -> None:
    scores = some_scores(shape, 200)
    bin_of, counts = bins_of(scores, 20)
    most = [math.ceil(Fraction(n * count, 200)) for count in counts]
    dropped = set()
    for seed in range(30):
        chosen = dre(scores, n, generator(seed), bins=20, allocation="random_trim").tolist()
        assert len(set(chosen)) == n
        taken = Counter(bin_of[index] for index in chosen)
        assert all(taken[number] <= most[number] for number in range(20))
        dropped |= {number for number in range(20) if taken[number] < most[number]}
    occupied = {number for number in range(20) if counts[number]}
    assert len(dropped) > 0.6 * len(occupied) or sum(most) == n


def test_strata_keep_every_predicted_class_and_bin_within_one_image_of_its_share() -> None:
    probs = torch.randn(600, 4, generator=generator(3)).mul(2).softmax(1)
    chosen = select(DRE(bins=5, stratify=True), Stated(), stated(probs), 120)
    cells = list(zip(probs.argmax(1).tolist(), histogram_bins(entropy(probs), 5).tolist(), strict=True))
    pool, taken = Counter(cells), Counter(cells[index] for index in chosen.tolist())
    for cell, count in pool.items():
        assert abs(taken[cell] - 120 * count / 600) < 1
    plain = select(DRE(bins=5), Stated(), stated(probs), 120)
    without = Counter(cells[index] for index in plain.tolist())
    assert any(abs(without[cell] - 120 * count / 600) >= 1 for cell, count in pool.items())


def divergence(scores: Tensor, chosen: Tensor, bins: int = 50) -> float:
    """Jensen-Shannon, in bits, between the histograms of the chosen and of all, over the pool's bins."""
    counts, edges = np.histogram(scores.numpy(), bins)
    return float(jensenshannon(np.histogram(scores[chosen].numpy(), edges)[0], counts, base=2) ** 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sample_is_closer_to_the_pool_than_a_random_one(shape: str) -> None:
    scores = some_scores(shape, 5000)
    faithful, released, by_chance = [], [], []
    for seed in range(5):
        faithful.append(divergence(scores, dre(scores, 200, generator(seed))))
        released.append(divergence(scores, dre(scores, 200, generator(seed), allocation="released")))
        by_chance.append(divergence(scores, torch.randperm(5000, generator=generator(seed))[:200]))
    assert max(faithful) < 0.5 * min(by_chance)
    assert max(faithful) < 0.5 * min(released)


def test_released_leans_to_the_uncertain_side_and_the_largest_remainder_does_not() -> None:
    scores = some_scores("even", 5000)
    means = {
        allocation: np.mean([float(scores[dre(scores, 200, generator(s), 50, allocation)].mean()) for s in range(10)])
        for allocation in ALLOCATIONS
    }
    assert means["largest_remainder"] == pytest.approx(float(scores.mean()), abs=0.002)
    assert means["released"] > float(scores.mean()) + 0.02


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_equal_scores_are_drawn_at_random(allocation: Allocation) -> None:
    scores = torch.full((30,), 0.7)
    first, other = (dre(scores, 12, generator(seed), allocation=allocation).tolist() for seed in (0, 1))
    assert len(set(first)) == len(set(other)) == 12
    assert set(first) != set(other)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("bins", [1, 3, 50, 1000])
def test_all_images_are_all_images(allocation: Allocation, bins: int) -> None:
    scores = some_scores("skewed", 40)
    assert sorted(dre(scores, 40, generator(0), bins, allocation).tolist()) == list(range(40))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_image_is_no_image(allocation: Allocation) -> None:
    assert dre(some_scores("even", 9), 0, generator(0), allocation=allocation).tolist() == []
    assert dre(torch.zeros(0), 0, generator(0), allocation=allocation).tolist() == []


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_scale_of_the_score_does_not_matter(allocation: Allocation) -> None:
    """Entropy in bits or in nats, shifted or not: the bins are relative to the pool."""
    scores = some_scores("skewed", 300).double()
    wanted = dre(scores, 50, generator(0), allocation=allocation)
    assert torch.equal(dre(scores * 0.25 - 7, 50, generator(0), allocation=allocation), wanted)


def test_the_component_takes_the_histogram_of_the_score_it_is_given() -> None:
    probs = torch.randn(200, 4, generator=generator(5)).mul(2).softmax(1)
    for component, values in ((DRE(bins=10), entropy(probs)), (DRE(bins=10, score=Margin()), margin(probs))):
        bin_of = histogram_bins(values, 10)
        taken = torch.bincount(bin_of[select(component, Stated(), stated(probs), 40)], minlength=10)
        assert taken.tolist() == hamilton(torch.bincount(bin_of, minlength=10).tolist(), 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 0}, "at least one bin; 0 came"),
        ({"allocation": "even"}, "one of largest_remainder, random_trim, released; not 'even'"),
        ({"allocation": "released", "stratify": True}, "knows no strata"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DRE(**settings)
