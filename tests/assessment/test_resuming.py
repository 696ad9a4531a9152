"""An evaluation that is killed, stopped, or called twice at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.assessment import assess
from robal.attacks import FGSM, PGD
from robal.errors import FolderInUse
from robal.evaluation import ledger as ledgers
from robal.folder import RunFolder
from robal.threats import L2, Linf, Threat
from small_models import convnet
from tiny_runs import Apart

INSIDE = Linf(0.02)
ATTACKS = (FGSM(), PGD(steps=2), PGD(steps=3, restarts=2))


def a_case() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and 30 images with what it says of them."""
    model = convnet().eval()
    inputs = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, inputs, model(inputs).argmax(1)


def evaluate(folder: Path, threat: Threat = INSIDE) -> dict[str, Any]:
    also = (L2(0.05),) if isinstance(threat, Linf) else ()
    return assess(*a_case(), tuple("abcd"), threat, ATTACKS, 0, folder, {}, also=also, checks=False)


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(part) for key, part in value.items() if key != "seconds"}
    return value


@dataclass(frozen=True)
class Dying:
    """The evaluation, for another process, which kills itself at a save of a ledger."""

    folder: Path
    at: int

    def __call__(self) -> None:
        torch.set_num_threads(1)
        ledgers.save_ledger = stopping_at(self.at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        evaluate(self.folder)


def stopping_at(at: int, stop: Callable[[], None]) -> Callable[[ledgers.Ledger, Path], None]:
    saves, save = [0], ledgers.save_ledger

    def saving(ledger: ledgers.Ledger, path: Path) -> None:
        saves[0] += 1
        if saves[0] == at:
            stop()
        save(ledger, path)

    return saving


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_killed_evaluation_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = evaluate(tmp_path / "undisturbed")
    assert 0 < undisturbed["worst_case"] < 1
    code = Apart(Dying(tmp_path / "killed", 4), tmp_path / "log").run()  # in the middle of the second attack
    assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not (tmp_path / "killed/evaluation.json").exists()
    assert without_seconds(evaluate(tmp_path / "killed")) == without_seconds(undisturbed)


@pytest.mark.parametrize("at", range(1, 9))  # each of four ledgers is saved when it is begun and after its batch
def test_an_evaluation_stopped_anywhere_ends_as_an_undisturbed_one(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "save_ledger", stopping_at(at, interrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path / "stopped")
    assert without_seconds(evaluate(tmp_path / "stopped")) == without_seconds(evaluate(tmp_path / "undisturbed"))


def test_what_is_finished_costs_nothing_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(tmp_path)
    monkeypatch.setattr(ledgers, "perturb", None)
    assert evaluate(tmp_path) == first  # the seconds too
    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == first


def test_another_threat_in_the_same_folder_neither_refuses_nor_overwrites(tmp_path: Path) -> None:
    first = evaluate(tmp_path)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "ledgers").glob("*.safetensors")}
    second = evaluate(tmp_path, L2(0.3))
    assert second["about"]["threat"] == "L2, eps = 0.3"
    for name, content in kept.items():
        assert (tmp_path / "ledgers" / name).read_bytes() == content
    assert evaluate(tmp_path) == first


def test_an_unfinished_evaluation_shows_no_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(tmp_path)
    (tmp_path / "index.html").write_text("the old page", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "save_ledger", stopping_at(1, interrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, L2(0.3))
    for name in ("evaluation.json", "index.html", "broken.png"):
        assert not (tmp_path / name).exists()


def test_two_evaluations_into_one_folder_are_one_too_many(tmp_path: Path) -> None:
    before = evaluate(tmp_path)
    with (
        RunFolder(tmp_path / "ledgers").locked(),
        pytest.raises(FolderInUse, match=r"another process is running in .*; wait for it, or choose another folder"),
    ):
        evaluate(tmp_path, L2(0.3))
    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == before
