"""Calibration, proper scores, selective prediction and detection: by hand, by law, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch import Tensor, nn

from robal.attacks import PGD, perturb
from robal.errors import ContractError, InputError
from robal.evaluation.reliability import (
    area_under_risk_coverage,
    auroc,
    brier,
    calibration_error,
    confidence_bins,
    negative_log_likelihood,
    out_of_distribution,
    probabilities,
    reliability,
    risk_coverage,
)
from robal.scores import entropy
from robal.seeds import generator
from robal.threats import Linf
from small_models import condition, convnet, linear

# Confidences 0.9, 0.9, 0.6, 0.55; right, wrong, right, wrong.
PROBS = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.55, 0.45]])
LABELS = torch.tensor([0, 1, 1, 1])


def drawn(images: int = 600, classes: int = 5, sharp: float = 1.0) -> tuple[Tensor, Tensor]:
    """Probabilities that tell the truth at sharp = 1: the labels are drawn from them."""
    draw = generator(0, "reliability")
    logits = 2 * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).flatten()
    return (sharp * logits).softmax(1), labels


def test_the_calibration_error_by_hand() -> None:
    """Ten bins: (0.8, 0.9] holds two of mean 0.9, half right; (0.5, 0.6] two of mean 0.575, half right."""
    assert calibration_error(PROBS, LABELS, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.075)
    in_double = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.55, 0.45]], dtype=torch.float64)
    assert calibration_error(in_double, LABELS, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.075)
    assert calibration_error(PROBS, LABELS, bins=1) == pytest.approx(0.7375 - 0.5)


def test_the_adaptive_calibration_error_by_hand() -> None:
    """Three bins of mass: sorted confidences 0.55, 0.6 | 0.9, 0.9 |, because equal ones are not parted."""
    assert confidence_bins(PROBS, LABELS, bins=3, adaptive=True)[0].tolist() == [2, 2, 0]
    assert calibration_error(PROBS, LABELS, bins=3, adaptive=True) == pytest.approx(0.5 * 0.075 + 0.5 * 0.4)
    many = drawn(600)
    assert confidence_bins(*many, bins=15, adaptive=True)[0].tolist() == [40] * 15


def test_the_calibration_error_agrees_with_a_loop_over_bins() -> None:
    probs, labels = drawn(sharp=2.0)
    confidence, right = probs.amax(1).numpy(), (probs.argmax(1) == labels).numpy()
    total = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        mine = (confidence > low) & (confidence <= high)
        if mine.any():
            total += mine.mean() * abs(right[mine].mean() - confidence[mine].mean())
    assert calibration_error(probs, labels) == pytest.approx(total)


def test_one_bin_of_mass_is_one_bin_of_width_and_both_see_overconfidence() -> None:
    for sharp in (0.5, 1.0, 3.0):
        given = drawn(sharp=sharp)
        assert calibration_error(*given, bins=1) == pytest.approx(calibration_error(*given, bins=1, adaptive=True))
    for adaptive in (False, True):
        honest = calibration_error(*drawn(5000), adaptive=adaptive)
        assert honest < 0.03
        for sharp in (0.4, 3.0):
            assert calibration_error(*drawn(5000, sharp=sharp), adaptive=adaptive) > 3 * honest


def test_the_likelihood_agrees_with_scikit_learn_and_by_hand() -> None:
    probs, labels = drawn()
    assert negative_log_likelihood(probs, labels) == pytest.approx(log_loss(labels, probs, labels=range(5)))
    assert negative_log_likelihood(PROBS, LABELS) == pytest.approx(
        -(math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(0.45)) / 4, rel=1e-6
    )


def test_the_brier_score_agrees_with_scikit_learn_and_by_hand() -> None:
    probs, labels = drawn()
    theirs = brier_score_loss(labels, probs, labels=range(5), scale_by_half=False)
    assert brier(probs, labels) == pytest.approx(theirs)
    assert brier(PROBS, LABELS) == pytest.approx((0.02 + 1.62 + 0.32 + 0.605) / 4, rel=1e-6)


def test_proper_scores_are_best_for_the_probabilities_that_tell_the_truth() -> None:
    for score in (negative_log_likelihood, brier):
        honest = score(*drawn(5000))
        assert honest < min(score(*drawn(5000, sharp=sharp)) for sharp in (0.5, 0.8, 1.25, 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_exactly_zero_and_one_give_finite_figures(dtype: torch.dtype) -> None:
    certain = torch.eye(3, dtype=dtype)[[0, 1, 2, 0]]
    right = reliability(certain, torch.tensor([0, 1, 2, 0]))
    assert (right.accuracy, right.calibration_error, right.adaptive_calibration_error) == (1, 0, 0)
    assert (right.negative_log_likelihood, right.brier, right.area_under_risk_coverage) == (0, 0, 0)
    wrong = reliability(certain, torch.tensor([1, 2, 0, 1]))
    assert (wrong.accuracy, wrong.calibration_error, wrong.adaptive_calibration_error) == (0, 1, 1)
    assert (wrong.brier, wrong.area_under_risk_coverage) == (2, 1)
    assert wrong.negative_log_likelihood == pytest.approx(126 * math.log(2))
    assert out_of_distribution(certain, certain) == {"confidence": 0.5, "entropy": 0.5}


def test_a_probability_that_is_small_and_not_zero_counts_in_full() -> None:
    tiny = torch.tensor([[1.0, 1e-30]])
    assert negative_log_likelihood(tiny, torch.tensor([1])) == pytest.approx(30 * math.log(10), rel=1e-5)


def test_risk_and_coverage_by_hand() -> None:
    """The two of confidence 0.9 share one error, whichever comes first."""
    assert risk_coverage(PROBS, LABELS).tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 2])
    assert area_under_risk_coverage(PROBS, LABELS) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_risk_and_coverage_agree_with_the_threshold_on_confidence() -> None:
    probs, labels = drawn()
    risk, confidence, wrong = risk_coverage(probs, labels), probs.amax(1), probs.argmax(1) != labels
    for answered in (1, 7, 300, 599, 600):
        lowest = confidence.sort(descending=True).values[answered - 1]
        assert risk[answered - 1] == pytest.approx(float(wrong[confidence >= lowest].double().mean()))


def test_no_figure_depends_on_the_order_of_the_images() -> None:
    probs, labels = drawn(300)
    probs = torch.cat([probs, torch.eye(5, dtype=probs.dtype)[labels[:100]], probs[:50]])  # many equal confidences
    labels = torch.cat([labels, labels.roll(1)[:100], labels[250:]])
    order = torch.randperm(len(labels), generator=generator(0))
    first, other = reliability(probs, labels), reliability(probs[order], labels[order])
    assert vars(first) == pytest.approx(vars(other))
    assert torch.allclose(risk_coverage(probs, labels), risk_coverage(probs[order], labels[order]))


def test_auroc_agrees_with_scikit_learn_ties_and_infinities_included() -> None:
    draw = generator(0, "scores")
    for levels in (3, 1000):
        inside = torch.randint(levels, (200,), generator=draw).float()
        outside = torch.randint(levels, (90,), generator=draw).float() + 0.2 * levels
        theirs = roc_auc_score([0] * 200 + [1] * 90, torch.cat([inside, outside]))
        assert auroc(inside, outside) == pytest.approx(theirs)
        assert auroc(outside, inside) == pytest.approx(1 - theirs)
    assert auroc(torch.tensor([-math.inf, 0.0]), torch.tensor([math.inf])) == 1


def test_detection_by_confidence_and_entropy_agrees_with_scikit_learn() -> None:
    known, asked = drawn(200)[0], drawn(300, sharp=0.5)[0][200:]
    truth, both = [0] * 200 + [1] * 100, torch.cat([known, asked])
    found = out_of_distribution(known, asked)
    assert found["confidence"] == pytest.approx(roc_auc_score(truth, -both.amax(1)))
    assert found["entropy"] == pytest.approx(roc_auc_score(truth, entropy(both)))
    assert found["entropy"] > 0.6


def test_probabilities_are_the_softmax_in_double_precision_and_the_model_is_as_it_was() -> None:
    sure = linear([[28.0], [0.0]])
    probs = probabilities(sure, torch.ones(1, 1, 1, 1))
    assert float(probs[0, 1]) == pytest.approx(math.exp(-28), rel=1e-6)
    assert float(probs[0, 0]) < 1
    model, images = convnet().train(), torch.rand(7, 1, 8, 8, generator=generator(0))
    before, pixels = condition(model), images.clone()
    whole = probabilities(model, images)
    assert condition(model) == before
    assert torch.equal(images, pixels)
    with torch.no_grad():
        assert torch.allclose(whole, model.eval()(images).double().softmax(1))
    assert torch.allclose(probabilities(model, images, batch_size=2), whole, atol=1e-6)
    stored = (images * 255).to(torch.uint8)
    assert torch.equal(probabilities(model, stored), probabilities(model, stored.float() / 255))


def test_under_attack_the_probabilities_of_a_real_model_are_less_reliable(
    lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    images, labels = unseen
    moved = perturb(PGD(steps=5, threat=Linf(0.2)), lenet, images, labels, generator(0))
    before, after = (reliability(probabilities(lenet, pixels), labels) for pixels in (images, moved))
    assert before.images == after.images == 100
    assert before.accuracy == 1 > after.accuracy
    assert before.calibration_error < after.calibration_error
    assert before.negative_log_likelihood < after.negative_log_likelihood
    assert before.brier < after.brier
    assert before.area_under_risk_coverage == 0 < after.area_under_risk_coverage


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (PROBS * 2, LABELS, "not probabilities.*apply softmax to logits first"),
        (PROBS * math.nan, LABELS, "not probabilities"),
        (PROBS[:0], LABELS[:0], r"labels of shape \[N\], N >= 1, are due for 0 rows"),
        (PROBS, LABELS[:3], r"due for 4 rows; \[3\] came"),
        (PROBS, LABELS + 1, r"labels must lie in \[0, 2\); 3 do not"),
        (PROBS, LABELS.float(), "labels are int64; these are float32"),
    ],
)
def test_what_cannot_be_right_is_refused(probs: Tensor, labels: Tensor, message: str) -> None:
    for figure in (
        reliability,
        calibration_error,
        negative_log_likelihood,
        brier,
        risk_coverage,
        area_under_risk_coverage,
    ):
        with pytest.raises(InputError, match=message):
            figure(probs, labels)


def test_bins_and_scores_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(InputError, match="bins must be at least 1; 0 came"):
        calibration_error(PROBS, LABELS, bins=0)
    with pytest.raises(InputError, match=r"outside scores have shape \[N\] with N >= 1"):
        auroc(torch.ones(3), torch.ones(0))
    with pytest.raises(InputError, match=r"inside scores .* no NaN"):
        auroc(torch.tensor([math.nan]), torch.ones(3))
    with pytest.raises(InputError, match="no image to ask"):
        probabilities(convnet(), torch.rand(0, 1, 8, 8))
    with pytest.raises(InputError, match="must lie in"):
        probabilities(convnet(), 2 * torch.ones(1, 1, 8, 8))
    with pytest.raises(ContractError, match="softmax"):
        probabilities(nn.Sequential(convnet(), nn.Softmax(1)), torch.rand(2, 1, 8, 8))
