from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
from idx_files import write_small_mnist

from robal.datasets import File, catalogue, find_known, known_name, load, present
from robal.datasets.loading import _LOADERS
from robal.datasets.places import md5_of
from robal.errors import DataError


def test_every_known_data_set_has_a_loader_and_a_way_to_get_it() -> None:
    for known in catalogue():
        assert known.name in _LOADERS or known.name == "digits"
        assert bool(known.files) == bool(known.mirrors or known.by_hand)
        assert len(known.classes) >= 2
        assert known.licence
        assert not known.checked or all(file.md5 for file in known.files)


def test_load_says_every_name_that_it_knows() -> None:
    assert all(f'"{known.name}"' in (load.__doc__ or "") for known in catalogue())


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Fashion_MNIST", "fashion-mnist"),
        ("fashion", "fashion-mnist"),
        ("CIFAR-10", "cifar10"),
        ("quick-draw", "quickdraw"),
        ("shoebag", "shoe-bag"),
        ("mnist:factory", None),
        ("module:quickdraw", None),
    ],
)
def test_aliases_are_known(alias: str, name: str | None) -> None:
    assert known_name(alias) == name


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="'cifar100'; did you mean 'cifar10'"):
        find_known("cifar100")


def test_the_state_of_a_data_set_is_told(tmp_path: Path) -> None:
    assert present("digits", tmp_path) == "embedded"
    assert present("mnist", tmp_path).startswith("missing: mnist lacks train-images-idx3-ubyte.gz")
    write_small_mnist(tmp_path / "mnist")
    assert present("mnist", tmp_path).startswith("wrong checksum: ")
    for name in ("train", "test"):
        (tmp_path / f"{name}_32x32.mat").touch()
    assert present("svhn", tmp_path) == "here"


def test_the_file_of_another_data_set_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, _ = write_small_mnist(tmp_path)
    other = replace(small, name="other", files=tuple(File(file.name, "0" * 32) for file in small.files))
    monkeypatch.setattr(importlib.import_module("robal.datasets.catalogue"), "_KNOWN", (small, other))
    assert "That is the train-images-idx3-ubyte.gz of mnist: keep each data set in" in present("other", tmp_path)


def test_the_md5_of_nothing_is_the_well_known_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert md5_of(tmp_path / "empty") == "d41d8cd98f00b204e9800998ecf8427e"
