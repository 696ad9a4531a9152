from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from idx_files import write_small_mnist

from robal.datasets import Dataset, data_folder, load
from robal.errors import DataError, DataMissing, InputError

FACTORY = """
import numpy as np
import torch
from robal.datasets import Dataset

IMAGES = np.zeros((4, 6, 6), np.uint8)

def pair(): return IMAGES, [0, 1, 0, 1]
def four(): return IMAGES, ["a", "b"] * 2, IMAGES[:2], ["b", "a"]
def whole(): return Dataset("own", torch.zeros(2, 1, 6, 6), torch.tensor([0, 1]), ("x", "y"))
def wrong(): return IMAGES
def nan(): return np.full((4, 6, 6), np.nan), [0, 1, 0, 1]
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_robal_data.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_robal_data", raising=False)
    return "my_robal_data"


def test_digits_come_at_28_pixels_without_a_file() -> None:
    digits = load("digits", "/nowhere")
    assert digits.images.shape == (1797, 1, 28, 28)
    assert len(digits.classes) == 10


def test_functions_of_somebodys_own_are_called(factory: str) -> None:
    assert load(f"{factory}:pair").labels.tolist() == [0, 1, 0, 1]
    assert load(f"{factory}:pair", resize=9).images.shape == (4, 1, 9, 9)
    four = load(f"{factory}:four")
    assert four.classes == ("a", "b")
    assert four.test_labels is not None
    assert four.test_labels.tolist() == [1, 0]
    assert isinstance(load(f"{factory}:whole"), Dataset)
    assert load(f"{factory}:whole").name == "own"


def test_functions_that_cannot_be_used_are_named(factory: str) -> None:
    with pytest.raises(DataError, match="has no function 'piar'; did you mean 'pair'"):
        load(f"{factory}:piar")
    with pytest.raises(DataError, match="no_such_module:f' cannot be imported: No module named 'no_such_module'"):
        load("no_such_module:f")
    with pytest.raises(DataError, match="it returned a ndarray"):
        load(f"{factory}:wrong")
    with pytest.raises(InputError, match=f"images of {factory}:nan contain NaN"):
        load(f"{factory}:nan")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minst", "no data set is called 'minst'; did you mean 'mnist'"),
        ("imagenet", "known: cifar10, digits, "),
        ("./no/such/folder", "there is no folder no/such/folder"),
        ("", "no data set is called ''"),
    ],
)
def test_an_unknown_name_says_what_is_known(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load(name)


def test_a_file_that_is_no_npz_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").touch()
    with pytest.raises(DataError, match=r"images.zip is neither an .npz or .npy file nor a folder"):
        load(str(tmp_path / "images.zip"))


def test_the_folder_is_the_argument_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBAL_DATA", "/from/environment")
    assert data_folder("/given") == Path("/given")
    assert data_folder() == Path("/from/environment")
    monkeypatch.delenv("ROBAL_DATA")
    assert data_folder() == Path("data")


def test_mnist_is_looked_for_under_the_environments_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBAL_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match=str(tmp_path)):
        load("mnist")
    write_small_mnist(tmp_path / "mnist")
    with pytest.raises(DataError, match="md5"):
        load("mnist")


def test_loading_twice_gives_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).random((4, 5, 5)), labels=[0, 1, 0, 1])
    first, second = (load(str(tmp_path / "x.npz")) for _ in range(2))
    assert first.images.equal(second.images)
