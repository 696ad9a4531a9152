from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robal.datasets import load
from robal.errors import DataCorrupt, DataError, DataMissing, InputError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 8, 8), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def saved(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "mine.npz", **arrays)
    return str(folder / "mine.npz")


def test_all_five_arrays_are_read(tmp_path: Path) -> None:
    path = saved(
        tmp_path, images=GREY, labels=LABELS, test_images=GREY[:2], test_labels=LABELS[:2], classes=["a", "b", "c"]
    )
    dataset = load(path)
    assert dataset.name == "mine"
    assert torch.equal(dataset.images, torch.from_numpy(GREY)[:, None])
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("a", "b", "c")
    assert dataset.test_labels is not None
    assert dataset.test_labels.tolist() == [0, 1]


def test_images_alone_have_no_labels_and_no_classes(tmp_path: Path) -> None:
    dataset = load(saved(tmp_path, images=GREY))
    assert dataset.labels.tolist() == [-1] * 6
    assert dataset.classes == ()


def test_images_are_resized_on_request(tmp_path: Path) -> None:
    assert load(saved(tmp_path, images=GREY, labels=LABELS), resize=12).images.shape == (6, 1, 12, 12)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"there is no file .*nothing\.npz"):
        load(str(tmp_path / "nothing.npz"))


def test_a_misspelt_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="should hold `images`; it holds image, labels"):
        load(saved(tmp_path, image=GREY, labels=LABELS))
    with pytest.raises(DataError, match="'label', which means nothing here; did you mean 'labels'"):
        load(saved(tmp_path, images=GREY, label=LABELS))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataCorrupt, match="plain arrays"):
        load(saved(tmp_path, images=GREY, labels=np.array(["a", None, {}, 1, 2, 3], dtype=object)))


@pytest.mark.parametrize("keep", [0, 3, 100, 700])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = Path(saved(tmp_path, images=GREY, labels=LABELS))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataCorrupt, match=r"mine\.npz"):
        load(str(path))


def test_a_npy_file_under_the_wrong_name_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "mine.npz").open("wb") as stream:
        np.save(stream, GREY)
    with pytest.raises(DataCorrupt, match=r"no \.npz file"):
        load(str(tmp_path / "mine.npz"))


def test_the_error_names_the_file_for_nan_and_one_class(tmp_path: Path) -> None:
    broken = GREY / 255
    broken[4, 0, 0] = np.nan
    with pytest.raises(InputError, match="images of mine contain NaN or infinity, first in image 4"):
        load(saved(tmp_path, images=broken, labels=LABELS))
    with pytest.raises(InputError, match="mine has only one class, '0'; at least two classes"):
        load(saved(tmp_path, images=GREY, labels=LABELS * 0))


# Images mapped into memory


def test_an_npy_file_stays_on_disk_until_it_is_needed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 4), dtype=np.uint8)
    np.save(tmp_path / "pool.npy", pixels)
    found = load(str(tmp_path / "pool.npy"))
    assert found.images.numpy().base is not None
    assert torch.equal(found.images, torch.from_numpy(pixels))
    assert (found.name, found.classes) == ("pool", ())
    assert bool((found.labels == -1).all())
    found.images[0] = 7  # the file is nobody's to change
    assert np.array_equal(np.load(tmp_path / "pool.npy"), pixels)
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (400_000, 28, 28))
    large[399_999] = 3
    large.flush()
    del large
    script = (
        "import resource, torch\nfrom robal.datasets import load\nload('pool.npy')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "images = load('large.npy').images\nassert images.shape == (400_000, 1, 28, 28)\n"
        "assert bool((images[399_999] == 3).all())\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", script]  # a process of its own: a peak of an earlier test would hide this one
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KB; the file has 314 MB


def test_labels_lie_beside_an_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "pool.npy", np.zeros((3, 5, 5), np.uint8))
    np.save(tmp_path / "pool-labels.npy", np.array(["cat", "", "dog"]))
    found = load(str(tmp_path / "pool.npy"))
    assert (found.classes, found.labels.tolist()) == (("cat", "dog"), [0, -1, 1])
    (tmp_path / "pool.npy").write_bytes((tmp_path / "pool.npy").read_bytes()[:150])
    with pytest.raises(DataCorrupt, match="truncated"):
        load(str(tmp_path / "pool.npy"))
    with pytest.raises(DataMissing):
        load(str(tmp_path / "no.npy"))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataCorrupt, match="plain arrays"):
        load(str(tmp_path / "objects.npy"))
