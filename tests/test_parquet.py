"""Pools on disk: the same images, ids that stay, broken files listed, and runs that end as they do in memory."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robal import parquet
from robal.acquisition import CoreSet, Margin, select
from robal.cli import main
from robal.data import Data
from robal.datasets import Dataset, load
from robal.engines.ahead import ahead
from robal.errors import DataCorrupt, DataMissing, InputError
from robal.loop import run
from robal.networks import LeNet5
from robal.parquet import ParquetImages, build_pool, in_memory, read_manifest, rows_of, write_parquet
from robal.retraining import rank_from_files
from robal.seeds import generator
from tiny_runs import outcome, tiny_plan

DIGITS = load("digits")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a file of four row groups."""
    path = tmp_path_factory.mktemp("pool") / "digits.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_GROUP", 500)
        build_pool("digits", path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 3 classes with 20 PNGs each, 12 × 10 pixels in colour."""
    for number in range(60):
        place = tmp_path / "photos" / ("cat", "dog", "eel")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (10, 12, 3), dtype=torch.uint8, generator=generator(number, "photo"))
        Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    return tmp_path / "photos"


def test_a_file_gives_back_what_was_put_in(pool: Path) -> None:
    images = ParquetImages(pool)
    assert (len(images), images.shape) == (1797, (1, 28, 28))
    assert torch.equal(images.at_rest(torch.arange(1797)), DIGITS.images)
    assert torch.equal(images.labels, DIGITS.labels)
    some = torch.tensor([1700, 3, 499, 500, 3, 1796])
    assert torch.equal(images.at_rest(some), DIGITS.images[some])
    torch.testing.assert_close(images.batch(some), DIGITS.images[some].float() / 255)
    assert images.at_rest(some[:0]).shape == (0, 1, 28, 28)


def test_only_a_few_row_groups_are_held(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_CACHED", 500 * 784 * 2)
    images = ParquetImages(pool)
    images.at_rest(torch.arange(1797))
    assert len(images._groups) == 2
    assert torch.equal(images.at_rest(torch.tensor([0])), DIGITS.images[:1])


def test_it_can_be_sent_to_another_process(pool: Path) -> None:
    sent = pickle.loads(pickle.dumps(ParquetImages(pool)))
    assert torch.equal(sent.at_rest(torch.tensor([5, 1000])), DIGITS.images[[5, 1000]])


def test_ids_are_of_the_images_and_survive_another_order(tmp_path: Path) -> None:
    few = Dataset("few", DIGITS.images[:30], DIGITS.labels[:30], DIGITS.classes)
    twice = replace(few, images=torch.cat([few.images, few.images[:2]]), labels=torch.cat([few.labels, few.labels[:2]]))
    turned = replace(few, images=few.images.flip(0), labels=few.labels.flip(0))
    ids = []
    for number, one in enumerate((few, twice, turned)):
        write_parquet(tmp_path / f"{number}.parquet", "few", rows_of(one), (1, 28, 28), DIGITS.classes)
        ids.append(list(ParquetImages(tmp_path / f"{number}.parquet").column("id")))
    assert ids[2] == ids[0][::-1]
    assert ids[1][:30] == ids[0]
    assert ids[1][30:] == [f"{ids[0][0]}-2", f"{ids[0][1]}-2"]
    assert len(set(ids[1])) == 32


TAUGHT = "recipe.pool={images: 60, teacher: {objective: Natural, budget: 1500, batch_size: 10}}"


@pytest.mark.parametrize("settings", [("acquisition=Margin",), ("acquisition=CoreSet", TAUGHT)])
def test_a_run_on_a_file_ends_as_one_in_memory(pool: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    for place, name in (("memory", "digits"), ("disk", str(pool))):
        plan = tiny_plan("rounds=1", f"data.name={name}", *settings)
        run(plan, plan.data.load(), tmp_path / place)
    assert outcome(tmp_path / "disk") == outcome(tmp_path / "memory")


def test_the_choice_from_a_file_is_that_from_memory(pool: Path) -> None:
    model = LeNet5()((1, 28, 28), 10, 0)
    for acquisition in (Margin(), CoreSet()):
        theirs = select(acquisition, model, DIGITS.images, 20)
        assert select(acquisition, model, ParquetImages(pool), 20).tolist() == theirs.tolist()


def test_a_test_split_stays_apart(tmp_path: Path) -> None:
    split = Dataset(
        "s", DIGITS.images[:300], DIGITS.labels[:300], DIGITS.classes, DIGITS.images[300:], DIGITS.labels[300:]
    )
    write_parquet(tmp_path / "s.parquet", "s", rows_of(split), (1, 28, 28), DIGITS.classes)
    data, memory = Data.from_parquet(tmp_path / "s.parquet"), Data.from_dataset(split)
    assert data.test is not None
    assert memory.test is not None
    assert data.validation is not None
    assert torch.equal(data.test.images.at_rest(torch.arange(1497)), DIGITS.images[300:])
    assert len(data.images) == len(memory.images) == 270
    assert data.hidden is not None
    assert torch.equal(data.hidden, memory.hidden)  # type: ignore[arg-type]
    assert data.about.startswith(memory.about.removesuffix("."))


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_with_broken_files_is_read_and_lists_them(photos: Path, keep: bool) -> None:
    (photos / "cat" / "0.png").write_bytes(b"no image")
    whole = (photos / "dog" / "1.png").read_bytes()
    (photos / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    out = photos.parent / "photos.parquet"
    said = build_pool(str(photos), out, keep_files=keep)
    assert said == read_manifest(out)
    assert said.images == {"pool": 58, "test": 0}
    assert sorted(file for file, _ in said.broken) == ["cat/0.png", "dog/1.png"]
    assert (said.shape, said.classes, said.labelled) == ((3, 10, 12), ("cat", "dog", "eel"), 58)
    images = ParquetImages(out)
    for place, file in enumerate(images.column("file")):
        with Image.open(photos / file) as picture:
            wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert torch.equal(images.at_rest(torch.tensor([place]))[0], wanted)
        assert said.classes[int(images.labels[place])] == Path(file).parent.name
    assert said.encoding == ("encoded" if keep else "raw")


def test_images_of_different_sizes_need_one(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (5, 5)).save(photos / "cat" / "small.png")
    out = photos.parent / "p.parquet"
    with pytest.raises(SystemExit):
        main(["pool", "build", str(photos), str(out)])
    assert "images differ in size" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SystemExit) as stop:
        main(["pool", "build", str(photos), str(out), "--resize", "8"])
    assert stop.value.code == 0
    assert "61 images in the pool (61 labelled), 0 test images" in capsys.readouterr().out
    assert ParquetImages(out).shape == (3, 8, 8)


def test_the_fingerprint_is_of_the_content(pool: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again.parquet", tmp_path / "other.parquet"
    build_pool("digits", again)
    changed = DIGITS.labels.clone()
    changed[7] = (changed[7] + 1) % 10
    write_parquet(other, "digits", rows_of(replace(DIGITS, labels=changed)), (1, 28, 28), DIGITS.classes)
    prints = [Data.from_parquet(path).fingerprint() for path in (pool, again, other)]
    assert prints[0] == prints[1] != prints[2]


def test_what_is_no_pool_is_said(tmp_path: Path, photos: Path, pool: Path) -> None:
    with pytest.raises(DataMissing, match="there is no file"):
        read_manifest(tmp_path / "none.parquet")
    (tmp_path / "cut.parquet").write_bytes(pool.read_bytes()[:5000])
    with pytest.raises(DataCorrupt, match="is truncated or was not made by `robal pool build`"):
        read_manifest(tmp_path / "cut.parquet")
    for name in ("x.csv", "x"):
        with pytest.raises(InputError, match=r"a pool is a file with \.parquet at its end"):
            build_pool("digits", tmp_path / name)
    with pytest.raises(InputError, match="only a folder has files whose bytes could be kept"):
        build_pool("digits", tmp_path / "d.parquet", keep_files=True)
    for file in photos.glob("*/*"):
        file.write_bytes(b"")
    with pytest.raises(DataMissing, match="none of the images is readable"):
        build_pool(str(photos), tmp_path / "p.parquet")
    wrong: Any = [parquet.Row(np.zeros((1, 3, 3), np.uint8)), parquet.Row(np.zeros((1, 3, 4), np.uint8))]
    with pytest.raises(InputError, match=r"image 1 is uint8 \[1, 3, 4\], not uint8 \[1, 3, 3\]"):
        write_parquet(tmp_path / "w.parquet", "w", wrong, (1, 3, 3), ())
    assert not (tmp_path / "w.parquet").exists()
    with pytest.raises(InputError, match="a Parquet pool is used as it is"):
        tiny_plan(f"data.name={pool}", "data.resize=8").data.load()


def test_select_reads_a_pool_from_disk(
    pool: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = []
    for images in ("digits", str(pool)):
        out = tmp_path / f"{Path(images).stem}-{len(chosen)}.csv"
        with pytest.raises(SystemExit) as stop:
            main(["select", "--model", "LeNet5", "--images", images, "--n", "9", "--out", str(out)])
        assert stop.value.code == 0
        assert out.with_suffix(".png").exists()
        chosen.append(out.read_text())
    assert chosen[0] == chosen[1]
    build_pool(str(photos), tmp_path / "p.parquet", resize=28)
    out = tmp_path / "query.csv"
    with pytest.raises(SystemExit):
        main(["select", "--model", "LeNet5", "--images", str(tmp_path / "p.parquet"), "--n", "3", "--out", str(out)])
    assert "cat/" in out.read_text() or "dog/" in out.read_text() or "eel/" in out.read_text()
    with pytest.raises(SystemExit) as stop:
        main(["select", "--model", "LeNet5", "--images", str(pool), "--n", "3", "--resize", "32", "--out", str(out)])
    assert stop.value.code == 2
    assert "a Parquet pool is used as it is" in capsys.readouterr().err


def test_a_run_on_a_pool_of_which_some_are_broken_ends_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (pixels, label) in enumerate(zip(DIGITS.images[:300], DIGITS.labels[:300].tolist(), strict=True)):
        place = tmp_path / "scans" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(place / f"{number:03d}.png")
    broken = sorted((tmp_path / "scans").glob("*/*.png"))[::100]
    for file in broken:
        file.write_bytes(file.read_bytes()[:60])
    out = tmp_path / "scans.parquet"
    with pytest.raises(SystemExit) as stop:
        main(["pool", "build", str(tmp_path / "scans"), str(out), "--keep-files"])
    assert stop.value.code == 0
    plan = tiny_plan("rounds=1", f"data.name={out}", "acquisition=Margin")
    data = plan.data.load()
    assert "3 broken images were left out" in data.about
    assert run(plan, data, tmp_path / "run").round == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["pool", "info", str(out)])
    said = capsys.readouterr().out
    assert all(f"{file.parent.name}/{file.name}" in said for file in broken)


def test_a_file_is_ordered_as_the_same_images_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(DIGITS, images=DIGITS.images[:300], labels=DIGITS.labels[:300])
    split = replace(few, test_images=DIGITS.images[300:500], test_labels=DIGITS.labels[300:500])
    monkeypatch.chdir(tmp_path)
    for name, dataset in (("few", few), ("split", split)):
        write_parquet(tmp_path / f"{name}.parquet", name, rows_of(dataset), (1, 28, 28), DIGITS.classes)
    theirs = rank_from_files("LeNet5", "digits", Path("order.csv"), by="Margin")
    ours = rank_from_files("LeNet5", "few.parquet", Path("order.csv"), by="Margin")
    first_300 = theirs.indices[theirs.indices < 300]
    assert ours.indices.tolist() == first_300.tolist()
    assert torch.equal(ours.labels, DIGITS.labels[ours.indices])
    tested = rank_from_files("LeNet5", "split.parquet", Path("order.csv"), by="DistanceSurprise", train="split.parquet")
    assert len(tested.indices) == 200
    assert torch.equal(tested.labels, DIGITS.labels[300:500][tested.indices])
    tested.save(Path("order.csv"))
    with pytest.raises(InputError, match="has no test images"):
        rank_from_files("LeNet5", "few.parquet", Path("order.csv"), train="few.parquet")


def test_a_file_read_whole_is_the_data_set_that_it_was_made_of(tmp_path: Path) -> None:
    split = replace(DIGITS, test_images=DIGITS.images[:50], test_labels=DIGITS.labels[:50])
    write_parquet(tmp_path / "s.parquet", "digits", rows_of(split), (1, 28, 28), DIGITS.classes)
    found = in_memory(tmp_path / "s.parquet")
    assert torch.equal(found.images, split.images)
    assert torch.equal(found.labels, split.labels)
    assert found.test_images is not None
    assert torch.equal(found.test_images, DIGITS.images[:50])
    assert found.classes == split.classes


@pytest.mark.parametrize("keep", [False, True])
def test_reading_ahead_changes_nothing(photos: Path, keep: bool) -> None:
    out = photos.parent / "photos.parquet"
    build_pool(str(photos), out, keep_files=keep)
    images = ParquetImages(out)
    assert images.reads_ahead
    whole = images.at_rest(torch.arange(60))
    order = torch.randperm(60, generator=generator(0, "order"))
    parts = list(ahead(images, order.split(7), torch.device("cpu")))
    torch.testing.assert_close(torch.cat(parts), whole[order] / 255)
