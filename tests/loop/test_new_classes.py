"""Classes that nobody had thought of: met on the way, named, learned, and measured honestly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robal.data import Data
from robal.errors import InputError, PlanError
from robal.evaluation import predict
from robal.folder import RunFolder
from robal.loop import load, rounds, run
from robal.pool import NONE_OF_THESE
from robal.report import report
from robal.report.folder import read
from tiny_runs import DELICATE, outcome, rows, tiny_plan

SECRET = ("data.unforeseen=['3', '7']", "start.labels=8", "rounds=4", "seed=5")


@pytest.fixture(scope="module")
def source() -> Data:
    return tiny_plan(*SECRET).data.load()


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory, source: Data) -> Path:
    folder = tmp_path_factory.mktemp("met") / "run"
    run(tiny_plan(*SECRET), source, folder)
    return folder


def test_the_data_keep_them_secret(source: Data) -> None:
    whole = tiny_plan().data.load()
    assert source.classes == ("0", "1", "2", "4", "5", "6", "8", "9")
    assert source.unforeseen == ("3", "7")
    assert source.hidden is not None
    assert whole.hidden is not None
    names = (*source.classes, *source.unforeseen)
    assert [names[label] for label in source.hidden.tolist()] == [str(label) for label in whole.hidden.tolist()]
    assert source.test is not None
    assert source.validation is not None
    assert len(source.test) == len(whole.test)  # type: ignore[arg-type]
    assert int(source.validation.labels.max()) < 8
    assert source.fingerprint() != whole.fingerprint()


def test_what_is_known_later_is_numbered_as_it_was_named(source: Data) -> None:
    later = source.as_known_by((*source.classes, "7"))
    assert later.unforeseen == ("3",)
    assert source.hidden is not None
    assert later.hidden is not None
    sevens, threes = source.hidden == 9, source.hidden == 8
    assert bool((later.hidden[sevens] == 8).all())
    assert bool((later.hidden[threes] == 9).all())
    assert torch.equal(later.hidden[source.hidden < 8], source.hidden[source.hidden < 8])


def test_a_run_meets_them_and_reports_both(met: Path, source: Data) -> None:
    found = rows(met)
    assert set(found[-1]["new_classes"]) == {"3", "7"}
    assert "new_classes" not in found[0]
    state, _ = load(tiny_plan(*SECRET), source, RunFolder(met))
    assert len(state.pool.classes) == 10
    names = [state.pool.classes[label] for label in state.pool.labels[state.pool.labelled].tolist()]
    whole = tiny_plan().data.load()
    assert whole.hidden is not None
    assert names == [str(label) for label in whole.hidden[state.pool.labelled].tolist()]
    page = report([met]).read_text(encoding="utf-8")
    assert "On the way 2 new classes came up:" in page
    assert "Classes met" in page
    assert read(met).discovered[-1][1] == 10


def test_test_images_of_classes_that_nobody_named_count_as_wrong(met: Path, source: Data) -> None:
    first = rows(met)[0]
    named = (*source.classes, *first.get("new_classes", ()))
    known = source.as_known_by(named)
    assert known.test is not None
    unknown = int((known.test.labels >= len(named)).sum())
    assert first["unforeseen"] == unknown > 0
    assert first["accuracy"] <= 1 - unknown / len(known.test)
    assert first["images"]["clean"] == len(known.test)
    assert "unforeseen" not in rows(met)[-1]
    _, trained = load(tiny_plan(*SECRET), source, RunFolder(met))
    last = source.as_known_by((*source.classes, *rows(met)[-1]["new_classes"])).test
    assert last is not None
    right = predict(trained.model, last.images.at_rest(torch.arange(len(last)))) == last.labels
    assert rows(met)[-1]["accuracy"] == pytest.approx(float(right.double().mean()))


def test_left_in_any_round_it_goes_on_to_the_same_end(met: Path, source: Data, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(5):
        going = rounds(tiny_plan(*SECRET), source, folder)
        next(going)
        next(going, None)
        going.close()
    assert outcome(folder) == outcome(met)


def test_an_oracle_may_say_that_they_are_none_of_the_classes(source: Data, tmp_path: Path) -> None:
    run(tiny_plan(*SECRET, "oracle.unforeseen=none"), source, tmp_path / "run")
    found = rows(tmp_path / "run")
    assert all("new_classes" not in row for row in found)
    assert sum(row["query"]["answers"]["none_of_these"] for row in found) > 0
    state, _ = load(tiny_plan(*SECRET, "oracle.unforeseen=none"), source, RunFolder(tmp_path / "run"))
    assert source.hidden is not None
    assert bool((source.hidden[state.pool.labels == NONE_OF_THESE] >= 8).all())


@pytest.mark.slow
def test_with_everything_else_that_a_run_can_do(tmp_path: Path) -> None:
    settings = [one for one in DELICATE if not one.startswith("oracle")]
    plan = tiny_plan(*settings, *SECRET[:3], "audit=20", "recipe.restarts=1")
    run(plan, plan.data.load(), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert len(found[-1]["new_classes"]) == 2
    assert len(found[-1]["audit"]["per_class"]["accuracy"]) == 10


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["data.unforeseen=['x']"], "x cannot be unforeseen: the classes are 0, 1, 2"),
        (["data.unforeseen=['3', '3']"], "a class that is named twice cannot be unforeseen"),
        (["data.unforeseen=['0','1','2','3','4','5','6','7','8']"], "leave at least two others"),
        (["data.unforeseen=['3']", "oracle.noise=0.1"], "leave out oracle.noise"),
        (["data.unforeseen=['3']", "relabel={}"], "leave out oracle.noise, relabel"),
    ],
)
def test_what_cannot_be_is_refused(settings: list[str], why: str, tmp_path: Path) -> None:
    def attempt() -> None:
        plan = tiny_plan(*settings)
        run(plan, plan.data.load(), tmp_path / "run")

    with pytest.raises(InputError, match=why):
        attempt()


def test_an_answer_that_there_is_not_is_refused() -> None:
    with pytest.raises(PlanError, match="'new' or 'none'"):
        tiny_plan("oracle.unforeseen=perhaps")


def test_without_them_nothing_is_renumbered() -> None:
    data = tiny_plan().data.load()
    assert data.as_known_by((*data.classes, "eleven")) is data
    assert replace(data).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("name", ["T-shirt/top", "none", " 3", "CAT"])
def test_a_class_that_nobody_could_name_so_is_refused_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    data = tiny_plan().data.load()
    classes = ("cat", *data.classes[1:3], name, *data.classes[4:])
    data = replace(data, classes=classes).without([name])
    with pytest.raises(InputError, match=r"cannot be unforeseen|the name of a class|is an answer of its own"):
        run(tiny_plan(), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("oracle", ["new", "none"])
def test_its_export_is_measured_by_the_labels_of_the_end(oracle: str, source: Data, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from robal.export import export, measured_on

    plan = tiny_plan(
        "data.unforeseen=['3', '7']", "start.labels=8", "rounds=1", "seed=1", f"oracle.unforeseen={oracle}"
    )
    run(plan, plan.data.load(), tmp_path / "run")
    found = export(tmp_path / "run", tmp_path / "m.onnx", int8=True, images=359, queries=1)
    state, trained = load(plan, plan.data.load(), RunFolder(tmp_path / "run"))
    pixels, labels, of = measured_on(plan.data.load(), state)
    right = predict(trained.model, pixels) == labels
    figure = next(one for one in found.card["figures"] if one["what"] == "accuracy, ONNX")
    assert figure["rate"] == pytest.approx(float(right.double().mean()))
    assert figure["of"] == of
    known = len(rows(tmp_path / "run")[-1].get("new_classes", ())) == 2
    assert of == ("test images" if known else "test images of classes that have been named")
    if known:
        assert figure["rate"] == pytest.approx(rows(tmp_path / "run")[-1]["accuracy"])


def test_a_kill_between_naming_and_answering_loses_nothing(
    met: Path, source: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kept, deadly = tmp_path / "run", RunFolder.save_answers, [1, 2, 3]

    def dies(self: RunFolder, number: int, *rest: object) -> None:
        if number in deadly:
            deadly.remove(number)
            raise KeyboardInterrupt
        kept(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RunFolder, "save_answers", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(tiny_plan(*SECRET), source, folder)
    run(tiny_plan(*SECRET), source, folder)
    assert outcome(folder) == outcome(met)
