"""A run's model as ONNX: equal to the original, with its card, and measured again in 8 bits."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robal.export
from robal.cli import main
from robal.data import Data
from robal.errors import ContractError, InputError, RunFolderError
from robal.evaluation import predict
from robal.export import Exported, Session, apart, exact, export, trained_on
from robal.folder import RunFolder
from robal.images import InMemory, unit
from robal.loop import load, run
from robal.networks import Custom
from robal.plan import Plan
from robal.report.card import PARTS
from robal.threats import L2, Linf
from tiny_runs import tiny_plan

onnx = pytest.importorskip("onnx", reason="the extra robal[onnx] is not installed")
pytest.importorskip("onnxruntime")

PLAN = ("rounds=1", "audit=40", "network={name: LeNet5, dropout: 0.1, mean: [0.1], std: [0.3]}")


class Branching(nn.Module):
    """A network whose path depends on its input, which no graph can say."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return self.linear(flat * 2 if float(flat.detach().sum()) > 3 else flat)


@pytest.fixture(scope="module")
def source() -> Data:
    return tiny_plan().data.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, source: Data) -> Path:
    place = tmp_path_factory.mktemp("export") / "run"
    run(tiny_plan(*PLAN), source, place)
    return place


@pytest.fixture(scope="module")
def written(folder: Path) -> Exported:
    return export(folder, folder.parent / "out" / "m.onnx", int8=True, images=60, queries=20)


def test_its_logits_are_the_models(written: Exported, folder: Path, source: Data) -> None:
    _, trained = load(tiny_plan(*PLAN), source, RunFolder(folder))
    pixels = source.images.at_rest(torch.arange(9))
    for some in (pixels[:1], pixels[1:6], pixels):  # any number of images
        with torch.no_grad():
            wanted = trained.model(unit(some))
        torch.testing.assert_close(Session(written.files[0])(unit(some)), wanted, rtol=1e-4, atol=1e-4)
    assert written.differs <= 1e-4
    assert written.images == 256


def test_it_takes_images_as_a_camera_has_them(written: Exported) -> None:
    import onnxruntime

    (given,) = onnxruntime.InferenceSession(str(written.files[0])).get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [1, 28, 28])


def test_the_card_lies_beside_it_and_inside(written: Exported) -> None:
    plain, eight, as_json, as_text = written.files
    card = json.loads(as_json.read_text(encoding="utf-8"))
    assert set(PARTS) <= set(card)
    inside = {prop.key: prop.value for prop in onnx.load(str(plain)).metadata_props}
    assert json.loads(inside["robal"]) == card
    assert json.loads(inside["classes"]) == [str(digit) for digit in range(10)]
    assert card["labels"]["audit"] == 40
    assert card["input"]["type"] == "uint8"
    assert card["parity"]["largest_difference"] == written.differs
    assert "What it was not tested on" in as_text.read_text(encoding="utf-8")
    assert eight.stat().st_size < plain.stat().st_size


def test_in_8_bits_it_is_measured_again_and_cannot_gain_by_hiding(written: Exported, source: Data) -> None:
    figures = {one["what"]: one["rate"] for one in written.card["figures"] if "ONNX" in one["what"]}
    clean, under, clean8, under8 = figures.values()
    assert list(figures)[3].endswith("and what fooled the other file, ONNX, int8")
    assert under <= clean
    assert under8 <= clean8
    assert abs(clean - clean8) < 0.2
    test = source.test
    assert test is not None
    right = predict(Session(written.files[1]), test.images.at_rest(torch.arange(60))) == test.labels[:60]
    assert clean8 == pytest.approx(float(right.double().mean()))


def test_the_radius_in_8_bits_is_one_that_they_have() -> None:
    assert exact(Linf(8 / 255)) == Linf(8 / 255)
    assert exact(Linf(0.1)) == Linf(25 / 255)
    assert exact(L2(0.5)) == L2(0.5)


def test_a_difference_that_is_no_number_is_none() -> None:
    assert np.isnan(apart(torch.tensor([float("nan")]), torch.tensor([1.0])))


def test_a_file_that_answers_otherwise_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robal.export, "TOLERANCE", -1.0)
    with pytest.raises(ContractError, match="and no file was written"):
        export(folder, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_images_that_rest_as_floats_are_taken_as_floats_and_the_audit_stands_for_a_test(
    source: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source.hidden is not None
    images, hidden = InMemory(unit(source.images.at_rest(torch.arange(200)))), source.hidden[:200]
    data = replace(source, images=images, hidden=hidden, test=None, validation=None)
    plan = tiny_plan("rounds=0", "audit=20")
    run(plan, data, tmp_path / "run")
    monkeypatch.setattr(type(plan.data), "load", lambda self: data)
    found = export(tmp_path / "run", tmp_path / "m.onnx")
    assert found.card["input"]["type"] == "float32"
    assert {one["of"] for one in found.card["figures"]} == {"images of the audit set"}
    assert [path.name for path in found.files] == ["m.onnx", "m.card.json", "m.card.md"]


def test_a_network_that_onnx_cannot_say_is_refused_and_nothing_stays(source: Data, tmp_path: Path) -> None:
    plan: Plan = replace(tiny_plan("rounds=0"), network=Custom("test_export:Branching"))
    run(plan, source, tmp_path / "run")
    with pytest.raises(InputError, match="torch cannot write this network as ONNX"):
        export(tmp_path / "run", tmp_path / "out" / "m.onnx")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["--onnx", "m.bin"], "a file with .onnx at its end"),
        (["--onnx", "m.onnx", "--queries", "0"], "are at least 1"),
        (["--onnx", "/proc/none/m.onnx"], "is no folder to be written"),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, settings: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", str(folder), *settings])
    assert left.value.code == 2
    assert why in capsys.readouterr().err


def test_a_run_without_a_round_has_no_model(source: Data, tmp_path: Path) -> None:
    from robal.loop import rounds

    going = rounds(tiny_plan(), source, tmp_path / "run")
    next(going)
    going.close()
    with pytest.raises(InputError, match="finished no round yet"):
        export(tmp_path / "run", tmp_path / "m.onnx")


def test_without_the_packages_it_says_which_command_brings_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'robal\[onnx\]'"):
        export(folder, tmp_path / "m.onnx")


def test_other_images_than_the_runs_are_refused(
    source: Data, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = replace(source, images=InMemory(255 - source.images.at_rest(torch.arange(len(source.images)))))
    monkeypatch.setattr(type(tiny_plan().data), "load", lambda self: other)
    with pytest.raises(RunFolderError, match="was begun with other images or labels"):
        export(folder, tmp_path / "m.onnx")


def test_a_radius_below_a_step_of_8_bits_is_no_figure(written: Exported) -> None:
    plain = written.files[0]
    pixels, labels = torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.arange(4)
    found = robal.export._again(plain, plain, pixels, labels, "test", Linf(0.002), 3, 0)
    assert [one["what"] for one in found] == ["accuracy, ONNX", "accuracy, ONNX, int8"]


def test_8_bits_are_calibrated_on_nothing_that_was_kept_apart(source: Data, tmp_path: Path) -> None:
    plan = tiny_plan("rounds=1", "audit=20", "validation.bought_share=0.2")
    state = run(plan, source, tmp_path / "run")
    chosen = trained_on(state)
    assert len(chosen) == 40
    assert not torch.isin(chosen, torch.cat([state.validation, state.meta, state.audit[0]])).any()
