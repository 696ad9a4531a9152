"""NearExamples against brute force; for classes with few labels; for a cold start from a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from robal.acquisition import NearExamples, select
from robal.acquisition.near_examples import in_turn, near
from robal.errors import InputError
from robal.images import InMemory
from robal.loop import run
from robal.pool import UNLABELLED, Pool
from tiny_runs import rows, tiny_plan


class Pixels(nn.Module):
    """A network whose embedding is the image itself."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(4, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.flatten(1))


def pool(pixels: Tensor, labels: list[int]) -> Pool:
    return Pool(InMemory(pixels), torch.tensor(labels), ("a", "b", "c"))


def test_it_is_brute_force() -> None:
    draw = torch.Generator().manual_seed(5)
    embeddings, examples = torch.randn(30, 4, generator=draw), torch.randn(6, 4, generator=draw)
    labels = torch.tensor([2, 0, 2, 1, 0, 2])
    found = near(embeddings, examples, labels)
    counts = [2, 1, 3]
    for row in range(30):
        for label in range(3):
            cosines = [
                float(torch.cosine_similarity(embeddings[row], examples[k], dim=0))
                for k in range(6)
                if labels[k] == label
            ]
            assert float(found[row, label]) == pytest.approx(max(cosines), abs=1e-5)
    taken: list[int] = []
    for _ in range(12):
        label = min(range(3), key=lambda one: counts[one])
        taken.append(max((row for row in range(30) if row not in taken), key=lambda row: float(found[row, label])))
        counts[label] += 1
    assert in_turn(found, torch.tensor([2, 1, 3]), 12).tolist() == taken


def test_the_class_with_the_fewest_labels_comes_first() -> None:
    draw = torch.Generator().manual_seed(0)
    middles = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    true = torch.arange(60) % 3
    pixels = (0.8 * middles[true] + 0.1 * torch.rand(60, 4, generator=draw)).view(60, 1, 2, 2)
    labels = torch.full((60,), UNLABELLED)
    labels[[0, 3, 6, 9, 1, 4, 7, 2]] = true[[0, 3, 6, 9, 1, 4, 7, 2]]  # four, three, one
    chosen = select(NearExamples(), Pixels(), pool(pixels, labels.tolist()), 6)
    assert torch.bincount(true[chosen], minlength=3).tolist() == [1, 2, 3]  # then they have five, five and four


def test_a_folder_of_pictures_starts_it_cold(tmp_path: Path) -> None:
    for name, grey in (("dark", 10), ("light", 240)):
        (tmp_path / name).mkdir()
        picture = Image.new("L", (2, 2), grey)
        picture.putpixel((0, 0), 250 - grey)
        picture.save(tmp_path / name / "one.png")
    pixels = torch.full((20, 1, 2, 2), 10, dtype=torch.uint8)
    pixels[:, :, 0, 0] = 240
    pixels[[4, 11]] = 240
    pixels[[4, 11], :, 0, 0] = 10
    chosen = select(NearExamples(str(tmp_path)), Pixels(), pool(pixels, [UNLABELLED] * 20), 4)
    assert chosen.tolist() == [0, 4, 1, 11]  # in turn, the nearest of each


@pytest.mark.parametrize("nested", [False, True])
def test_pictures_without_classes_and_in_colour_will_do(tmp_path: Path, nested: bool) -> None:
    (tmp_path / "rare").mkdir()
    picture = Image.new("RGB", (5, 5), (250, 250, 250))
    picture.save(tmp_path / ("rare" if nested else "") / "one.png")
    pixels = torch.zeros((6, 1, 2, 2), dtype=torch.uint8)
    pixels[:, :, 0, 0] = 200
    pixels[3] = 200
    assert select(NearExamples(str(tmp_path)), Pixels(), pool(pixels, [UNLABELLED] * 6), 1).tolist() == [3]


def test_examples_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        select(NearExamples(str(tmp_path / "nowhere")), Pixels(), pool(torch.rand(6, 1, 2, 2), [UNLABELLED] * 6), 1)
    with pytest.raises(InputError, match="square"):
        select(NearExamples(str(tmp_path)), Pixels(), pool(torch.rand(6, 1, 1, 4), [UNLABELLED] * 6), 1)


def test_a_run_starts_by_it_and_by_clusters(tmp_path: Path) -> None:
    for name in ("TypiClust", "NearExamples"):
        plan = tiny_plan("rounds=1", f"start.acquisition={name}", "audit=10")
        run(plan, plan.data.load(), tmp_path / name)
        assert [row["labelled"] for row in rows(tmp_path / name)] == [40, 50]


def test_a_start_by_what_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    plan = tiny_plan("start.acquisition=ExcludeHard")
    with pytest.raises(InputError, match=r"start\.acquisition=ExcludeHard needs snapshots, and nothing has"):
        run(plan, plan.data.load(), tmp_path / "run")
