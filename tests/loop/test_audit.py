"""The audit set: drawn at random, asked about first, seen by nothing but the figures it is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robal.audit import alike, audit_size
from robal.data import Data
from robal.errors import InputError
from robal.evaluation import predict
from robal.folder import RunFolder
from robal.images import InMemory
from robal.loop import ask, load, rounds, run
from robal.oracles import Judgement
from robal.plan import Plan
from robal.pool import AUDITED, NONE_OF_THESE, UNLABELLED
from robal.report import report
from robal.report.folder import read
from robal.report.words import audit, headline
from robal.wilson import wilson
from tiny_runs import outcome, rows, tiny_plan, untimed

AUDIT = ("audit=30", "validation.bought_share=0.2")


@pytest.fixture(scope="module")
def source() -> Data:
    return tiny_plan().data.load()


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, source: Data) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "run"
    run(tiny_plan(*AUDIT), source, folder)
    return folder


def state_of(plan: Plan, data: Data, folder: Path) -> Any:
    return load(plan, data, RunFolder(folder))[0]


@contextmanager
def asked(plan: Plan, data: Data, folder: Path) -> Iterator[tuple[RunFolder, Any]]:
    """A run that has asked its first question, to be answered by others than its oracle."""
    going = rounds(plan, data, folder)
    next(going)
    going.close()
    place = RunFolder(folder)
    with place.locked():
        state, previous = load(plan, data, place)
        yield place, ask(plan, data, state, previous, place)


@pytest.mark.parametrize("width", [1, 3, 7.5, 20])
def test_the_interval_of_any_rate_is_as_narrow_as_was_asked_and_not_of_fewer_images(width: float) -> None:
    images = audit_size(f"±{width}%")
    widest = max((high - low) / 2 for low, high in (wilson(k / images, images) for k in range(images + 1)))
    assert widest <= width / 100
    low, high = wilson(0.5, images - 1)
    assert (high - low) / 2 > width / 100


@pytest.mark.parametrize("wrong", ["-1", "±0%", "±50%", "three", "0.5", "3"])
def test_an_audit_that_cannot_be_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="an audit"):
        replace(tiny_plan(), audit=int(wrong) if wrong == "-1" else wrong)


def test_an_audit_larger_than_the_pool_is_refused_before_anything_is_asked(source: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(2000 for the audit, 40 at the start, 2 rounds of 10\) and the pool holds"):
        run(tiny_plan("audit=2000"), source, tmp_path / "run")


def test_the_first_question_begins_with_the_audit_and_nothing_asks_about_it_again(audited: Path, source: Data) -> None:
    place, plan = RunFolder(audited), tiny_plan(*AUDIT)
    asked = [place.question(number)[0] for number in range(3)]  # type: ignore[index]
    assert [len(one) for one in asked] == [70, 10, 10]
    everything = torch.cat(asked)
    assert len(everything.unique()) == 90
    state = state_of(plan, source, audited)
    assert torch.equal(state.audit[0], asked[0][:30])
    assert torch.equal(state.audit[1], source.hidden[asked[0][:30]])  # type: ignore[index]
    assert bool((state.pool.labels[asked[0][:30]] == AUDITED).all())
    assert not torch.isin(torch.cat([state.validation, state.meta, state.pool.labelled]), asked[0][:30]).any()
    # a sample: neither the first images nor sorted
    assert not torch.equal(asked[0][:30], asked[0][:30].sort().values)


def test_the_audit_is_counted_as_test_labels(audited: Path) -> None:
    labels = [row["labels"] for row in rows(audited)]
    assert [one["audit"] for one in labels] == [30, 30, 30]
    assert [one["bought"] for one in labels] == [40, 50, 60]
    assert [one["validation"] for one in labels] == [8, 10, 12]


def test_its_rates_are_those_of_the_model_on_its_images(audited: Path, source: Data) -> None:
    plan = tiny_plan(*AUDIT)
    state, trained = load(plan, source, RunFolder(audited))
    images, labels = state.audit
    right = predict(trained.model, source.images.at_rest(images)) == labels
    found = rows(audited)[-1]["audit"]
    assert found["accuracy"] == pytest.approx(right.double().mean().item())
    assert found["asked"] == found["images"]["clean"] == found["images"]["PGD-2"] == found["images"]["FGSM"] == 30
    assert found["robust_accuracy"]["PGD-2"] <= found["accuracy"]


def test_answers_of_the_audit_change_nothing_but_the_figures_of_the_audit(
    audited: Path, source: Data, tmp_path: Path
) -> None:
    images = RunFolder(audited).question(0)[0][:30]  # type: ignore[index]
    hidden = source.hidden.clone()  # type: ignore[union-attr]
    hidden[images] = (hidden[images] + 1) % 10
    run(tiny_plan(*AUDIT), replace(source, hidden=hidden), tmp_path / "run")
    one, other = outcome(audited), outcome(tmp_path / "run")
    assert one["weights"] == other["weights"]
    for mine, theirs in zip(rows(audited), rows(tmp_path / "run"), strict=True):
        assert mine["audit"]["accuracy"] > theirs["audit"]["accuracy"]
        same = {key: value for key, value in untimed(mine).items() if key not in ("audit", "query")}
        assert same == {key: value for key, value in untimed(theirs).items() if key not in ("audit", "query")}


def test_a_run_that_was_left_goes_on_to_the_same_end(audited: Path, source: Data, tmp_path: Path) -> None:
    plan, folder = tiny_plan(*AUDIT), tmp_path / "run"
    for _ in range(3):
        going = rounds(plan, source, folder)
        next(going)
        next(going, None)
        going.close()
    assert outcome(folder) == outcome(audited)


def test_without_an_audit_a_run_is_what_it_was(source: Data, tmp_path: Path) -> None:
    run(tiny_plan("rounds=0"), source, tmp_path / "run")
    (row,) = rows(tmp_path / "run")
    assert "audit" not in row
    assert "audit" not in row["labels"]


def test_images_like_those_of_the_audit_are_kept_out(source: Data, tmp_path: Path) -> None:
    pixels = source.images.at_rest(torch.arange(300))
    double = replace(source, images=InMemory(torch.cat([pixels, pixels])), hidden=source.hidden[:300].repeat(2))  # type: ignore[index]
    plan = tiny_plan("audit=30", "rounds=0")
    run(plan, double, tmp_path / "run")
    state = state_of(plan, double, tmp_path / "run")
    twins = (state.audit[0] + 300) % 600
    assert bool((state.pool.labels[twins] == AUDITED).all())
    assert not torch.isin(twins % 300, state.pool.labelled % 300).any()
    (row,) = rows(tmp_path / "run")
    alone = len(twins[~torch.isin(twins, state.audit[0])])
    assert row["audit"]["alike"] == alone
    assert f"{alone} further images of the pool" in audit(read(tmp_path / "run").rounds[0].audit)  # type: ignore[arg-type]


def test_equal_images_are_found_wherever_the_pixels_live() -> None:
    pixels = torch.tensor([3, 5, 3, 3, 9], dtype=torch.uint8).view(5, 1, 1, 1)
    assert alike(InMemory(pixels), torch.tensor([2])).tolist() == [0, 3]
    assert alike(InMemory(pixels.float() / 255), torch.tensor([1, 4])).tolist() == []
    assert alike(InMemory(pixels), torch.empty(0, dtype=torch.int64)).tolist() == []


def test_where_there_is_no_test_the_audit_takes_its_place(source: Data, tmp_path: Path) -> None:
    alone, folder = replace(source, test=None, validation=None), tmp_path / "run"
    run(tiny_plan("audit=30", "rounds=1"), alone, folder)
    record = read(folder)
    assert [row.measured_on for row in record.rounds] == ["audit", "audit"]
    assert record.last is not None
    assert record.last.accuracy is not None
    assert record.last.accuracy.images == 30
    assert record.last.per_class["clean"]
    assert "(30 images of the audit set" in headline(record)
    page = report([folder]).read_text(encoding="utf-8")
    assert "30 labels are of the audit set: test labels" in page
    assert "on images of the audit set" in page


def test_images_of_no_class_are_left_out_of_its_rates_and_said(source: Data, tmp_path: Path) -> None:
    plan, folder = tiny_plan("audit=30", "rounds=0"), tmp_path / "run"
    with asked(plan, source, folder) as (place, state):
        answers = source.hidden[state.question].clone()  # type: ignore[index]
        answers[:5] = NONE_OF_THESE
        place.save_answers(0, state.question, answers, "test")  # type: ignore[arg-type]
    run(plan, source, folder)
    (row,) = rows(folder)
    assert row["audit"]["answers"] == {"skipped": 0, "none_of_these": 5}
    assert row["audit"]["images"]["clean"] == 25
    assert row["labels"]["skipped"] == 0  # which counts answers that were bought
    assert "Of them 5 are none of the classes, and not in these rates." in audit(read(folder).rounds[0].audit)  # type: ignore[arg-type]


def test_a_corrected_label_of_the_audit_stays_in_the_audit(source: Data, tmp_path: Path) -> None:
    plan, folder = tiny_plan("audit=30", "rounds=1"), tmp_path / "run"
    going = rounds(plan, source, folder)
    next(going)
    next(going)
    going.close()
    place = RunFolder(folder)
    state = state_of(plan, source, folder)
    image, label = int(state.audit[0][4]), (int(state.audit[1][4]) + 1) % 10
    with place.locked():
        place.save_relabelled(1, torch.tensor([image]), torch.tensor([label]))
    run(plan, source, folder)
    state = state_of(plan, source, folder)
    assert int(state.audit[1][4]) == label
    assert int(state.pool.labels[image]) == AUDITED
    assert int(state.labels[image]) == label


def test_a_pool_of_duplicates_that_cannot_carry_the_plan_is_refused_before_anything_is_asked(
    source: Data, tmp_path: Path
) -> None:
    pixels = source.images.at_rest(torch.arange(60))
    pairs = replace(source, images=InMemory(torch.cat([pixels, pixels])), hidden=source.hidden[:60].repeat(2))  # type: ignore[index]
    plan = tiny_plan("audit=20", "start.labels=40", "rounds=5", "per_round=10")
    with pytest.raises(InputError, match=r"90 labels are to be bought and .* images are left beside the audit's 20"):
        run(plan, pairs, tmp_path / "run")
    assert RunFolder(tmp_path / "run").question(0) is None


def test_an_image_equal_to_a_known_one_is_not_drawn_for_the_audit(source: Data, tmp_path: Path) -> None:
    pixels, hidden = source.images.at_rest(torch.arange(100)), source.hidden[:100]  # type: ignore[index]
    known = torch.cat([torch.full((100,), UNLABELLED), hidden[:80]])  # eighty of the new ones are known ones
    images = InMemory(torch.cat([pixels, pixels[:80]]))
    data = replace(source, images=images, hidden=torch.cat([hidden, hidden[:80]]), known=known)
    plan = tiny_plan("audit=12", "start.labels=0", "rounds=1", "per_round=5")
    run(plan, data, tmp_path / "run")
    state = state_of(plan, data, tmp_path / "run")
    assert bool(((state.audit[0] >= 80) & (state.audit[0] < 100)).all())
    assert [row["labelled"] for row in rows(tmp_path / "run")] == [0, 5]


def test_further_answers_about_the_audit_are_no_labels_bought(source: Data, tmp_path: Path) -> None:
    plan, folder = tiny_plan("audit=30", "rounds=0"), tmp_path / "run"
    with asked(plan, source, folder) as (place, state):
        said = [
            Judgement(f"{image}-{who}", image, who, int(source.hidden[image]))  # type: ignore[index]
            for image in state.question[:30].tolist()  # type: ignore[index]
            for who in ("ann", "bob")
        ]
        place.judgements.record(said)
    run(plan, source, folder)
    (row,) = rows(folder)
    assert (row["labels"]["repeated"], row["labels"]["bought"], row["labels"]["audit"]) == (0, 40, 60)


def test_a_class_first_named_in_the_audit_of_a_given_model_is_measured(source: Data, tmp_path: Path) -> None:
    first = tiny_plan("rounds=0")
    run(first, source, tmp_path / "first")
    weights = tmp_path / "first" / "rounds" / "000" / "model.safetensors"
    known = source.hidden.clone()  # type: ignore[union-attr]
    known[100:] = UNLABELLED
    data, folder = replace(source, known=known), tmp_path / "run"
    plan = tiny_plan(f"start={{labels: 0, weights: '{weights}'}}", "audit=12", "rounds=1", "per_round=5")
    with asked(plan, data, folder) as (place, state):
        answers = source.hidden[state.question].clone()  # type: ignore[index]
        answers[:3] = place.judgements.add_class(data.classes, "owl", 0, "ann")
        place.save_answers(0, state.question, answers, "test")  # type: ignore[arg-type]
    run(plan, data, folder)
    assert [len(row["audit"]["per_class"]["accuracy"]) for row in rows(folder)] == [11, 11]
    assert rows(folder)[0]["audit"]["per_class"]["accuracy"][10] == 0.0
