from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robal.data import Data, Split
from robal.datasets import Dataset, load, load_folder
from robal.errors import InputError
from robal.images import InMemory, files_at
from robal.new_images import beside
from robal.source import Source

CLASSES = ("a", "b", "c", "d")


def numbered(count: int, first: int = 0) -> Tensor:
    """Images [count, 1, 2, 2] of which each tells its number."""
    numbers = torch.arange(first, first + count)
    return (
        torch.stack([numbers // 256, numbers % 256, numbers * 0, numbers * 0], 1).to(torch.uint8).reshape(-1, 1, 2, 2)
    )


def numbers(images: Any) -> list[int]:
    pixels = images.at_rest(torch.arange(len(images)))
    return (pixels[:, 0, 0, 0].int() * 256 + pixels[:, 0, 0, 1].int()).tolist()


def a_dataset(train: int = 100, test: int = 40, by_class: bool = False) -> Dataset:
    def labels(count: int) -> Tensor:
        return torch.arange(count) * 4 // count if by_class else torch.arange(count) % 4

    return Dataset("toy", numbered(train), labels(train), CLASSES, numbered(test, 1000), labels(test))


def without_test(labels: Tensor) -> Dataset:
    return Dataset("toy", numbered(len(labels)), labels, CLASSES)


def test_the_first_test_images_are_validation_and_the_rest_the_test() -> None:
    data = Data.from_dataset(a_dataset(), held_out="test", held_out_images=10)
    assert numbers(data.images) == list(range(100))
    assert data.validation is not None
    assert data.test is not None
    assert numbers(data.validation.images) == list(range(1000, 1010))
    assert numbers(data.test.images) == list(range(1010, 1040))
    assert data.test.labels.tolist() == [n % 4 for n in range(10, 40)]
    assert "of the test images the first 10 are validation and the other 30 are the test" in data.about


def test_the_last_training_images_are_validation_and_leave_the_pool() -> None:
    data = Data.from_dataset(a_dataset(), held_out="train", held_out_images=8)
    assert data.validation is not None
    assert data.test is not None
    assert numbers(data.images) == list(range(92))
    assert numbers(data.validation.images) == list(range(92, 100))
    assert numbers(data.test.images) == list(range(1000, 1040))
    assert "the last 8 are validation" in data.about


def test_at_most_a_tenth_of_the_training_and_half_of_the_test_images_are_validation() -> None:
    train = Data.from_dataset(a_dataset(), held_out="train")
    test = Data.from_dataset(a_dataset(), held_out="test")
    assert train.validation is not None
    assert test.validation is not None
    assert (len(train.images), len(train.validation)) == (90, 10)
    assert len(test.validation) == 20


def test_no_validation_images_on_request() -> None:
    for held_out in ("train", "test"):
        data = Data.from_dataset(a_dataset(), held_out=held_out, held_out_images=0)  # type: ignore[arg-type]
        assert data.validation is None
        assert len(data.images) == 100


@pytest.mark.parametrize("held_out", ["train", "test"])
def test_files_sorted_by_class_still_give_validation_images_of_every_class(held_out: Any) -> None:
    data = Data.from_dataset(a_dataset(by_class=True), held_out=held_out, held_out_images=8)
    assert data.validation is not None
    assert data.validation.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert "8 drawn class by class with seed 0" in data.about
    again = Data.from_dataset(a_dataset(by_class=True), held_out=held_out, held_out_images=8, seed=1)
    assert again.fingerprint() != data.fingerprint()


def test_only_the_first_images_are_taken_on_request() -> None:
    data = Data.from_dataset(a_dataset(), held_out="test", held_out_images=10, train_images=50, test_images=30)
    assert data.test is not None
    assert numbers(data.images) == list(range(50))
    assert numbers(data.test.images) == list(range(1010, 1030))
    assert "of the training images the first 50 are used; of the test images the first 30 are used" in data.about


def test_without_a_test_split_labels_are_drawn_70_10_20_in_every_class() -> None:
    data = Data.from_dataset(without_test(torch.arange(400) % 4))
    assert data.hidden is not None
    assert data.validation is not None
    assert data.test is not None
    assert data.hidden.bincount().tolist() == [70] * 4
    assert data.validation.labels.bincount().tolist() == [10] * 4
    assert data.test.labels.bincount().tolist() == [20] * 4
    parts = [numbers(part) for part in (data.images, data.validation.images, data.test.images)]
    assert sorted(number for part in parts for number in part) == list(range(400))
    assert all(part != sorted(part) for part in parts)
    assert all(number % 4 == label for number, label in zip(parts[0], data.hidden.tolist(), strict=True))
    assert "280 pool, 40 validation, 80 test" in data.about


def test_the_seed_alone_decides_the_draw() -> None:
    dataset = without_test(torch.arange(400) % 4)
    first, again, other = (Data.from_dataset(dataset, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_unlabelled_images_go_to_the_pool_and_nowhere_else() -> None:
    labels = torch.arange(400) % 4
    labels[100:300] = -1
    data = Data.from_dataset(without_test(labels))
    assert data.hidden is not None
    assert data.test is not None
    assert len(data.images) == 200 + 140
    assert (data.hidden < 0).sum() == 200
    assert (data.test.labels >= 0).all()
    assert "200 of the pool carry no label" in data.about
    part = Dataset("toy", numbered(400), labels, CLASSES, numbered(40, 1000), torch.arange(40) % 4)
    split = Data.from_dataset(part, held_out="train", held_out_images=150)
    assert split.validation is not None
    assert numbers(split.validation.images) == list(range(380, 400))


def test_without_any_label_everything_is_the_pool() -> None:
    data = Data.from_arrays(numbered(30), classes=CLASSES)
    assert data.hidden is None
    assert data.validation is None
    assert data.test is None
    assert numbers(data.images) == list(range(30))
    assert data.classes == CLASSES


def test_classes_of_one_image_stay_in_the_pool() -> None:
    data = Data.from_arrays(numbered(2), [0, 1])
    assert len(data.images) == 2
    assert data.validation is None
    assert data.test is None


def test_arrays_of_numpy_and_torch_are_the_same_data() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    first = Data.from_arrays(images, labels, resize=6)
    second = Data.from_arrays(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), resize=6)
    assert first.images.shape == (3, 6, 6)
    assert first.fingerprint() == second.fingerprint()


def test_a_folder_of_images_becomes_data(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (5 + number, 5), number).save(tmp_path / name / f"{number}.png")
    data = Data.from_folder(tmp_path, resize=8, classes=["dog", "cat"])
    assert data.classes == ("dog", "cat")
    assert len(data.images) == 14
    assert data.images.shape == (1, 8, 8)


def test_every_image_keeps_the_name_of_its_file(tmp_path: Path) -> None:
    """However images are split, drawn or made rare: the name says which grey the file has."""
    for number in range(60):
        folder = tmp_path / ("bright" if number % 3 else "dark")
        folder.mkdir(exist_ok=True)
        Image.new("L", (4, 4), 4 * number).save(folder / f"{number}.png")
    data = Data.from_folder(tmp_path)
    assert data.validation is not None
    assert data.test is not None
    rare = data.imbalanced(2)
    assert len(rare.images) < len(data.images)
    dataset = load_folder(tmp_path)
    retrained = beside(dataset, dataset)
    for images in (data.images, data.validation.images, data.test.images, rare.images, retrained.images):
        every = torch.arange(len(images))
        names, pixels = files_at(images, every), images.at_rest(every)
        assert len(names) == len(images)
        for name, image in zip(names, pixels, strict=True):
            assert not name or int(image[0, 0, 0]) == 4 * int(Path(name).stem)
    assert "" in files_at(retrained.images, torch.arange(len(retrained.images)))  # those the model was trained on


def test_digits_become_data() -> None:
    data = Data.from_dataset(load("digits"))
    assert data.test is not None
    assert data.validation is not None
    assert (len(data.images), len(data.validation), len(data.test)) == (1259, 179, 359)


def test_the_fingerprint_sees_every_pixel_label_and_name() -> None:
    data = Data.from_dataset(a_dataset(), held_out_images=8)
    prints = {data.fingerprint()}
    pixels = numbered(92)
    pixels[91, 0, 1, 1] = 1
    assert data.hidden is not None
    changed = data.hidden.clone()
    changed[0] += 1
    for images, hidden, test, classes in (
        (InMemory(pixels), data.hidden, data.test, CLASSES),
        (data.images, changed, data.test, CLASSES),
        (data.images, None, data.test, CLASSES),
        (data.images, data.hidden, None, CLASSES),
        (data.images, data.hidden, data.test, ("a", "b", "c", "e")),
    ):
        prints.add(Data(images, hidden, data.validation, test, classes, "toy", "").fingerprint())
    assert len(prints) == 6
    assert all(len(text) == 16 for text in prints)


def test_the_fingerprint_is_that_of_the_content_and_not_of_the_memory_layout() -> None:
    turned = numbered(92).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    data = Data.from_dataset(a_dataset(), held_out_images=8)
    other = Data(InMemory(turned), data.hidden, data.validation, data.test, CLASSES, "toy", "")
    assert other.fingerprint() == data.fingerprint()


def test_options_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(InputError, match="held_out is 'train' or 'test'"):
        Data.from_dataset(a_dataset(), held_out="tset")  # type: ignore[arg-type]
    for option in ({"held_out_images": -1}, {"train_images": 0}, {"test_images": 0}):
        with pytest.raises(InputError, match="at least 1"):
            Data.from_dataset(a_dataset(), **option)  # type: ignore[arg-type]


def test_parts_that_do_not_fit_are_refused() -> None:
    images = InMemory(numbered(3))
    with pytest.raises(InputError, match=r"3 images apart from the pool came with \[2\] labels"):
        Split(images, torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"came with \[2\] hidden labels"):
        Data(images, torch.tensor([0, 1]), None, None, CLASSES, "toy", "")
    with pytest.raises(InputError, match="hidden labels must lie in"):
        Data(images, torch.tensor([0, 1, 4]), None, None, CLASSES, "toy", "")
    with pytest.raises(InputError, match="test labels must lie in"):
        Data(images, None, None, Split(images, torch.tensor([0, 1, -1])), CLASSES, "toy", "")
    other = Split(InMemory(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)), torch.tensor([0]))
    with pytest.raises(InputError, match="test images are"):
        Data(images, None, None, other, CLASSES, "toy", "")


def test_rare_classes_are_as_rare_as_the_profile_says_and_the_test_stays() -> None:
    data = Data.from_dataset(a_dataset(4000), held_out_images=0)
    tail = data.imbalanced(8)
    assert tail.hidden is not None
    counts = tail.hidden.bincount(minlength=4)
    assert sorted(counts.tolist(), reverse=True) == [1000, 500, 250, 125]
    step = data.imbalanced(8, "step")
    assert step.hidden is not None
    assert sorted(step.hidden.bincount(minlength=4).tolist(), reverse=True) == [1000, 1000, 125, 125]
    assert tail.test is data.test
    assert f"a: {int(counts[0]):,}, b: {int(counts[1]):,}" in tail.about
    other = data.imbalanced(8, seed=1)
    assert other.hidden is not None
    assert other.hidden.bincount(minlength=4).tolist() != counts.tolist()


def test_rare_classes_keep_their_first_images_and_images_keep_their_labels() -> None:
    data = Data.from_dataset(a_dataset(400), held_out_images=0)
    tail = data.imbalanced(1000)
    assert tail.hidden is not None
    assert [number % 4 for number in numbers(tail.images)] == tail.hidden.tolist()
    rarest = int(tail.hidden.bincount(minlength=4).argmin())
    assert [number for number in numbers(tail.images) if number % 4 == rarest] == [rarest]  # one at least, the first
    assert tail.fingerprint() != data.fingerprint()


def test_classes_without_known_labels_cannot_be_made_rare() -> None:
    with pytest.raises(InputError, match="the pool's labels have to be known"):
        Data.from_arrays(np.zeros((9, 4, 4), np.uint8), classes=["a", "b"]).imbalanced(10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"imbalance": 0.5}, "a factor, at least 1; 0.5 came"), ({"profile": "line"}, "exponential or step; not 'line'")],
)
def test_an_imbalance_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Source(**settings)


def test_a_plan_makes_its_classes_rare() -> None:
    data = Source("digits", imbalance=10, profile="step").load()
    assert data.hidden is not None
    counts = data.hidden.bincount(minlength=10)
    assert counts.max() == 10 * counts.min() + counts.max() % 10
    assert "imbalanced (step, factor 10)" in data.about
