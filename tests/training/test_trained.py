"""What training leaves behind, on disk and back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from watching import Counter

from robal.errors import RunFolderError
from robal.training import Adam, Trained
from robal.training.tensors import load_optimiser, load_tensors, named, optimiser_tensors, part, save_tensors
from small_models import convnet


@pytest.fixture
def trained() -> Trained:
    model = convnet(classes=10).to(memory_format=torch.channels_last)
    optimiser = Adam().build(model.parameters())
    model.train()(torch.rand(4, 1, 8, 8)).square().sum().backward()
    optimiser.step()
    return Trained(model.eval(), None, (), optimiser_tensors(optimiser), steps=17, epoch=3)


def test_what_was_saved_comes_back_to_the_last_bit(trained: Trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.safetensors")
    back = Trained.load(tmp_path / "model.safetensors", convnet(classes=10, seed=9).train())
    wanted, got = trained.model.state_dict(), back.model.state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert trained.optimiser.keys() == back.optimiser.keys()
    assert all(torch.equal(trained.optimiser[name], back.optimiser[name]) for name in trained.optimiser)
    assert (back.steps, back.epoch) == (17, 3)
    assert not back.model.training
    inputs = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(trained.model(inputs), back.model.to(memory_format=torch.channels_last)(inputs))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_snapshots_come_back_in_their_order(trained: Trained, tmp_path: Path) -> None:
    states = tuple({"weight": torch.rand(3, 2), "bias": torch.rand(2)} for _ in range(12))
    Trained(trained.model, None, states).save(tmp_path / "model.safetensors")
    back = Trained.load(tmp_path / "model.safetensors", convnet(classes=10)).snapshots
    assert len(back) == 12
    for wanted, got in zip(states, back, strict=True):
        assert wanted.keys() == got.keys()
        assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_a_companion_comes_back_too(trained: Trained, tmp_path: Path) -> None:
    companion = Counter()
    companion.seen += 5
    Trained(trained.model, companion).save(tmp_path / "model.safetensors")
    back = Trained.load(tmp_path / "model.safetensors", convnet(classes=10), Counter())
    assert isinstance(back.companion, Counter)
    assert float(back.companion.seen) == 5


def test_an_optimisers_state_comes_back_to_the_last_bit() -> None:
    model = convnet()
    first = Adam().build(model.parameters())
    model.train()(torch.rand(4, 1, 8, 8)).square().sum().backward()
    first.step()
    other = Adam(lr=0.5).build(model.parameters())
    load_optimiser(other, optimiser_tensors(first))
    wanted, got = optimiser_tensors(first), optimiser_tensors(other)
    assert wanted.keys() == got.keys()
    assert "0.exp_avg_sq" in wanted
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert other.param_groups[0]["lr"] == 0.5


def test_the_weights_of_another_network_are_refused(trained: Trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.safetensors")
    with pytest.raises(RunFolderError, match=r"model\.safetensors holds the weights of another network"):
        Trained.load(tmp_path / "model.safetensors", convnet(classes=4))


def test_a_file_that_is_not_whole_is_refused(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    trained.save(path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunFolderError, match=r"model\.safetensors cannot be read"):
            Trained.load(path, convnet(classes=10))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nothing\.safetensors cannot be read"):
        Trained.load(tmp_path / "nothing.safetensors", convnet())


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    trained.save(path)
    whole = path.read_bytes()
    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(RunFolderError, match=r"could not be written.*Free some space, then repeat the command"):
        trained.save(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def disk_is_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_tensors_and_numbers_come_back_under_their_names(tmp_path: Path) -> None:
    tensors = named("now", {"a": torch.arange(3), "b.c": torch.tensor(2.5)}) | named("best", {"a": torch.zeros(0)})
    save_tensors(tmp_path / "x", tensors, {"epoch": 3, "score": float("-inf")})
    back, numbers = load_tensors(tmp_path / "x")
    assert part(back, "now").keys() == {"a", "b.c"}
    assert torch.equal(part(back, "now")["a"], torch.arange(3))
    assert part(back, "best")["a"].shape == (0,)
    assert numbers == {"epoch": 3, "score": float("-inf")}
