"""New images beside known ones: what can be chosen is never tested on, and labels find their classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robal.datasets import Dataset
from robal.errors import InputError
from robal.new_images import beside, in_classes
from robal.seeds import generator

CLASSES = ("cat", "dog", "eel")


def some(name: str, count: int, tests: int = 0, seed: int = 0, labels: torch.Tensor | None = None) -> Dataset:
    """A data set of distinct grey 4 × 4 images."""
    draw = generator(seed, name)
    images = torch.randint(256, (count + tests, 1, 4, 4), dtype=torch.uint8, generator=draw)
    known = torch.arange(count + tests) % 3 if labels is None else labels
    split = (images[count:], known[count:]) if tests else (None, None)
    return Dataset(name, images[:count], known[:count], CLASSES, *split)


TRAINED_ON, NEW = some("old", 30), some("new", 20)


def pixels(images: torch.Tensor) -> set[bytes]:
    return {one.numpy().tobytes() for one in images}


def test_the_pool_is_the_new_images_and_then_the_known_ones() -> None:
    data = beside(TRAINED_ON, NEW)
    assert data.known is not None
    assert data.hidden is not None
    assert data.test is not None
    assert len(data.images) == 10 + 30
    assert data.pool.candidates.tolist() == list(range(10))
    assert torch.equal(data.images.at_rest(torch.arange(10, 40)), TRAINED_ON.images)
    assert torch.equal(data.known[10:], TRAINED_ON.labels)
    chosen_from, tested = (
        pixels(data.images.at_rest(torch.arange(10))),
        pixels(data.test.images.at_rest(torch.arange(10))),
    )
    assert not chosen_from & tested
    assert chosen_from | tested == pixels(NEW.images)
    assert data.tests_new
    labels = dict(zip([one.numpy().tobytes() for one in NEW.images], NEW.labels.tolist(), strict=True))
    assert [labels[one.numpy().tobytes()] for one in data.images.at_rest(torch.arange(10))] == data.hidden[:10].tolist()
    assert [
        labels[one.numpy().tobytes()] for one in data.test.images.at_rest(torch.arange(10))
    ] == data.test.labels.tolist()


def test_the_draw_is_a_function_of_its_seed_and_the_share_counts() -> None:
    first, again, other = (beside(TRAINED_ON, NEW, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    wider = beside(TRAINED_ON, NEW, apart=0.9)
    assert wider.test is not None
    assert len(wider.test) == 18


def test_one_data_set_gives_its_test_split_or_half_of_itself() -> None:
    whole = some("one", 30, tests=12)
    data = beside(whole, whole)
    assert (len(data.pool.candidates), len(data.test or ())) == (6, 6)
    assert pixels(data.images.at_rest(data.pool.candidates)) < pixels(whole.test_images)  # type: ignore[arg-type]
    alone = beside(TRAINED_ON, TRAINED_ON)
    assert (len(alone.pool.candidates), len(alone.pool.labelled), len(alone.test or ())) == (7, 15, 8)


def test_without_labels_the_test_is_that_of_what_was_trained_on() -> None:
    unlabelled = Dataset("heap", NEW.images, torch.full((20,), -1), ())
    data = beside(some("one", 30, tests=12), unlabelled)
    assert (data.hidden, len(data.pool.candidates), len(data.test or ())) == (None, 20, 12)
    assert not data.tests_new
    assert beside(TRAINED_ON, unlabelled).test is None
    partly = replace(NEW, labels=torch.where(torch.arange(20) < 19, NEW.labels, -1))
    assert (
        len(beside(TRAINED_ON, partly).pool.candidates) == 20
    )  # a share of those that are labelled would be no sample


def test_tests_of_ones_own_come_first() -> None:
    data = beside(TRAINED_ON, some("new", 20, tests=6), some("tests", 9))
    assert (len(data.pool.candidates), len(data.test or ())) == (20, 9)
    data = beside(TRAINED_ON, some("new", 20, tests=6))
    assert (len(data.pool.candidates), len(data.test or ())) == (20, 6)


def test_classes_are_found_by_name_or_by_number() -> None:
    turned = Dataset("t", NEW.images, NEW.labels, ("eel", "cat", "dog"))
    assert in_classes(turned, turned.labels, CLASSES)[:3].tolist() == [2, 0, 1]
    numbers = Dataset("n", NEW.images, NEW.labels, ("2", "0", "1"))
    assert in_classes(numbers, torch.tensor([0, -1, 2]), CLASSES).tolist() == [2, -1, 1]
    cameras = Dataset("c", NEW.images, NEW.labels, ("left", "middle", "right"))
    assert in_classes(cameras, cameras.labels, CLASSES).unique().tolist() == [-1]
    with pytest.raises(InputError, match="new has images labelled 'cow', which is none of cat, dog, eel"):
        beside(TRAINED_ON, Dataset("new", NEW.images, NEW.labels, ("cat", "cow", "eel")))


def test_what_cannot_be_is_refused() -> None:
    wide = Dataset("wide", torch.zeros(6, 1, 4, 5, dtype=torch.uint8), torch.arange(6) % 3, CLASSES)
    with pytest.raises(InputError, match=r"images of wide are 1 x 4 x 5, those of old 1 x 4 x 4: give a size for all"):
        beside(TRAINED_ON, wide)
    with pytest.raises(InputError, match="images of the test are 1 x 4 x 5"):
        beside(TRAINED_ON, NEW, wide)
    with pytest.raises(InputError, match="most of the test images are among those that are chosen from"):
        beside(TRAINED_ON, NEW, NEW)
    nothing = Dataset("old", NEW.images, torch.full((20,), -1), CLASSES)
    with pytest.raises(InputError, match="old has no labelled image, and a model was trained on some"):
        beside(nothing, NEW)
    with pytest.raises(InputError, match="old has no labelled image of cat, dog, eel to test on"):
        beside(TRAINED_ON, NEW, nothing)


def test_floats_beside_bytes_become_floats() -> None:
    data = beside(TRAINED_ON, Dataset("f", NEW.images.float() / 255, NEW.labels, CLASSES))
    both = data.images.at_rest(torch.tensor([0, 12]))
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[1], TRAINED_ON.images[2].float() / 255)
