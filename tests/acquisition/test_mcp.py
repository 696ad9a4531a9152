from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robal.acquisition import MCP, mcp, select
from robal.acquisition.mcp import rank_within
from robal.errors import InputError
from robal.seeds import generator
from small_models import Stated, stated


def by_cells(rows: list[list[float]], n: int) -> list[int]:
    """The algorithm as its authors' release walks it: cell by cell, best first; of equals the lower index."""
    cells: dict[tuple[int, int], list[int]] = {}
    priority = []
    for index, row in enumerate(rows):
        first, second = sorted(range(len(row)), key=lambda c: (-row[c], c))[:2]
        cells.setdefault((first, second), []).append(index)
        priority.append(row[second] / row[first])
    for members in cells.values():
        members.sort(key=lambda index: (-priority[index], index))
    chosen: list[int] = []
    while len(chosen) < n:
        heads = sorted((members[0] for members in cells.values() if members), key=lambda i: (-priority[i], i))
        taken = heads[: n - len(chosen)]  # every cell's best, or the best of the cells' best
        for members in cells.values():
            if members and members[0] in taken:
                members.pop(0)
        chosen += taken
    return chosen


def test_two_rounds_by_hand() -> None:
    rows = torch.tensor(
        [
            [0.50, 0.25, 0.25, 0.0],  # cell (0, 1), priority ½
            [0.50, 0.40, 0.10, 0.0],  # cell (0, 1), 0.8
            [0.40, 0.50, 0.10, 0.0],  # cell (1, 0), 0.8
            [0.10, 0.00, 0.45, 0.45],  # cell (2, 3), 1
            [0.90, 0.05, 0.03, 0.02],  # cell (0, 1), 0.06
        ]
    )
    assert mcp(rows, 5).tolist() == [3, 1, 2, 0, 4]
    assert mcp(rows, 2).tolist() == [3, 1]  # an incomplete round: the best of the cells' best


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_it_is_the_cell_by_cell_algorithm(classes: int, levels: int) -> None:
    """Few levels give many ties: of classes within an image, and of images."""
    for seed in range(12):
        draw = generator(seed, "probs", classes, levels)
        rows = torch.randint(1, levels + 1, (40, classes), generator=draw).double()
        probs = rows / rows.sum(1, keepdim=True)
        whole = by_cells(probs.tolist(), 40)
        for n in (1, 3, 17, 39, 40):
            assert mcp(probs, n).tolist() == whole[:n] == by_cells(probs.tolist(), n)


def test_a_certain_model_confuses_the_first_two_classes_that_tie() -> None:
    """Certain of class 5: nine classes tie for the second place, and the first of them has it."""
    certain = torch.eye(10)[[5, 5, 0]]
    unsure = torch.eye(10)[5] * 0.6 + torch.eye(10)[0] * 0.4  # cell (5, 0), too
    assert mcp(torch.cat([certain, unsure[None]]), 4).tolist() == [3, 2, 0, 1]


def test_every_confused_pair_is_asked_about_before_any_is_asked_about_twice() -> None:
    probs = torch.randn(500, 4, generator=generator(0)).softmax(1)
    cells = [tuple(row) for row in probs.topk(2).indices.tolist()]
    assert len(set(cells)) == 12
    assert len({cells[index] for index in mcp(probs, 12).tolist()}) == 12


def test_the_component_is_the_function_over_the_pool() -> None:
    probs = torch.randn(30, 4, generator=generator(1)).softmax(1)
    assert select(MCP(), Stated(), stated(probs), 11).tolist() == mcp(probs, 11).tolist()


def test_logits_in_the_place_of_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="not probabilities"):
        mcp(torch.tensor([[2.0, -1.0]]), 1)


@pytest.mark.parametrize("levels", [1, 3, 10_000])
def test_ranks_within_groups_are_those_of_a_plain_loop(levels: int) -> None:
    draw = generator(0, "ranks", levels)
    group: Tensor = torch.randint(6, (200,), generator=draw) * 7 - 3
    key = torch.randint(levels, (200,), generator=draw).double()
    wanted = []
    for i in range(200):
        above = [j for j in range(200) if group[j] == group[i] and (key[j] > key[i] or (key[j] == key[i] and j < i))]
        wanted.append(len(above))
    assert rank_within(group, key).tolist() == wanted
    assert rank_within(group[:0], key[:0]).tolist() == []
