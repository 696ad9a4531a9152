"""benchmarks/pool_failures.py: its pools are what they are called, and a finished case is looked up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.acquisition import Random
from robal.candidates import Candidates
from robal.datasets import Dataset, load
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator


class AlwaysSays(nn.Module):
    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, inputs: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(inputs),), self.label), 11).float()


STUDY = "pool_failures"


@pytest.fixture(scope="module")
def part(study: Any) -> Any:
    return study.mixed(load("digits"), 300, seed=0)


def test_the_start_asks_for_the_images_that_were_put_first(study: Any, part: Any) -> None:
    arranged = study.arranged(part, 50, seed=3)
    pool = Pool.unlabelled(InMemory(arranged.images), arranged.classes)
    asked = Random()(Candidates(torch.nn.Identity(), pool, pool.candidates), 50, generator(3, "choose", 0))
    assert torch.equal(arranged.images[asked], part.images[:50])
    assert torch.equal(arranged.labels[asked], part.labels[:50])
    assert torch.equal(arranged.images.flatten(1).sum(1).sort().values, part.images.flatten(1).sum(1).sort().values)


def test_no_image_of_the_test_is_in_the_pool(study: Any) -> None:
    numbered = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 2, 2)
    part = study.mixed(Dataset("numbered", numbered, torch.arange(40) % 2, ("a", "b")), 10, seed=0)
    assert part.test_images[:, 0, 0, 0].tolist() == list(range(30, 40))
    assert sorted(part.images[:, 0, 0, 0].tolist()) == list(range(30))


def test_a_long_tail_falls_by_the_factor_is_bought_as_it_is_and_tested_in_turn(study: Any, part: Any) -> None:
    tail = study.long_tail(part, seed=0, factor=100)
    most = int(part.labels.bincount().min())
    assert tail.labels.bincount().tolist() == [round(most * 100 ** (-k / 9)) for k in range(10)]
    assert (tail.labels[:100] < 3).sum() > 50  # 2,1 in 3; first images of a balanced order would be 3 in 10
    assert tail.test_labels.bincount().unique().numel() == 1
    assert tail.test_labels[:20].bincount().tolist() == [2] * 10


def test_near_duplicates_are_the_first_fifth_four_times_again_one_pixel_away(study: Any, part: Any) -> None:
    copied, fifth = study.near_duplicates(part, seed=0), len(part.labels) // 5
    assert torch.equal(copied.images[:fifth], part.images[:fifth])
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    for position in (fifth, 2 * fifth + 7, 5 * fifth - 1):
        assert copied.labels[position] == part.labels[position % fifth]
        original, image = part.images[position % fifth].float(), copied.images[position].float()
        distances = [float((original.roll(move, (1, 2)) - image).abs().mean()) for move in moves]
        assert 0 < min(distances) < 3


def test_points_lie_denser_near_the_source_and_end_in_the_target(study: Any) -> None:
    assert study.along(1).tolist() == [1.0]
    assert study.along(2).tolist() == pytest.approx([1.5 - 1.25**0.5, 1.0])  # half of 1.5 x - x² / 2 lies below it
    steps = torch.cat([torch.zeros(1), study.along(20)]).diff()
    assert bool((steps.diff() > 0).all())


def test_poison_leads_from_a_bought_image_to_a_test_image_of_another_class(study: Any, part: Any) -> None:
    spoilt = study.poisoned(part, 0, bought=50, targets=3, points=8)
    assert len(spoilt.labels) == len(part.labels)
    assert torch.equal(spoilt.images[:50], part.images[:50])
    for number, wanted in enumerate(spoilt.wanted):
        target = spoilt.images[spoilt.role == study.TARGET + number]
        twins = (part.test_images == target).flatten(1).all(1).nonzero().flatten()
        assert len(twins)
        assert bool((part.test_labels[twins] != wanted).all())
        first = spoilt.images[len(part.labels) - 24 + 8 * number].float()
        nearest = (part.images[:50].float() - first).flatten(1).norm(dim=1).argmin()
        assert int(part.labels[nearest]) == wanted
    assert int((spoilt.role == study.ODD).sum()) == 3 * 7


def test_vehicles_lose_their_label_and_are_not_among_the_first(study: Any) -> None:
    mixed = study.mixed(study.coloured(200), 50, seed=0)
    within, without = study.animals(mixed, True), study.animals(mixed, False)
    known = len(without.labels)
    assert torch.equal(within.images[:known], without.images)
    assert bool((without.labels >= 0).all())
    assert set(within.labels[known:].tolist()) == {-1}
    assert torch.equal(within.role, (within.labels < 0).long())
    assert within.classes == tuple("234567")
    assert within.test_labels.unique().tolist() == list(range(6))


def test_the_figures_of_poison_count_targets_apart_from_the_way_to_them(study: Any, part: Any) -> None:
    """Two targets, one labelled as wanted and one otherwise; of six images on the way one is labelled."""
    spoilt = study.poisoned(part, 0, bought=50, targets=2, points=4)
    guesses, ways = torch.full((len(part.labels),), -1), (spoilt.role == study.ODD).nonzero().flatten()
    first, second = (spoilt.role >= study.TARGET).nonzero().flatten()
    guesses[first], guesses[second], guesses[ways[4]] = spoilt.wanted[0], 10, 0
    teacher, model = AlwaysSays(spoilt.wanted[0]), AlwaysSays(10)
    found = study.special(spoilt, guesses, teacher, model)
    of_teacher = 0.5 if spoilt.wanted[0] != spoilt.wanted[1] else 1.0
    assert list(found.values()) == pytest.approx([of_teacher, 0.5, 0.0, 1 / 6])


def test_a_collapsed_teacher_is_counted_and_nothing_said_of_its_labels(study: Any) -> None:
    runs = [{"pool": 9.0, "n": 5.0, "clean": 50.0, "Monitor": 1.0, "collapsed": share} for share in (0.0, 100.0)]
    line = study.table({"tail-pool": runs}).splitlines()[-1]
    assert line == "| tail-pool | 9 | 2 | – | – | 50.0 | 1.0 (5) | collapsed 50.0 (0.0–100.0) |"
    assert "collapsed" not in study.table({"tail-pool": runs[:1]})


def test_a_finished_case_is_looked_up(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--only", "unknown-in", "--out", str(tmp_path), "--cifar-budget"]
    study.main([*arguments, "300"])
    first, table = capsys.readouterr().out, "| unknown-in | 600 | 1 |"
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    study.main([*arguments, "300"])
    assert capsys.readouterr().out == first
    assert first.splitlines()[-1].startswith(table)
    assert changed == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="another plan"):
        study.main([*arguments, "400"])
