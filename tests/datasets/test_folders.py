from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robal.datasets import load, load_folder
from robal.errors import DataCorrupt, DataError, DataMissing, InputError


def draw(path: Path, value: int = 0, size: tuple[int, int] = (6, 4), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "I;16", "F") else (value, 0, 7, 255)[: len(mode)]).save(path)


def test_folders_are_classes_and_names_come_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        draw(tmp_path / "cat" / f"img{number}.png", number)
        draw(tmp_path / "ant" / f"img{number}.png", 100 + number)
    (tmp_path / "cat" / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    dataset = load(str(tmp_path))
    assert dataset.name == tmp_path.name
    assert dataset.classes == ("ant", "cat")
    assert dataset.images.shape == (6, 1, 4, 6)
    assert dataset.images[:, 0, 0, 0].tolist() == [101, 102, 110, 1, 2, 10]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test_images is None


def test_train_and_test_folders_are_a_split(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "a" / "1.png", 1)
    draw(tmp_path / "train" / "b" / "1.png", 2)
    draw(tmp_path / "test" / "b" / "1.png", 3)
    dataset = load(str(tmp_path))
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2]
    assert dataset.test_images is not None
    assert dataset.test_labels is not None
    assert dataset.test_images[:, 0, 0, 0].tolist() == [3]
    assert dataset.test_labels.tolist() == [1]
    draw(tmp_path / "test" / "stray.png")
    with pytest.raises(InputError, match=r"stray\.png lies in no class folder"):
        load(str(tmp_path))


def test_images_without_class_folders_are_unlabelled(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    draw(tmp_path / "2.JPG")
    dataset = load_folder(tmp_path)
    assert dataset.labels.tolist() == [-1, -1]
    assert dataset.classes == ()
    assert load_folder(tmp_path, classes=["cat", "dog"]).classes == ("cat", "dog")


def test_images_beside_the_class_folders_carry_no_label(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", 1)
    draw(tmp_path / "b" / "1.png", 2)
    draw(tmp_path / "0.png", 3)
    dataset = load_folder(tmp_path)
    assert dataset.labels.tolist() == [0, 1, -1]
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_one_colour_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", 50)
    draw(tmp_path / "b" / "1.png", 60, mode="RGB")
    draw(tmp_path / "b" / "2.png", 70, mode="RGBA")
    dataset = load_folder(tmp_path)
    assert dataset.images[:, :, 0, 0].tolist() == [[50, 50, 50], [60, 0, 7], [70, 0, 7]]


def test_mixed_sizes_name_two_files_and_suggest_resize(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png")
    draw(tmp_path / "b" / "1.png", 9, size=(8, 8))
    with pytest.raises(DataError, match=r"a/1.png is 6 x 4, .*b/1.png is 8 x 8; give resize="):
        load_folder(tmp_path)
    dataset = load(str(tmp_path), resize=5)
    assert dataset.images.shape == (2, 1, 5, 5)
    assert dataset.images[1].unique().tolist() == [9]


def test_a_photograph_taken_on_its_side_stands_upright(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.array([[0, 255]], np.uint8)).resize((16, 8), 0).save(tmp_path / name / "1.jpg", exif=exif)
    images = load_folder(tmp_path).images
    assert images.shape == (2, 1, 16, 8)
    assert images[0, 0, 2].max() < 10
    assert images[0, 0, 13].min() > 245


@pytest.mark.parametrize("keep", [0, 20, 80])
def test_a_broken_image_is_named(tmp_path: Path, keep: int) -> None:
    draw(tmp_path / "a" / "1.png")
    draw(tmp_path / "b" / "broken.png", 5, size=(60, 40), mode="RGB")
    path = tmp_path / "b" / "broken.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataCorrupt, match=r"b/broken.png is broken or no image"):
        load_folder(tmp_path)


def test_images_of_more_than_8_bits_are_refused_and_not_clipped(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", 3000, mode="I;16")
    draw(tmp_path / "b" / "1.png")
    with pytest.raises(DataError, match=r"a/1\.png has more than 8 bits"):
        load_folder(tmp_path)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png")
    with pytest.raises(InputError, match="only one class, 'cat'; at least two"):
        load_folder(tmp_path)


def test_an_empty_folder_says_what_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataMissing, match=r"holds no images; wanted class/name\.png"):
        load_folder(tmp_path)
    with pytest.raises(DataMissing, match="there is no folder"):
        load_folder(tmp_path / "nowhere")


def test_a_folder_that_is_no_given_class_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png")
    draw(tmp_path / "dgo" / "1.png")
    with pytest.raises(DataError, match="dgo is no class; did you mean 'dog'"):
        load_folder(tmp_path, classes=["dog", "cat"])
