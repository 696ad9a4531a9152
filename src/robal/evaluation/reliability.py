"""How far a model's probabilities can be believed, on clean and on adversarial images alike.

Every function takes probabilities [N, K] and labels [N]: of clean images, or of the images that an attack returned.
All of them compute in double precision, and none needs to know a model, except `probabilities`, which asks one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.errors import InputError
from robal.images import check_pixels, unit
from robal.networks import check_logits, frozen, home_of
from robal.pool import check_labels
from robal.scores.uncertainty import check_probs, entropy

_SMALLEST = torch.finfo(torch.float32).tiny  # 2⁻¹²⁶: below it, a softmax in float32 rounds to 0


@dataclass(frozen=True)
class Reliability:
    """The figures of one set of images.

    Args:
        images: how many.
        accuracy: in [0, 1].
        calibration_error: ECE with 15 bins of equal width, in [0, 1]; low is good.
        adaptive_calibration_error: ECE with 15 bins of equal mass, in [0, 1]; low is good.
        negative_log_likelihood: in nats; low is good.
        brier: in [0, 2]; low is good.
        area_under_risk_coverage: in [0, 1]; low is good.
    """

    images: int
    accuracy: float
    calibration_error: float
    adaptive_calibration_error: float
    negative_log_likelihood: float
    brier: float
    area_under_risk_coverage: float


def reliability(probs: Tensor, labels: Tensor) -> Reliability:
    """All the figures that one set of images has.

    Args:
        probs: [N, K] rows that sum to 1; N >= 1.
        labels: [N] int64 in [0, K).

    Raises:
        InputError: for rows that are no probabilities, or labels that do not fit.

    >>> reliability(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 0])).brier
    0.25
    """
    _checked(probs, labels)
    return Reliability(
        images=len(labels),
        accuracy=float((probs.argmax(1) == labels).double().mean()),
        calibration_error=calibration_error(probs, labels),
        adaptive_calibration_error=calibration_error(probs, labels, adaptive=True),
        negative_log_likelihood=negative_log_likelihood(probs, labels),
        brier=brier(probs, labels),
        area_under_risk_coverage=area_under_risk_coverage(probs, labels),
    )


def probabilities(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """[N, K] float64: the softmax of a model's logits.

    In double precision, where a confidence of 1 - 10⁻¹² is not yet 1; the model is as it was afterwards.

    Args:
        model: returns logits [B, K].
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        batch_size: images in a forward pass.
    """
    if len(inputs) == 0:
        raise InputError("there is no image to ask the model about")
    check_pixels(inputs)
    with frozen(model), torch.no_grad():
        device = home_of(model)
        logits = [check_logits(model(unit(part.to(device)))).cpu() for part in inputs.split(batch_size)]
    return torch.cat(logits).double().softmax(1)


def confidence_bins(
    probs: Tensor, labels: Tensor, bins: int = 15, adaptive: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The reliability diagram: images sorted into bins by confidence, max p, each bin open below and closed above.

    Args:
        probs: [N, K] rows that sum to 1; N >= 1.
        labels: [N] int64 in [0, K).
        bins: how many, at least 1.
        adaptive: bins of equal mass, not of equal width; equal confidences share a bin.

    Returns:
        Images [bins] int64; mean confidence and accuracy [bins] float64, NaN in a bin without images.

    Source: DeGroot and Fienberg, The Statistician 1983; Guo et al., ICML 2017, arXiv 1706.04599.
    """
    precision, probs = probs.dtype, _checked(probs, labels)
    if bins < 1:
        raise InputError(f"bins must be at least 1; {bins} came")
    confidence, predicted = probs.max(1)
    if adaptive:
        last = (torch.arange(1, bins) * len(probs) / bins).ceil().long() - 1
        edges = confidence.sort().values[last.clamp_min(0)]
    else:
        # Rounded as the probabilities are, so that a confidence of 0.6 lies in the bin that ends at 0.6.
        edges = (torch.arange(1, bins, dtype=torch.float64) / bins).to(precision).double()
    which = torch.bucketize(confidence, edges.to(confidence.device))
    images = torch.bincount(which, minlength=bins)
    sums = [torch.bincount(which, weights, bins) for weights in (confidence, (predicted == labels).double())]
    return images, sums[0] / images, sums[1] / images


def calibration_error(probs: Tensor, labels: Tensor, bins: int = 15, adaptive: bool = False) -> float:
    """How far confidence is from accuracy, bin by bin: the expected calibration error (ECE).

        ECE = Σ_b n_b / N · |accuracy_b - confidence_b|

    Args:
        probs: [N, K] rows that sum to 1; N >= 1.
        labels: [N] int64 in [0, K).
        bins: how many, at least 1. With few images, many bins raise the figure by noise alone.
        adaptive: bins of equal mass, not of equal width.

    Returns:
        In [0, 1]; low is good.

    Confidences 0.75 (right) and 0.75 (wrong) share a bin: |0.5 - 0.75|.

    >>> calibration_error(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
    0.25

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, arXiv 1706.04599.
    Bins of equal mass: Nguyen and O'Connor, EMNLP 2015, arXiv 1508.05154.
    """
    images, confidence, accuracy = confidence_bins(probs, labels, bins, adaptive)
    here = images > 0
    return float((images[here] * (accuracy[here] - confidence[here]).abs()).sum() / images.sum())


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """The mean of -log p_y, in nats; low is good.

    A label whose probability was rounded to 0 counts as 2⁻¹²⁶, 87.3 nats: the least it can have been.

    Args:
        probs: [N, K] rows that sum to 1; N >= 1.
        labels: [N] int64 in [0, K).

    >>> round(negative_log_likelihood(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0])), 4)
    0.3466
    """
    likelihood = _checked(probs, labels).gather(1, labels[:, None])
    return float(-likelihood.clamp(_SMALLEST, 1.0).log().mean()) + 0.0  # turns -0.0 into 0.0


def brier(probs: Tensor, labels: Tensor) -> float:
    """The mean squared distance of the probabilities from the truth: Σ_k (p_k - [k = y])².

    Args:
        probs: [N, K] rows that sum to 1; N >= 1.
        labels: [N] int64 in [0, K).

    Returns:
        In [0, 2]; low is good. (The two-class score in [0, 1] that some report is half of this.)

    >>> brier(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 0]))
    1.25

    Source: Brier, Monthly Weather Review 1950.
    """
    probs = _checked(probs, labels)
    truth = torch.zeros_like(probs).scatter_(1, labels[:, None], 1.0)
    return float((probs - truth).square().sum(1).mean())


def risk_coverage(probs: Tensor, labels: Tensor) -> Tensor:
    """[N] float64: entry k - 1 is the error rate among the k most confident images, that is at a coverage of k / N.

    Among equal confidences the order is open, so each counts as the mean over all orders.

    Args:
        probs: [N, K] rows that sum to 1; N >= 1. The confidence is max p.
        labels: [N] int64 in [0, K).

    >>> risk_coverage(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), torch.tensor([0, 0, 1]))
    tensor([0.0000, 0.0000, 0.3333], dtype=torch.float64)

    Source: El-Yaniv and Wiener, JMLR 2010; Geifman and El-Yaniv, NeurIPS 2017, arXiv 1705.08500.
    """
    probs = _checked(probs, labels)
    confidence, predicted = probs.max(1)
    order = confidence.argsort(descending=True, stable=True)
    wrong = (predicted != labels)[order].double()
    _, group, size = confidence[order].unique_consecutive(return_inverse=True, return_counts=True)
    shared = torch.bincount(group, wrong) / size  # error rate within each group of equal confidences
    answered = torch.arange(1, len(probs) + 1, device=probs.device)
    return shared[group].cumsum(0).div(answered)


def area_under_risk_coverage(probs: Tensor, labels: Tensor) -> float:
    """The mean of `risk_coverage` over all coverages (AURC), in [0, 1]; low is good.

    >>> area_under_risk_coverage(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]))
    0.25

    Source: Geifman et al., ICLR 2019, arXiv 1805.08206.
    """
    return float(risk_coverage(probs, labels).mean())


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The chance that a random image from outside scores higher than a random one from inside; a tie counts half.

    Args:
        inside: [N] floats, scores of images of the distribution that the model knows, such as `entropy(probs)`;
            N >= 1.
        outside: [M] floats, scores of other images (another data set, or adversarial ones); M >= 1.

    Returns:
        In [0, 1]: 1 where the score tells them apart, 0.5 where it knows nothing.

    Of the four pairs two are in order, one is a tie and one is reversed: 2.5 / 4.

    >>> auroc(torch.tensor([0.1, 0.5]), torch.tensor([0.5, 0.3]))
    0.625

    Source: Hanley and McNeil, Radiology 1982; as a measure of out-of-distribution detection: Hendrycks and Gimpel,
    ICLR 2017, arXiv 1610.02136.
    """
    for what, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or len(scores) == 0 or bool(scores.isnan().any()):
            raise InputError(f"{what} scores have shape [N] with N >= 1 and no NaN; these have {list(scores.shape)}")
    known, asked = inside.double().sort().values, outside.double().contiguous()
    below = torch.searchsorted(known, asked)
    not_above = torch.searchsorted(known, asked, right=True)
    return float((below + not_above).double().mean() / (2 * len(known)))


def out_of_distribution(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """`auroc` of two scores for telling unknown images from known ones: low confidence, and high entropy.

    Args:
        inside: [N, K] probabilities of images of the distribution that the model knows.
        outside: [M, K] probabilities of others.

    Returns:
        {"confidence": …, "entropy": …}, each in [0, 1]; high is good.

    >>> out_of_distribution(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.6, 0.4]]))
    {'confidence': 1.0, 'entropy': 1.0}
    """
    known, asked = check_probs(inside).double(), check_probs(outside).double()
    return {
        "confidence": auroc(-known.amax(1), -asked.amax(1)),
        "entropy": auroc(entropy(known), entropy(asked)),
    }


def _checked(probs: Tensor, labels: Tensor) -> Tensor:
    """The probabilities in double precision, if they and the labels are what they should be."""
    probs = check_probs(probs).double()
    if len(probs) == 0 or labels.shape != probs.shape[:1]:
        raise InputError(f"labels of shape [N], N >= 1, are due for {len(probs)} rows; {list(labels.shape)} came")
    if labels.dtype != torch.int64:
        raise InputError(f"labels are int64; these are {str(labels.dtype).split('.')[-1]}")
    check_labels(labels, probs.shape[1])
    return probs
