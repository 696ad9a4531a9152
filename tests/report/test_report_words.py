"""Numbers and words of the report."""

from __future__ import annotations

import json
import math

import pytest
from scipy.stats import binomtest

from robal.report import words
from robal.report.folder import Changes, read
from robal.report.rates import Rate
from robal.wilson import wilson


def test_wilson_interval_of_eight_in_ten_agrees_with_the_number_worked_out_by_hand():
    # z = 1.96, z² = 3.8416: centre = (0.8 + 0.19208) / 1.38416 = 0.716738
    # half = 1.96 √(0.016 + 0.009604) / 1.38416 = 1.96 · 0.160013 / 1.38416 = 0.226581
    low, high = wilson(0.8, 10, z=1.96)
    assert low == pytest.approx(0.490157, abs=2e-6)
    assert high == pytest.approx(0.943319, abs=2e-6)


@pytest.mark.parametrize(("hits", "images"), [(0, 7), (3, 7), (7, 7), (123, 200), (1, 10_000)])
def test_wilson_interval_agrees_with_scipy(hits, images):
    theirs = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert wilson(hits / images, images) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_interval_holds_its_rate_and_narrows_with_more_images():
    widths = []
    for images in (1, 10, 100, 1000):
        low, high = wilson(1.0, images)
        assert 0 <= low < 1.0 == high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_a_rate_without_a_number_of_images_has_no_interval():
    assert Rate(0.5, None).interval is None
    assert Rate(0.5, 0).range == ""


def test_the_headline_quotes_autoattack_with_its_images_and_threat(tmp_path, write_run):
    record = read(write_run(tmp_path / "run"))
    assert words.headline(record) == (
        "350 labels bought: 94.2 % accurate, 61.0 % under AutoAttack (200 test images, L∞ ε = 0.2)."
    )
    assert words.cautions(record) == []


def test_pgd_alone_is_printed_with_its_caution(tmp_path, write_run):
    record = read(write_run(tmp_path / "run", rounds=5))
    assert "64.0 % under PGD-50" in words.headline(record)
    assert any("PGD alone supports no conclusion" in sentence for sentence in words.cautions(record))


def test_free_validation_labels_are_said_and_bought_ones_are_not(tmp_path, write_run):
    said = words.free_labels(read(write_run(tmp_path / "free")))
    assert said is not None
    assert "180 validation labels were free" in said

    def buy_all(row):
        row["labels"]["free_validation"] = 0

    assert words.free_labels(read(write_run(tmp_path / "bought", change=buy_all))) is None


def test_the_plan_in_words_names_data_choice_training_and_threat(tmp_path, write_run):
    said = words.plan_in_words(read(write_run(tmp_path / "run")))
    for phrase in (
        "digits of 10 classes, 28 × 28 pixels, grey: 1,258 in the pool, 180 for validation, 359 for the test",
        "starts from 50 random labels",
        "In each of 6 rounds 50 more images are chosen by DRE (bins 50",
        "adversarial training against PGD (steps 10, step size 0.05",
        "L∞ ε = 0.2",
        "The last model is attacked by AutoAttack.",
    ):
        assert phrase in said


def test_an_empty_plan_is_put_into_words_without_complaint(tmp_path):
    (tmp_path / "plan.yaml").write_text("", "utf-8")
    assert words.plan_in_words(read(tmp_path)) == "The data are an unnamed data set."


def test_a_threat_in_pixel_steps_is_written_as_a_fraction():
    assert words.threat({"threat": {"name": "Linf", "eps": 8 / 255}}) == "L∞ ε = 8/255"
    assert words.threat({"threat": {"name": "L2", "eps": 0.5}}) == "L₂ ε = 0.5"
    assert words.threat({"threat": {"name": "L2", "eps": math.nan}}) == "L₂"


def test_what_was_trained_on_beside_the_labels_is_said_with_its_errors(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    assert words.trained_beside(read(folder).last) is None
    path = folder / "metrics.jsonl"
    *first, last = path.read_text(encoding="utf-8").splitlines()
    kept = {"twin": 1, "crafted": 0, "pseudo": 1200, "pseudo_right": 0.941}
    path.write_text("\n".join([*first, json.dumps(json.loads(last) | {"kept": kept})]), encoding="utf-8")
    assert words.trained_beside(read(folder).last) == (
        "Trained on beside the bought labels: 1 adversarial twin of bought images; 1,200 images under the model's own "
        "label (94.1 % of them right). They count as no label."
    )
    assert words.cautions(read(folder)) == [words.trained_beside(read(folder).last)]


def test_the_labels_of_a_teacher_are_told_from_those_of_the_acquisition_function(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    *first, last = path.read_text(encoding="utf-8").splitlines()
    kept = {"twin": 0, "crafted": 0, "pseudo": 30, "pseudo_right": 0.9}
    pool = {"images": 900, "pseudo": 700, "pseudo_right": 0.8, "unsure": 150, "disputed": 50, "collapsed": False}
    changed = json.loads(last) | {"kept": kept, "pool": pool}
    path.write_text("\n".join([*first, json.dumps(changed)]), encoding="utf-8")
    assert words.trained_beside(read(folder).last) == (
        "Trained on beside the bought labels: 30 images under the model's own label (90.0 % of them right); 700 images "
        "of the pool under a teacher's label (80.0 % of them right), 50 kept out by a witness. They count as no label."
    )


def test_a_collapsed_teacher_is_a_caution(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    said = {"images": 900, "pseudo": 0, "pseudo_right": None, "unsure": 0, "disputed": 0}
    for row, collapsed in zip(rows[1:3], (True, False), strict=True):
        row["pool"] = said | {"collapsed": collapsed}
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = [line for line in words.cautions(read(folder)) if "collapsed" in line]
    assert found == ["In round 1 the pool was left out: the pseudo-labels had collapsed on too few classes."]


def test_what_was_forgotten_is_told_of_how_many_images() -> None:
    few = Changes(2, 0.5, 0, None)
    assert words.forgetting({"clean": few}) == "Image by image: of 2 that it had right, 50.0 % are forgotten."
    told = words.forgetting({"clean": Changes(2, 0.5, 3, 1 / 3), "Square": Changes(0, None, 1000, 0.25)})
    assert told.endswith(
        "of 3 that it had wrong, 33.3 % are learned; under Square of 1,000 that it did not stand, 25.0 % are learned."
    )
    older = words.forgetting({"clean": Changes(None, 0.5, None, 0.0)})
    assert "of those that it had right, 50.0 % are forgotten, of those that it had wrong, 0.0 % are learned" in older
