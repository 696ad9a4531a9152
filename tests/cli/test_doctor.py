"""`robal doctor` says what is there, what is absent and what is wrong, and its self-test can fail."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robal import doctor
from robal.cli import main


def test_a_healthy_place_passes_and_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    assert end.value.code == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["state"] for one in found} <= {"good", "absent"}
    assert {"here", "needed", "extras", "devices", "disk", "self-test"} <= {one["about"] for one in found}
    assert found[-1]["said"].startswith("60 labels, ")
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == threads


def test_a_missing_data_set_comes_with_the_command_that_gets_it(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    found = {one.what: one for one in doctor.data_sets(tmp_path / "sets")}
    assert found["digits"].said == "embedded"
    assert found["mnist"].state == "absent"
    assert found["mnist"].advice == f"robal data fetch mnist --data {tmp_path / 'sets'}"


def test_a_damaged_data_set_is_wrong(tmp_path: Path) -> None:
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"damaged")
    found = {one.what: one for one in doctor.data_sets(tmp_path)}
    assert found["mnist"].state == "bad"
    assert "md5" in found["mnist"].said


def test_what_is_needed_and_not_there_is_bad_and_an_extra_only_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", nothing)
    found = {one.what: one for one in doctor.packages()}
    assert found["torch"].state == "bad"
    assert found["torch"].advice.startswith("pip install 'torch")
    assert found["ray"].state == "absent"
    assert found["ray"].advice == "pip install 'robal[ray]'"
    assert not {"pytest", "sphinx"} & set(found)


def test_what_is_too_old_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    found = {one.what: one for one in doctor.packages()}
    assert found["numpy"].state == "bad"
    assert found["numpy"].said.startswith("0.0.1, but >=")


def test_the_self_test_fails_where_an_attack_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("robal.attacks.pgd.PGD.__call__", broken)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "no such kernel" in said
    assert "1 of these must be mended" in said


@pytest.mark.parametrize(
    ("rows", "mistake"),
    [
        ([(40, 0.5, 0.2), (50, 0.6, 0.2)], "40 and 60 labels"),
        ([(40, 0.5, 0.2), (60, 0.1, 0.1)], "at least 30 %"),
        ([(40, 0.5, 0.2), (60, 0.6, 0.7)], "no attack should raise"),
    ],
)
def test_the_self_test_minds_what_the_run_says(
    rows: list[tuple[int, float, float]], mistake: str, tmp_path: Path
) -> None:
    page = tmp_path / "index.html"
    page.write_text("a page")
    history = [{"labelled": n, "accuracy": clean, "robust_accuracy": {"PGD": robust}} for n, clean, robust in rows]
    assert mistake in " ".join(doctor.mistakes(history, page))
