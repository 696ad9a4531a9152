"""Pools on disk: the same images, ids that stay, broken files listed, and runs that end as they do in memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from robal import parquet
from robal.acquisition import CoreSet, Margin, select
from robal.cli import main
from robal.data import Data
from robal.datasets import Dataset, load
from robal.engines.ahead import ahead
from robal.errors import DataCorrupt, DataMissing, InputError
from robal.loop import run
from robal.near_duplicates import alike, drift, groups_of, perceived
from robal.networks import LeNet5
from robal.parquet import ParquetImages, in_memory, read_manifest, write_parquet
from robal.pool_files import add_to_pool, build_pool, rows_of
from robal.records import plan_of
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
    assert sorted(file for file, _ in said.versions[0].broken) == ["cat/0.png", "dog/1.png"]
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
    assert images.reads_ahead == keep
    whole = images.at_rest(torch.arange(60))
    order = torch.randperm(60, generator=generator(0, "order"))
    parts = list(ahead(images, order.split(7), torch.device("cpu")))
    torch.testing.assert_close(torch.cat(parts), whole[order] / 255)


# Pools that grow, and images that are alike


def shown(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture with large shapes, another one for each number."""
    draw = generator(number, "shown")
    coarse = torch.randint(256, (6, 8, 3), dtype=torch.uint8, generator=draw)
    return Image.fromarray(coarse.numpy()).resize(size, Image.Resampling.BICUBIC)


def scans(place: Path, numbers: range, spoilt: bool = False) -> Path:
    """Two classes; `spoilt`: the same pictures, compressed and a little brighter."""
    for number in numbers:
        folder = place / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        if spoilt:
            ImageEnhance.Brightness(shown(number)).enhance(1.02).save(folder / f"{number:03d}-again.jpg", quality=90)
        else:
            shown(number).save(folder / f"{number:03d}.png")
    return place


def test_near_duplicates_are_found_and_different_images_are_not(tmp_path: Path) -> None:
    scans(tmp_path / "s", range(60))
    scans(tmp_path / "s", range(0, 60, 4), spoilt=True)
    said = build_pool(str(tmp_path / "s"), tmp_path / "s.parquet")
    assert said.groups == 15
    images = ParquetImages(tmp_path / "s.parquet")
    files, groups = images.column("file"), images.groups
    of = {file: int(group) for file, group in zip(files, groups, strict=True)}
    for file, group in of.items():
        twin = file.replace("-again.jpg", ".png") if "again" in file else file.replace(".png", "-again.jpg")
        assert (group >= 0) == (twin in of)
        assert group < 0 or of[twin] == group
    assert build_pool(str(tmp_path / "s"), tmp_path / "t.parquet", group=False).groups is None
    assert bool((ParquetImages(tmp_path / "t.parquet").groups == -1).all())


@pytest.mark.parametrize("split", [False, True])
def test_no_group_of_near_duplicates_is_in_pool_and_test(tmp_path: Path, split: bool) -> None:
    scans(tmp_path / "s" / "train" if split else tmp_path / "s", range(80))
    scans(tmp_path / "s" / "test" if split else tmp_path / "s", range(0, 80, 2), spoilt=True)
    build_pool(str(tmp_path / "s"), tmp_path / "s.parquet")
    data = Data.from_parquet(tmp_path / "s.parquet", held_out_images=8)
    assert data.test is not None
    assert data.validation is not None
    assert "near-duplicates of held-out images are left out" in data.about
    parts = [
        images.at_rest(torch.arange(len(images))) for images in (data.images, data.validation.images, data.test.images)
    ]
    where = torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])
    hashes, thumbs = perceived(torch.cat(parts))
    groups = groups_of(alike(hashes, thumbs), len(hashes))
    assert all(len(where[groups == group].unique()) == 1 for group in groups[groups >= 0].unique())
    assert len(data.images) + len(data.validation) + len(data.test) < 120


def test_a_pool_grows_and_what_it_was_can_still_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = tmp_path / "pool.parquet"
    first = build_pool(str(scans(tmp_path / "first", range(50))), pool)
    before = ParquetImages(pool)
    ids, prints = list(before.column("id")), before.fingerprint
    data = Data.from_parquet(pool)
    scans(tmp_path / "second", range(30, 100))  # of which 20 are known
    (tmp_path / "second" / "bird").mkdir()
    for number in range(100, 110):
        shown(number, (80, 60)).save(tmp_path / "second" / "bird" / f"{number}.png")
    (tmp_path / "second" / "cat" / "broken.png").write_bytes(b"no")
    with pytest.raises(SystemExit) as stop:
        main(["pool", "add", str(tmp_path / "second"), str(pool), "--classes", "bird,cat,dog"])
    assert stop.value.code == 0
    said, shown_there = read_manifest(pool), capsys.readouterr().out
    assert said.versions[0] == first.versions[0]
    second = said.versions[1]
    assert (second.images["pool"], second.again, len(second.broken)) == (60, 20, 1)
    assert said.classes == ("cat", "dog", "bird")
    assert "version 2: 60 images of" in shown_there
    assert "20 were there already" in shown_there
    after = ParquetImages(pool)
    assert list(after.column("id"))[:50] == ids
    assert len(set(after.column("id"))) == 110
    labels = dict(zip(after.column("file"), after.labels.tolist(), strict=True))
    assert all(label == said.classes.index(Path(file).parent.name) for file, label in labels.items())
    old = ParquetImages(f"{pool}@1")
    assert (len(old), old.fingerprint) == (50, prints)
    assert Data.from_parquet(f"{pool}@1").fingerprint() == data.fingerprint()
    with pytest.raises(InputError, match="has versions 1 to 2; 3 was asked for"):
        ParquetImages(f"{pool}@3")


@pytest.mark.parametrize("keep", [False, True])
def test_adding_in_steps_gives_the_images_of_adding_at_once(tmp_path: Path, keep: bool) -> None:
    scans(tmp_path / "a", range(30))
    scans(tmp_path / "b", range(30, 60))
    scans(tmp_path / "both", range(60))
    build_pool(str(tmp_path / "both"), tmp_path / "both.parquet", keep_files=keep)
    build_pool(str(tmp_path / "a"), tmp_path / "a.parquet", keep_files=keep)
    add_to_pool(str(tmp_path / "b"), tmp_path / "a.parquet", tmp_path / "c.parquet")
    assert len(ParquetImages(tmp_path / "a.parquet")) == 30
    grown, whole = ParquetImages(tmp_path / "c.parquet"), ParquetImages(tmp_path / "both.parquet")
    order, theirs = (torch.from_numpy(np.argsort(images.column("id"))) for images in (grown, whole))
    assert sorted(grown.column("id")) == sorted(whole.column("id"))
    assert torch.equal(grown.at_rest(order), whole.at_rest(theirs))
    assert torch.equal(grown.labels[order], whole.labels[theirs])


def test_drift_tells_a_changed_camera_from_more_of_the_same(tmp_path: Path) -> None:
    pool = tmp_path / "pool.parquet"
    build_pool(str(scans(tmp_path / "first", range(200))), pool)
    same = add_to_pool(str(scans(tmp_path / "same", range(200, 400))), pool)
    for number in range(400, 600):
        place = tmp_path / "dark" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        ImageEnhance.Contrast(shown(number)).enhance(0.4).save(place / f"{number}.png")
    dark = add_to_pool(str(tmp_path / "dark"), pool)
    assert same.versions[1].drift == pytest.approx(0.5, abs=0.1)
    assert dark.versions[1].drift == same.versions[1].drift
    assert dark.versions[2].drift is not None
    assert drift(*(perceived(ParquetImages(pool).at_rest(part))[1] for part in torch.arange(400).split(200))) == (
        pytest.approx(same.versions[1].drift)
    )


def test_drift_is_half_for_equal_images_and_one_where_brightness_tells_all() -> None:
    thumbs = perceived(DIGITS.images[:800])[1]
    brighter = perceived((DIGITS.images[:800] // 2) + 100)[1]
    halves = torch.randperm(800, generator=generator(0, "halves")).split(400)  # writers follow each other
    assert drift(*(thumbs[half] for half in halves)) == pytest.approx(0.5, abs=0.06)
    assert drift(thumbs, brighter) == pytest.approx(1.0, abs=0.01)
    assert drift(thumbs[:10], thumbs) is None


def test_a_hash_is_the_one_of_its_definition() -> None:
    image = torch.from_numpy(np.array(shown(3, (32, 32)))).permute(2, 0, 1)
    grey = image.double().mean(0) / 255
    low = torch.from_numpy(dctn(grey.numpy(), type=2))[:8, :8].flatten()
    bits = low > low[1:].median()
    code = int(perceived(image[None])[0][0]) % 2**64
    assert [bool(code >> place & 1) for place in range(64)] == bits.tolist()


def test_images_are_not_added_to_an_earlier_version_or_in_another_shape(tmp_path: Path) -> None:
    pool = tmp_path / "pool.parquet"
    build_pool("digits", pool)
    held = pool.read_bytes()
    with pytest.raises(InputError, match="as it is now"):
        add_to_pool("digits", Path(f"{pool}@1"))
    np.savez(tmp_path / "other.npz", images=np.zeros((5, 9, 9), np.uint8), labels=np.zeros(5, np.int64))
    with pytest.raises(InputError):
        add_to_pool(str(tmp_path / "other.npz"), pool)
    assert pool.read_bytes() == held
    assert add_to_pool("digits", pool, tmp_path / "again.parquet").versions[1].again == 1797


def test_a_data_set_of_hugging_face_becomes_a_pool(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
        }
    )

    def of(numbers: range) -> object:
        rows = {
            "picture": [shown(number) for number in numbers],
            "kind": [number % 2 for number in numbers],
            "note": [""] * len(numbers),
        }
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": of(range(20)), "test": of(range(20, 30))}).save_to_disk(str(tmp_path / "pets"))
    said = build_pool(f"hf:{tmp_path / 'pets'}", tmp_path / "pets.parquet")
    assert (said.name, said.classes, said.shape) == ("pets", ("cat", "dog"), (3, 30, 40))
    assert said.images == {"pool": 20, "test": 10}
    images = ParquetImages(tmp_path / "pets.parquet")
    assert torch.equal(images.at_rest(torch.tensor([7]))[0], torch.from_numpy(np.array(shown(7))).permute(2, 0, 1))
    assert images.labels.tolist() == [number % 2 for number in range(20)]
    with pytest.raises(DataMissing, match="no data set of Hugging Face"):
        build_pool(f"hf:{tmp_path}", tmp_path / "no.parquet")


def test_an_image_of_the_test_is_never_in_the_pool(tmp_path: Path) -> None:
    split = replace(DIGITS, test_images=DIGITS.images[:30], test_labels=DIGITS.labels[:30])
    write_parquet(tmp_path / "s.parquet", "s", rows_of(split), (1, 28, 28), DIGITS.classes)
    data = Data.from_parquet(tmp_path / "s.parquet")
    assert data.test is not None
    assert len(data.test) == 30
    assert "30 equals of held-out images are left out" in data.about


def test_a_later_version_does_not_change_the_groups_of_an_earlier_one(tmp_path: Path) -> None:
    pool = tmp_path / "pool.parquet"
    build_pool(str(scans(tmp_path / "first", range(40))), pool)
    before = Data.from_parquet(f"{pool}@1").fingerprint()
    add_to_pool(str(scans(tmp_path / "more", range(0, 40), spoilt=True)), pool)
    assert read_manifest(pool).groups is not None
    assert int((ParquetImages(pool).groups >= 0).sum()) > 60
    assert bool((ParquetImages(f"{pool}@1").groups == -1).all())
    assert Data.from_parquet(f"{pool}@1").fingerprint() == before


def test_groups_of_the_first_images_are_those_of_the_pairs_among_them() -> None:
    pictures = torch.stack([torch.from_numpy(np.array(shown(number))).permute(2, 0, 1) for number in range(20)])
    order = torch.randint(20, (90,), generator=generator(0, "order"))
    darker = torch.randint(4, (90, 1, 1, 1), generator=generator(0, "darker"))
    pairs = alike(*perceived((pictures[order].int() - darker).clamp_min(0).to(torch.uint8)))
    every = groups_of(pairs, 90)
    assert len(pairs) == len(order) - len(order.unique())  # as few as can be
    assert all(len(every[order == number].unique()) == 1 for number in order.unique())
    for count in (0, 1, 20, 50, 89):
        found = groups_of(pairs, count)
        held = pairs[(pairs < count).all(1)]
        assert torch.equal(found[held[:, 0]], found[held[:, 1]])
        assert set((found >= 0).nonzero().flatten().tolist()) == set(held.flatten().tolist())
        inside = (found >= 0).nonzero().flatten()
        assert all(len(every[inside][found[inside] == one].unique()) == 1 for one in found[inside].unique())


def test_labels_of_images_that_are_there_are_counted_and_their_test_images_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, none = tmp_path / "pool.parquet", replace(DIGITS, labels=torch.full_like(DIGITS.labels, -1))
    write_parquet(pool, "p", rows_of(none), (1, 28, 28), DIGITS.classes)
    assert add_to_pool("digits", pool, tmp_path / "out.parquet").versions[1].unheard == 1797
    with pytest.raises(SystemExit):
        main(["pool", "info", str(tmp_path / "out.parquet")])
    assert "1,797 were there already (1,797 of them with a label that was not taken over)" in capsys.readouterr().out
    arrays = {"images": np.zeros((4, 28, 28), np.uint8), "labels": np.arange(4) % 2}
    tests = {"test_images": DIGITS.images[:5, 0].numpy(), "test_labels": np.arange(5) % 2}
    np.savez(tmp_path / "more.npz", **arrays, **tests)
    with pytest.raises(InputError, match=r"5 test images of .* are there already"):
        add_to_pool(str(tmp_path / "more.npz"), pool)


def test_a_folder_of_new_classes_is_added_and_an_earlier_version_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool.parquet"
    build_pool(str(scans(tmp_path / "first", range(20))), pool)
    for number in range(20, 30):
        (tmp_path / "more" / ("eel", "fox")[number % 2]).mkdir(parents=True, exist_ok=True)
        shown(number).save(tmp_path / "more" / ("eel", "fox")[number % 2] / f"{number}.png")
    assert add_to_pool(str(tmp_path / "more"), pool).classes == ("cat", "dog", "eel", "fox")
    for name, sentence in ((f"{pool}@1", "20 images in the pool"), (str(pool), "30 images in the pool")):
        with pytest.raises(SystemExit) as stop:
            main(["pool", "info", name])
        assert stop.value.code == 0
        assert sentence in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["pool", "info", f"{pool}@3"])
    assert stop.value.code == 2
    assert "has versions 1 to 2; 3 was asked for" in capsys.readouterr().err


def test_a_run_goes_on_with_the_version_that_it_began_with(tmp_path: Path) -> None:
    pool = tmp_path / "pool.parquet"
    few = replace(DIGITS, images=DIGITS.images[:300], labels=DIGITS.labels[:300])
    write_parquet(pool, "few", rows_of(few), (1, 28, 28), DIGITS.classes)
    plan = tiny_plan("rounds=1", f"data.name={pool}", "acquisition=Margin").located()
    assert plan.data.name == f"{pool}@1"
    run(plan, plan.data.load(), tmp_path / "run")
    add_to_pool("digits", pool)
    again = plan_of(tmp_path / "run")
    assert run(again, again.data.load(), tmp_path / "run").round == 2


def test_damage_inside_a_file_is_seen_when_it_is_read(tmp_path: Path, photos: Path) -> None:
    build_pool("digits", tmp_path / "raw.parquet")
    build_pool(str(photos), tmp_path / "kept.parquet", keep_files=True)
    for name in ("raw", "kept"):
        path = tmp_path / f"{name}.parquet"
        content = bytearray(path.read_bytes())
        middle = len(content) // 3
        content[middle : middle + 40] = bytes(40)
        path.write_bytes(content)
        with pytest.raises(DataCorrupt, match="is damaged at images"):
            ParquetImages(path).at_rest(torch.arange(len(ParquetImages(path))))


BUILD = """
import resource, sys
from pathlib import Path
from robal.pool_files import build_pool
peaks = []
for name in ("few", "many"):
    build_pool(name, Path(name + ".parquet"), keep_files=True, group=False)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


def test_large_images_of_small_files_do_not_pile_up(tmp_path: Path) -> None:
    for name, count in (("few", 20), ("many", 80)):  # 6.75 MB each, decoded
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (1500, 1500), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    command = [sys.executable, "-c", BUILD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KB; 60 images more have 405,000


def test_images_of_more_than_eight_bits_are_left_out_and_listed(photos: Path) -> None:
    Image.fromarray(np.full((10, 12), 40_000, np.uint16)).save(photos / "cat" / "deep.png")
    said = build_pool(str(photos), photos.parent / "photos.parquet")
    assert said.images["pool"] == 60
    assert [file for file, _ in said.versions[0].broken] == ["cat/deep.png"]
    assert "more than 8 bits" in said.versions[0].broken[0][1]


def test_a_pool_that_is_partly_files_names_those(tmp_path: Path, photos: Path) -> None:
    """Whichever images are asked about, the lists have the same columns."""
    np.savez(tmp_path / "arrays.npz", images=np.arange(3 * 10 * 12 * 3, dtype=np.uint8).reshape(3, 10, 12, 3))
    out = tmp_path / "pool.parquet"
    build_pool(str(tmp_path / "arrays.npz"), out)
    add_to_pool(str(photos), out)
    stored = ParquetImages(out)
    names = stored.files_at(torch.arange(len(stored)))
    assert names[:3] == ("", "", "")
    assert all(names[3:])
    assert stored.files_at(torch.tensor([1])) == ("",)
