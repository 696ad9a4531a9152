from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robal.errors import InputError
from robal.images import InMemory
from robal.pool import NONE_OF_THESE, SKIPPED, UNLABELLED, Examples, Pool, check_labels

CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def pool() -> Pool:
    return Pool.unlabelled(InMemory(torch.zeros(6, 1, 2, 2)), CLASSES)


def at(*indices: int) -> Tensor:
    return torch.tensor(indices, dtype=torch.int64)


def test_at_first_every_image_is_a_candidate(pool: Pool) -> None:
    assert pool.candidates.tolist() == [0, 1, 2, 3, 4, 5]
    assert pool.labelled.tolist() == []
    assert len(pool) == 6


def test_revealing_gives_a_new_pool_and_leaves_the_old_one(pool: Pool) -> None:
    labels = at(2, 0)
    newer = pool.reveal(at(4, 1), labels)
    assert newer.labels.tolist() == [-1, 0, -1, -1, 2, -1]
    assert newer.labelled.tolist() == [1, 4]
    assert newer.candidates.tolist() == [0, 2, 3, 5]
    assert (pool.labels == UNLABELLED).all()
    assert newer.images is pool.images
    assert labels.tolist() == [2, 0]


def test_a_skipped_image_is_neither_labelled_nor_asked_about_again(pool: Pool) -> None:
    newer = pool.reveal(at(0, 1), at(SKIPPED, NONE_OF_THESE))
    assert newer.labelled.tolist() == []
    assert newer.candidates.tolist() == [2, 3, 4, 5]
    with pytest.raises(InputError, match="image 0 is already labelled"):
        newer.reveal(at(0), at(1))


def test_labels_change_by_relabelling_alone(pool: Pool) -> None:
    newer = pool.reveal(at(3, 2), at(1, 1))
    with pytest.raises(InputError, match=r"image 2 is already labelled; `relabel` is the recorded way"):
        newer.reveal(at(5, 2), at(0, 0))
    assert newer.relabel(at(2), at(0)).labels.tolist() == [-1, -1, 0, 1, -1, -1]
    assert newer.labels[2] == 1


@pytest.mark.parametrize(
    ("indices", "labels", "message"),
    [
        (at(0, 1), at(0), r"\[2\] indices came with \[1\] labels"),
        (at(6), at(0), "outside the pool of 6 images"),
        (at(-1), at(0), "outside the pool of 6 images"),
        (at(2, 2), at(0, 1), "an index is there twice"),
        (at(0), at(3), r"labels must lie in \[-3, 3\); 1 do not, the first is 3 at position 0"),
        (at(0), at(-4), "the first is -4"),
        (at(0), at(UNLABELLED), "UNLABELLED is no answer"),
        (at(0), torch.tensor([1.7]), "labels are int64; these are float32"),
    ],
)
def test_answers_that_cannot_be_right_are_refused(pool: Pool, indices: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pool.reveal(indices, labels)
    assert (pool.labels == UNLABELLED).all()


def test_nothing_may_be_revealed(pool: Pool) -> None:
    assert torch.equal(pool.reveal(at(), at()).labels, pool.labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, dtype=torch.int64), r"a pool of 6 images needs int64 labels of shape \[6\].*int64 \[5\]"),
        (torch.zeros(6), r"these are float32 \[6\]"),
        (torch.full((6,), 3), "the first is 3 at position 0"),
    ],
)
def test_a_pool_is_refused_labels_that_do_not_fit(pool: Pool, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pool(pool.images, labels, CLASSES)


def test_checked_labels_name_the_first_that_is_wrong() -> None:
    check_labels(at(0, 2), 3)
    with pytest.raises(InputError, match=r"marks must lie in \[0, 3\); 2 do not, the first is 7 at position 1"):
        check_labels(at(0, 7, 2, -1), 3, what="marks")


def test_examples_carry_where_they_come_from() -> None:
    bought = Examples.of(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), at(0, 1), at(5, 3))
    twins = Examples.of(torch.ones(1, 1, 2, 2), at(2), kind="twin")
    assert bought.origin.tolist() == [5, 3]
    assert twins.origin.tolist() == [-1]
    assert [Examples.KINDS[kind] for kind in [*bought.kind.tolist(), *twins.kind.tolist()]] == ["bought"] * 2 + ["twin"]
    assert torch.equal(bought.weight, torch.ones(2))


def test_joined_examples_are_floats_as_soon_as_one_part_is() -> None:
    grey = Examples.of(torch.full((2, 1, 1, 1), 51, dtype=torch.uint8), at(0, 1))
    fine = Examples.of(torch.full((1, 1, 1, 1), 0.123), at(2), kind="twin")
    joined = Examples.join([grey, fine])
    torch.testing.assert_close(joined.images.flatten(), torch.tensor([0.2, 0.2, 0.123]))
    assert joined.labels.tolist() == [0, 1, 2]
    assert joined.kind.tolist() == [0, 0, 2]
    assert Examples.join([grey, grey]).images.dtype == torch.uint8


def test_an_empty_part_changes_nothing() -> None:
    grey = Examples.of(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), at(0, 1))
    none = Examples.of(torch.zeros(0, 1, 1, 1), at())
    assert Examples.join([none, grey]).images.dtype == torch.uint8
    assert len(Examples.join([none])) == 0


def test_examples_whose_parts_differ_in_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"differ in length: \[2, 3\]"):
        Examples.of(torch.zeros(3, 1, 1, 1), at(0, 1))
    with pytest.raises(InputError, match="one of bought, pseudo, twin, crafted, meta, none; not 'stolen'"):
        Examples.of(torch.zeros(1, 1, 1, 1), at(0), kind="stolen")
