"""TypiClust: the clusters of scikit-learn, and the visits to them against a plain loop."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from robal.acquisition.acquisition import select
from robal.acquisition.typiclust import TypiClust, clusters_of, most_typical, typicality, typiclust
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import as_images

module = importlib.import_module("robal.acquisition.typiclust")  # the package has a function of that name


def places(count: int, dimension: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, dimension, generator=generator(seed, "places"))


def in_turn(points: Tensor, cluster: list[int], held: list[int], n: int, neighbours: int, smallest: int) -> list[int]:
    """The visits, one after the other, by sorting in Python and distances in numpy."""
    rows = points.double().numpy()
    sizes = {c: cluster.count(c) + held.count(c) for c in set(cluster)}
    order = sorted(sizes, key=lambda c: (held.count(c), -sizes[c], c))
    queues = {}
    for c in order:
        members = [i for i, other in enumerate(cluster) if other == c]
        count = min(neighbours, len(members) // 2)
        mean = {
            i: np.mean([0.0, *sorted(np.linalg.norm(rows[i] - rows[j]) for j in members if j != i)[:count]])
            for i in members
        }
        queues[c] = sorted(members, key=lambda i: (mean[i], i))
    chosen: list[int] = []
    for wanted in (True, False):
        group = [c for c in order if (sizes[c] > smallest) is wanted]
        while len(chosen) < n and any(queues[c] for c in group):
            for c in group:
                if queues[c] and len(chosen) < n:
                    chosen.append(queues[c].pop(0))
    return chosen


def test_by_hand_the_uncovered_cluster_comes_first_and_its_middle_before_its_ends() -> None:
    """Clusters {0, 1, 3} with a label, {9, 10, 12, 20} without; one or two neighbours each."""
    line = torch.tensor([[0.0], [9.0], [1.0], [10.0], [3.0], [12.0], [20.0]])
    cluster = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    # Mean distances to two neighbours in the second: 2, 1.5, 2.5, 9; to one neighbour in the first: 1, 1, 2.
    assert most_typical(line, cluster, torch.tensor([0]), 7, smallest=0).tolist() == [3, 0, 1, 2, 5, 4, 6]


@pytest.mark.parametrize("seed", range(8))
def test_the_visits_are_those_of_a_plain_loop(seed: int) -> None:
    draw = generator(seed, "clusters")
    points = places(60, seed=seed)
    cluster = torch.multinomial(torch.tensor([30.0, 10, 5, 3, 1, 1]), 60, replacement=True, generator=draw)
    held = torch.randint(8, (4 * (seed % 3),), generator=draw)
    for neighbours, smallest in ((20, 5), (2, 0), (1, 12), (20, 60)):
        whole = in_turn(points, cluster.tolist(), held.tolist(), 60, neighbours, smallest)
        for n in (1, 2, 7, 40, 59, 60):
            assert most_typical(points, cluster, held, n, neighbours, smallest).tolist() == whole[:n]


@pytest.mark.parametrize("cells", [1, 500, 2**22])
def test_typicality_is_that_of_scikit_learns_neighbours(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CELLS", cells)
    points = places(200, 8)
    for neighbours in (1, 7, 199):
        distances = NearestNeighbors(n_neighbors=neighbours).fit(points.double().numpy()).kneighbors()[0]
        wanted = torch.from_numpy(1 / (distances.mean(1) + 1e-5))
        assert torch.allclose(typicality(points, neighbours), wanted, rtol=1e-5)


def test_small_distances_far_from_the_origin_are_not_lost() -> None:
    """Products of float32 vectors of length 100 are right to 1e-3; these differ by less."""
    points = torch.tensor([[100.0, 0.0], [100.0, 0.0078125], [100.0, 0.0234375], [-100.0, 0.0]])
    wanted = 1 / (torch.tensor([0.0078125, 0.0078125, 0.015625]).double() + 1e-5)
    assert torch.allclose(typicality(points, 1)[:3], wanted)
    assert typicality(torch.ones(3, 2), 2).tolist() == pytest.approx([1e5] * 3)
    assert typicality(torch.ones(1, 2), 0).tolist() == [1e5]


@pytest.mark.parametrize(("count", "kind"), [(1, KMeans), (50, KMeans), (51, MiniBatchKMeans)])
def test_the_clusters_are_scikit_learns(count: int, kind: Any) -> None:
    points = places(300)
    seed = int(torch.randint(2**31 - 1, (), generator=generator(4)))
    batch = {"batch_size": 5000} if kind is MiniBatchKMeans else {}
    wanted = kind(n_clusters=count, n_init=1, random_state=seed, **batch).fit(points.numpy()).labels_
    assert clusters_of(points, count, generator(4)).tolist() == wanted.tolist()


def heaps(count: int, each: int, seed: int = 0) -> Tensor:
    """[count · each, count]: heap c lies around axis c, its members one after the other."""
    noise = 0.05 * torch.rand(count * each, count, generator=generator(seed, "noise"))
    return torch.eye(count).repeat_interleave(each, 0) * 0.9 + noise


def test_each_heap_gives_one_and_a_heap_with_a_label_waits() -> None:
    points = heaps(6, 12)
    chosen = typiclust(points, points[:0], 6, generator(0))
    assert sorted((chosen // 12).tolist()) == [0, 1, 2, 3, 4, 5]
    known = heaps(6, 1, seed=9)[[0, 4]]
    found = [typiclust(points, known, 4, generator(seed)) // 12 for seed in range(20)]
    assert all(set(heap.tolist()) <= {1, 2, 3, 5} for heap in found)


def test_the_chosen_lie_in_the_middle_of_their_heaps() -> None:
    points = heaps(4, 50)
    distance = (points - points.view(4, 50, 4).mean(1).repeat_interleave(50, 0)).norm(dim=1)
    chosen = typiclust(points, points[:0], 4, generator(0))
    for position in chosen.tolist():
        assert distance[position] < distance.view(4, 50)[position // 50].median()


@pytest.mark.parametrize("labelled", [0, 1, 30])
def test_the_component_is_the_function_on_directions(labelled: int) -> None:
    points = places(90) * 0.9 + 0.05
    model, images = as_images(points)
    labels = torch.full((90,), -1)
    labels[90 - labelled :] = 1
    pool = Pool(InMemory(images), labels, ("a", "b", "c"))
    shorter = Pool(InMemory(images * 0.5), labels, ("a", "b", "c"))
    directions = nn.functional.normalize(points)
    directions -= directions[: 90 - labelled].double().mean(0).float()
    for n in (1, 10, 90 - labelled):
        chosen = select(TypiClust(smallest=0), model, pool, n, seed=3)
        draw = generator(3, "select")
        known = directions[90 - labelled :]
        assert chosen.tolist() == typiclust(directions[: 90 - labelled], known, n, draw, smallest=0).tolist()
        assert chosen.tolist() == select(TypiClust(smallest=0), model, shorter, n, seed=3).tolist()
        assert chosen.tolist() == select(TypiClust(smallest=0), model, pool, n, seed=3, engine=Local(7)).tolist()


def test_the_settings_of_the_component_reach_the_function() -> None:
    points = nn.functional.normalize(places(120) + 0.05)
    model, images = as_images(points)
    for settings in ({"neighbours": 1}, {"most_clusters": 3}, {"smallest": 9}):
        chosen = select(TypiClust(**settings), model, images, 20)
        directions = nn.functional.normalize(points)
        centred = directions - directions.double().mean(0).float()
        wanted = typiclust(centred, points[:0], 20, generator(0, "select"), **settings)
        assert chosen.tolist() == wanted.tolist()
        assert chosen.tolist() != select(TypiClust(), model, images, 20).tolist()


@pytest.mark.parametrize("count", [1, 5, 80])
def test_equal_images_are_chosen_by_index(count: int) -> None:
    model, images = as_images(torch.full((count, 3), 0.3))
    for n in {1, min(3, count), count}:
        assert select(TypiClust(), model, images, n).tolist() == list(range(n))
    assert select(TypiClust(), *as_images(torch.zeros(count, 3)), count).tolist() == list(range(count))


def test_the_clusters_are_found_by_one_thread_and_the_rest_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(self: KMeans, rows: Any) -> Any:
        seen.append({pool["num_threads"] for pool in threadpool_info()})
        return KMeans.fit(self, rows).labels_

    seen: list[set[int]] = []
    monkeypatch.setattr(KMeans, "fit_predict", watched)
    with threadpool_limits(2):
        clusters_of(places(50), 3, generator(0))
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert seen == [{1}]


def test_equal_seeds_give_equal_choices_and_nothing_else_is_drawn_from() -> None:
    points = places(300, 5)
    before, kept = np.random.get_state()[1].tolist(), points.clone()
    first = typiclust(points, points[:0], 60, generator(0))
    assert torch.equal(first, typiclust(points, points[:0], 60, generator(0)))
    assert not torch.equal(first, typiclust(points, points[:0], 60, generator(1)))
    assert np.random.get_state()[1].tolist() == before
    assert torch.equal(points, kept)
    assert typiclust(points, points[:0], 0, generator(0)).tolist() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": 0}, "at least one neighbour; 0 came"),
        ({"most_clusters": 0}, "at least one cluster; 0 came"),
        ({"smallest": -1}, "smallest = -1 came; 0 keeps them all"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TypiClust(**settings)
