"""Core-set: every choice against a brute force in float64, whatever the scale, precision and ties."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robal.acquisition import coreset, select
from robal.acquisition.coreset import CoreSet, highest, k_center_greedy, upper_bounds
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import linear


def brute_force(rows: Tensor, centres: Tensor, n: int) -> list[int]:
    """All distances, by differences in float64; the first of the farthest."""
    rows = rows.double()
    distances = np.full(len(rows), np.inf)
    for centre in centres.double():
        distances = np.minimum(distances, (rows - centre).square().sum(1).numpy())
    chosen: list[int] = []
    for _ in range(n):
        if not chosen and not len(centres):
            chosen.append(int((rows - rows.mean(0)).square().sum(1).numpy().argmin()))
        else:
            chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, (rows - rows[chosen[-1]]).square().sum(1).numpy())
        distances[chosen] = -1
    return chosen


def heaps(draw: torch.Generator, count: int) -> Tensor:
    """-, 0, 1 or 2 in each row."""
    return torch.randint(3, (count, 1), generator=draw).float()


KINDS = {
    "plain": lambda x, draw: x,
    "ties": lambda x, draw: torch.randint(3, x.shape, generator=draw).float(),
    "few distinct rows": lambda x, draw: 0.1 * heaps(draw, len(x)).expand(x.shape),
    "half precision": lambda x, draw: x.half(),
    "heaps far from the origin": lambda x, draw: x * 1e-6 + 1e3 * heaps(draw, len(x)),
    "heaps beyond float32": lambda x, draw: x.double() * 1e-9 + 1e6 * heaps(draw, len(x)),
    "certain probabilities": lambda x, draw: (x * 20).softmax(1),
    "tiny": lambda x, draw: x * 1e-25,
    "squares beyond float32": lambda x, draw: x * 1e22,
}


def some_rows(kind: str, count: int, width: int, seed: int) -> Tensor:
    draw = generator(seed, "rows", kind)
    return KINDS[kind](torch.randn(count, width, generator=draw), draw)


def test_on_a_line_the_gaps_are_halved() -> None:
    """0 is labelled. 16 is farthest; then 7, at 7 from 0; then 12, at 4 from 16; then 4, at 3 from 7."""
    rows = torch.tensor([[1.0], [4.0], [7.0], [12.0], [16.0]])
    assert k_center_greedy(rows, torch.tensor([[0.0]]), 5).tolist() == [4, 2, 3, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("window", "part", "numbers"), [(512, 2048, 2**20), (3, 8, 1), (10, 16, 64)])
def test_it_is_the_brute_force(
    kind: str, window: int, part: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WINDOW", window), ("PART", part), ("NUMBERS", numbers)):
        monkeypatch.setattr(coreset, name, value)
    for seed, (count, width, labelled) in enumerate([(60, 7, 12), (40, 1, 1), (30, 19, 20), (1, 3, 2)]):
        rows = some_rows(kind, count + labelled, width, seed)
        wanted = brute_force(rows[labelled:], rows[:labelled], count)
        assert k_center_greedy(rows[labelled:], rows[:labelled], count).tolist() == wanted
        assert k_center_greedy(rows[labelled:], rows[:labelled], count // 3).tolist() == wanted[: count // 3]


@pytest.mark.parametrize("kind", ["plain", "half precision", "certain probabilities", "squares beyond float32"])
@pytest.mark.parametrize("window", [512, 4])
def test_without_labels_the_first_is_the_one_nearest_to_the_mean(
    kind: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreset, "WINDOW", window)
    for seed in range(3):
        rows = some_rows(kind, 50, 6, seed)
        assert k_center_greedy(rows, rows[:0], 50).tolist() == brute_force(rows, rows[:0], 50)
    assert k_center_greedy(torch.tensor([[0.0], [10.0], [4.0], [2.0]]), torch.empty(0, 1), 2).tolist() == [2, 1]


def test_scikit_activeml_chooses_the_same() -> None:
    from skactiveml.pool._core_set import k_greedy_center

    rows = some_rows("plain", 1500, 20, 0).relu()
    labels = np.full(1500, np.nan)
    labels[:50] = 0
    theirs, _ = k_greedy_center(rows.double().numpy(), labels, batch_size=100, random_state=0)
    assert (k_center_greedy(rows[50:], rows[:50], 100) + 50).tolist() == theirs.tolist()


def test_no_choice_of_as_many_covers_the_pool_with_less_than_half_the_radius() -> None:
    """The guarantee of the greedy choice, against all choices."""
    for seed in range(20):
        rows = some_rows("plain", 11, 2, seed)
        distances = torch.cdist(rows, rows)
        radius = {c: float(distances[:, [0, *c]].amin(1).max()) for c in combinations(range(1, 11), 3)}
        chosen = tuple(sorted((k_center_greedy(rows[1:], rows[:1], 3) + 1).tolist()))
        assert radius[chosen] <= 2 * min(radius.values()) + 1e-6


@pytest.mark.parametrize("labelled", [0, 1, 40])
def test_of_equal_rows_the_lower_come_first(labelled: int) -> None:
    rows = torch.full((1300, 5), 0.3)
    for n in (1, 700, 1300):
        assert k_center_greedy(rows, rows[:labelled], n).tolist() == list(range(n))


def test_of_many_equally_far_rows_the_lower_come_first_though_the_window_is_full() -> None:
    """One is farther by its bound alone; with it the window has room for three of ten that are equally far."""
    rows = torch.zeros(2000, 2)
    rows[1000:1900, 0] = torch.arange(1, 901) * 2.0
    rows[::2, 1] = 1.0
    assert k_center_greedy(rows, rows[1:2], 2000).tolist() == brute_force(rows, rows[1:2], 2000)
    assert highest(torch.tensor([1.0, 4.0, 1.0, 0.0, 1.0]), 3)[0].tolist() == [0, 1, 2]
    assert highest(torch.tensor([1.0, 4.0, 1.0, 0.0, 1.0]), 3)[1:] == (1.0, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_never_below_the_distance(kind: str) -> None:
    rows = some_rows(kind, 400, 30, 1)
    centres = rows[:50]
    for middle in (centres.double().mean(0), torch.zeros(30).double()):
        bounds = upper_bounds(rows, centres, middle)
        exact = torch.stack([(rows.double() - c).square().sum(1) for c in centres.double()]).amin(0)
        assert (bounds >= exact).all()
        assert (bounds > 0).all()
        if kind == "plain":
            assert (bounds <= exact * 1.001 + 0.001).all()


def test_few_rows_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows("plain", 20_000, 8, 0)
    measured = []

    def counting(points: Tensor, *others: object) -> Tensor:
        measured.append(len(points))
        return nearest(points, *others)  # type: ignore[arg-type]

    nearest = coreset.nearest
    monkeypatch.setattr(coreset, "nearest", counting)
    k_center_greedy(rows[100:], rows[:100], 60)
    assert 0 < sum(measured) < 2_000


def test_rows_on_disk_will_do_and_stay_as_they_are(tmp_path: Path) -> None:
    rows = some_rows("half precision", 300, 9, 0)
    np.save(tmp_path / "rows.npy", rows.numpy())
    before = (tmp_path / "rows.npy").read_bytes()
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r+")
    assert k_center_greedy(torch.from_numpy(on_disk)[20:], rows[:20], 80).tolist() == brute_force(
        rows[20:], rows[:20], 80
    )
    on_disk.flush()
    assert (tmp_path / "rows.npy").read_bytes() == before


def test_the_component_keeps_away_from_the_labelled_images() -> None:
    """The embedding of the linear model is the image: seven pixels, 0 and 250 labelled."""
    pixels = torch.tensor([0, 250, 120, 40, 254, 200, 5], dtype=torch.uint8).view(7, 1, 1, 1)
    model = linear([[1.0], [-1.0]])
    labels = torch.tensor([0, 1, -1, -1, -1, -1, -1])
    pool = Pool(InMemory(pixels), labels, ("a", "b"))
    assert select(CoreSet(), model, pool, 5).tolist() == [2, 5, 3, 6, 4]
    assert select(CoreSet(), model, pixels, 2).tolist() == [2, 4]
    assert select(CoreSet(), model, pool, 5, seed=9, engine=Local(2)).tolist() == [2, 5, 3, 6, 4]


def test_the_space_of_probabilities_sees_nothing_else() -> None:
    """The second pixel does not matter to the model; the first makes it certain."""
    images = torch.tensor([[0.5, 0.0], [0.5, 1.0], [0.6, 0.1], [0.4, 0.2]]).view(4, 2, 1, 1)
    model = linear([[5.0, 0.0], [-5.0, 0.0]])
    pool = Pool(InMemory(images), torch.tensor([0, -1, -1, -1]), ("a", "b"))
    assert select(CoreSet(), model, pool, 1).tolist() == [1]
    probs = torch.tensor([[5.0, -5.0]]).mul(images[:, :1, 0, 0]).softmax(1)
    wanted = (k_center_greedy(probs[1:], probs[:1], 3) + 1).tolist()
    assert select(CoreSet(space="probs"), model, pool, 3).tolist() == wanted
    assert wanted[-1] == 1


def test_what_cannot_be_measured_is_refused() -> None:
    rows = torch.zeros(4, 2)
    with pytest.raises(InputError, match="space is one of embeddings, probs; not 'pixels'"):
        CoreSet(space="pixels")  # type: ignore[arg-type]
    for bad in (torch.nan, torch.inf):
        spoilt = rows.clone()
        spoilt[2, 1] = bad
        with pytest.raises(InputError, match="must be finite; row 2 is not"):
            k_center_greedy(spoilt, rows, 1)
        with pytest.raises(InputError, match="must be finite; row 2 is not"):
            k_center_greedy(rows, spoilt, 1)
    with pytest.raises(InputError, match=r"these are int64 \[4, 2\]"):
        k_center_greedy(rows.long(), rows, 1)
    with pytest.raises(InputError, match=r"these are float32 \[4\]"):
        k_center_greedy(rows[:, 0], rows, 1)
    with pytest.raises(InputError, match="the rows have 2 numbers and those of the centres 1"):
        k_center_greedy(rows, rows[:, :1], 1)
    with pytest.raises(InputError, match="between 0 and the 4 rows there are; 5 came"):
        k_center_greedy(rows, rows, 5)
    assert k_center_greedy(rows, rows, 0).tolist() == k_center_greedy(rows[:0], rows[:0], 0).tolist() == []
