"""Ray: the same files as one process, and a worker that is killed costs its shard alone."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import Margin, select
from robal.engines import Local, OnRay, Sharded
from robal.errors import InputError, RobalError
from robal.images import InMemory
from robal.parquet import ParquetImages
from robal.pool_files import build_pool
from robal.seeds import generator
from small_models import convnet

ray = pytest.importorskip("ray")
IMAGES = InMemory(torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "images")))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Of two workers, for all tests of this file."""
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Mortal:
    """Logits; each tile leaves a line, and some kill their process when they are first looked at.

    Args:
        folder: for the lines and the marks of the dead.
        deadly: the numbers of tiles at which a process dies.
        always: it dies there each time.
    """

    folder: str
    deadly: tuple[int, ...] = ()
    always: bool = False

    def __call__(self, model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        # the tile is known by its first image
        number = int((IMAGES.batch(torch.arange(64)) == batch[:1]).flatten(1).all(1).nonzero()[0]) // len(batch)
        with (Path(self.folder) / "tiles").open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        mark = Path(self.folder) / f"died-{number}"
        if number in self.deadly and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"logits": model(batch), "noise": torch.rand(len(batch), generator=draw)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*/*")}


def counted(folder: Path) -> tuple[Counter[int], set[int]]:
    """How often each tile was looked at, and by which processes."""
    lines = [line.split() for line in (folder / "tiles").read_text().splitlines()]
    return Counter(int(tile) for tile, _ in lines), {int(process) for _, process in lines}


def check(tmp_path: Path, deadly: tuple[int, ...]) -> None:
    """Shards of four tiles, on two workers, of which some die: files as without Ray, and only theirs done again."""
    for name in ("here", "ray"):
        (tmp_path / name).mkdir(parents=True)
    model, every = convnet(), torch.arange(64)
    here = Sharded(str(tmp_path / "here" / "shards"), shard=8, tile=2)
    wanted = here.map(Mortal(str(tmp_path)), model, IMAGES, every, 5)
    (tmp_path / "tiles").unlink()
    engine = OnRay(workers=2, folder=str(tmp_path / "ray" / "shards"), shard=8, tile=2)
    rows = engine.map(Mortal(str(tmp_path), deadly), model, IMAGES, every, 5)
    assert all(torch.equal(rows[name], wanted[name]) for name in wanted)
    theirs = files(tmp_path / "ray" / "shards")
    assert len(theirs) == 8
    assert theirs == files(tmp_path / "here" / "shards")
    seen, processes = counted(tmp_path)
    assert os.getpid() not in processes
    assert len(processes) >= 2
    again = {tile // 4 for tile in deadly}  # by shard
    for tile in range(32):
        assert seen[tile] == 1 or (tile // 4 in again and tile <= max(deadly)), (tile, seen)
    assert all(seen[tile] == 2 for tile in deadly)


@pytest.mark.parametrize("deadly", [pytest.param((0,), marks=pytest.mark.slow), (9, 30)])
def test_the_files_are_those_of_one_process_whoever_is_killed(deadly: tuple[int, ...], tmp_path: Path) -> None:
    check(tmp_path, deadly)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(10))
def test_a_worker_killed_in_each_of_ten_runs_costs_its_shard_alone(run: int, tmp_path: Path) -> None:
    check(tmp_path, (int(torch.randint(32, (1,), generator=generator(run, "death"))),))


@pytest.mark.slow
def test_a_shard_at_which_every_worker_dies_is_given_up_and_the_others_are_kept(tmp_path: Path) -> None:
    engine = OnRay(workers=2, folder=str(tmp_path / "shards"), shard=8, tile=2)
    with pytest.raises(RobalError, match="lost 4 times at images 24 to 32"):
        engine.map(Mortal(str(tmp_path), (13,), always=True), convnet(), IMAGES, torch.arange(64), 0)
    assert len(files(tmp_path / "shards")) >= 3


def test_what_goes_wrong_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OnRay(workers=2, shard=8, tile=2).map(Mortal(str(tmp_path / "no")), convnet(), IMAGES, torch.arange(64), 0)


def test_the_choice_from_a_file_is_that_of_one_process(tmp_path: Path) -> None:
    build_pool("digits", tmp_path / "digits.parquet")
    images, model = ParquetImages(tmp_path / "digits.parquet"), convnet(classes=10, size=28)
    wanted = select(Margin(), model, images, 20)
    assert select(Margin(), model, images, 20, engine=OnRay(workers=2, shard=512)).tolist() == wanted.tolist()


@pytest.mark.parametrize("setting", [{"workers": 0}, {"threads": 0}, {"gpus": -1}, {"shard": 100}])
def test_numbers_that_cannot_be_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InputError):
        OnRay(**setting)  # type: ignore[arg-type]


@ray.remote(num_cpus=1)
class Occupant:
    """Takes a processor, and nothing else."""

    def process(self) -> int:
        return os.getpid()


def test_a_taken_processor_and_dead_idle_workers_stop_nothing(tmp_path: Path) -> None:
    engine = OnRay(workers=2, shard=8, tile=2)
    function, every = Mortal(str(tmp_path)), torch.arange(64)
    wanted = engine.map(function, convnet(), IMAGES, every, 5)["logits"]
    _, processes = counted(tmp_path)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    occupant = Occupant.remote()
    assert ray.get(occupant.process.remote())
    assert torch.equal(engine.map(function, convnet(), IMAGES, every, 5)["logits"], wanted)
    ray.kill(occupant)


def test_where_no_worker_begins_this_process_looks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robal.engines.on_ray._PATIENCE", 0.2)
    monkeypatch.setattr("robal.engines.on_ray._workers", {})
    engine = OnRay(workers=1, shard=16, tile=2)
    every = torch.arange(64)
    occupants = [Occupant.options(num_cpus=count).remote() for count in (os.cpu_count() or 1,)]  # type: ignore[attr-defined]
    rows = engine.map(Mortal(str(tmp_path)), convnet(), IMAGES, every, 5)
    wanted = Local(2).map(Mortal(str(tmp_path)), convnet(), IMAGES, every, 5)
    assert torch.equal(rows["logits"], wanted["logits"])
    assert "meanwhile images are looked at here" in capsys.readouterr().err
    for occupant in occupants:
        ray.kill(occupant)
