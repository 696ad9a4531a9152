"""Shards: the rows are those of one process to the bit, and what is finished is never done again."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import DFAL, CoreSet, Margin, select
from robal.engines import Local, Sharded, TileFunction
from robal.engines.shards import Job, Shard
from robal.errors import InputError, RunFolderError
from robal.images import InMemory
from robal.loop import run
from robal.seeds import generator
from small_models import convnet
from tiny_runs import outcome, tiny_plan

IMAGES = InMemory(torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "images")))
SOME = torch.randperm(50, generator=generator(0, "order"))[:45]


@dataclass(frozen=True)
class Watched:
    """Logits and noise; each tile leaves a line in a file."""

    seen: str

    def __call__(self, model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        with Path(self.seen).open("a") as file:
            file.write("tile\n")
        return {"logits": model(batch), "noise": torch.rand(len(batch), generator=draw)}


def tiles(seen: Path) -> int:
    found = len(seen.read_text().splitlines()) if seen.exists() else 0
    seen.unlink(missing_ok=True)
    return found


def test_shards_give_the_rows_of_one_process_and_are_not_done_twice(tmp_path: Path) -> None:
    seen, model = tmp_path / "seen", convnet()
    function, engine = Watched(str(seen)), Sharded(str(tmp_path / "shards"), shard=12, tile=4)
    wanted = Local(4).map(function, model, IMAGES, SOME, 3)
    assert tiles(seen) == 12
    for expected in (12, 0):
        rows = engine.map(function, model, IMAGES, SOME, 3)
        assert rows.keys() == wanted.keys()
        assert all(torch.equal(rows[name], wanted[name]) for name in wanted)
        assert tiles(seen) == expected
    assert len(list((tmp_path / "shards").glob("*/*.safetensors"))) == 4
    (folder,) = (tmp_path / "shards").iterdir()
    gone, damaged, *_ = sorted(folder.iterdir())
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-5])
    rows = engine.map(function, model, IMAGES, SOME, 3)
    assert all(torch.equal(rows[name], wanted[name]) for name in wanted)
    assert tiles(seen) == 6  # two shards of three tiles


def test_another_model_seed_function_or_image_is_other_work(tmp_path: Path) -> None:
    seen, model = tmp_path / "seen", convnet()
    engine = Sharded(str(tmp_path / "shards"), shard=8, tile=8)
    function = Watched(str(seen))
    engine.map(function, model, IMAGES, SOME, 3)
    other, changed = convnet(), IMAGES.pixels.clone()
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    changed[0, 0, 0, 0] ^= 1
    elsewhere = Watched(str(tmp_path / "elsewhere"))
    assert tiles(seen) == 6
    for work in (
        (function, other, IMAGES, SOME, 3),
        (function, model, InMemory(changed), SOME, 3),
        (function, model, IMAGES, SOME, 4),
        (elsewhere, model, IMAGES, SOME, 3),
    ):
        engine.map(*work)
        assert tiles(seen) + tiles(tmp_path / "elsewhere") == 6
    engine.map(function, model, IMAGES, SOME[:16], 3)
    assert tiles(seen) == 0  # the first two shards of the very first call
    engine.map(function, model, IMAGES, SOME.flip(0), 3)
    assert tiles(seen) == 6


def test_a_shard_that_is_damaged_or_of_another_length_is_not_there(tmp_path: Path) -> None:
    shard = Shard(0, torch.arange(3), tmp_path / "one.safetensors")
    assert shard.load() is None
    shard.save({"x": torch.arange(6).view(3, 2)})
    assert torch.equal(shard.load()["x"], torch.arange(6).view(3, 2))  # type: ignore[index]
    assert Shard(0, torch.arange(4), shard.path).load() is None
    shard.path.write_bytes(b"nothing")
    assert shard.load() is None


def test_nothing_is_kept_where_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = Sharded(shard=8, tile=8).map(Watched(str(tmp_path / "seen")), convnet(), IMAGES, SOME, 0)
    assert rows["logits"].shape == (45, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"seen"}


def test_no_index_gives_no_row(tmp_path: Path) -> None:
    rows = Sharded(str(tmp_path / "s")).map(Watched(str(tmp_path / "x")), convnet(), IMAGES, SOME[:0], 0)
    assert rows["logits"].shape == (0, 4)


@pytest.mark.parametrize("acquisition", [Margin(), CoreSet(), DFAL()])
def test_the_choice_is_that_of_one_process(acquisition: object, tmp_path: Path) -> None:
    model = convnet()
    wanted = select(acquisition, model, IMAGES.pixels, 5)  # type: ignore[arg-type]
    engine = Sharded(str(tmp_path), shard=128)
    for _ in range(2):
        assert select(acquisition, model, IMAGES.pixels, 5, engine=engine).tolist() == wanted.tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(("shard", "tile"), [(100, 64), (0, 1), (64, 0), (32, 64)])
def test_a_shard_is_made_of_whole_tiles(shard: int, tile: int) -> None:
    with pytest.raises(InputError, match="a shard is made of whole tiles"):
        Sharded(shard=shard, tile=tile)


def test_the_key_tells_settings_apart_that_look_alike() -> None:
    keys = {
        Job(function, convnet(), IMAGES, seed, tile).key
        for function in (Watched("a"), Watched("b"))
        for seed in (0, 1)
        for tile in (4, 8)
    }
    assert len(keys) == 8


def test_a_run_ends_the_same_whichever_engine_looks(tmp_path: Path) -> None:
    for name, engine in (("here", "local"), ("kept", f"{{name: Sharded, folder: {tmp_path / 'shards'}}}")):
        plan = tiny_plan("rounds=1", "acquisition=DFAL", f"engine={engine}")
        run(plan, plan.data.load(), tmp_path / name)
    assert outcome(tmp_path / "kept") == outcome(tmp_path / "here")
    assert list((tmp_path / "shards").glob("*/*.safetensors"))


class Tempered(nn.Module):
    """Logits divided by a plain number, on top of a buffer that is not saved."""

    def __init__(self, temperature: float, shift: float = 0.0) -> None:
        super().__init__()
        self.inner, self.temperature = convnet(), temperature
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs + self.shift) / self.temperature


@dataclass(frozen=True, eq=False)
class Beside:
    """Looks with another network than the one it is given."""

    other: nn.Module

    def __call__(self, model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        return {"logits": self.other(batch)}


def logits(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    return {"logits": model(batch)}


def test_all_that_decides_the_rows_is_in_the_key() -> None:
    models = [Tempered(1.0), Tempered(2.0), Tempered(1.0, 0.1), convnet(), convnet(seed=1)]
    jobs = [Job(logits, model, IMAGES, 0, 4) for model in models]
    jobs += [Job(Beside(model), models[0], IMAGES, 0, 4) for model in models]
    keys = [job.key for job in jobs]
    assert None not in keys
    assert len(set(keys)) == len(jobs)
    assert keys == [Job(job.function, job.model, job.images, 0, 4).key for job in jobs]
    assert Job(logits, Tempered(1.0), IMAGES, 0, 4).key == keys[0]


def scaled_by(factor: float) -> TileFunction:
    def scaled(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        return {"x": batch.flatten(1).sum(1) * factor}

    return scaled


def test_what_has_no_name_by_its_content_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Sharded(str(tmp_path / "shards"), shard=16, tile=4)
    for factor in (1.0, 2.0):
        rows = engine.map(scaled_by(factor), convnet(), IMAGES, SOME, 0)
        wanted = IMAGES.batch(SOME).flatten(1).sum(1) * factor
        torch.testing.assert_close(rows["x"], wanted)
    hooked = convnet()
    hooked[0].register_forward_hook(lambda *given: None)
    engine.map(logits, hooked, IMAGES, SOME, 0)
    assert "nothing of it is kept" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_a_flipped_bit_is_seen_and_the_shard_done_again(tmp_path: Path) -> None:
    engine, model = Sharded(str(tmp_path), shard=16, tile=4), convnet()
    wanted = engine.map(logits, model, IMAGES, SOME, 0)["logits"]
    for path in tmp_path.glob("*/*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    assert torch.equal(engine.map(logits, model, IMAGES, SOME, 0)["logits"], wanted)


def test_two_that_write_the_same_shards_do_not_harm_each_other(tmp_path: Path) -> None:
    shards = [Shard(0, torch.arange(50_000), tmp_path / "one.safetensors") for _ in range(2)]
    rows = {"x": torch.rand(50_000, 4, generator=generator(0, "rows"))}
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=shards[number].save, args=(rows,)) for number in (0, 1, 0, 1)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0] * 4
    assert torch.equal(shards[0].load()["x"], rows["x"])  # type: ignore[index]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_for_shards_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="name another folder"):
        Sharded(str(tmp_path / "file")).map(logits, convnet(), IMAGES, SOME, 0)
