"""Does a robust accuracy measure robustness, or an obstacle that only attacks by gradient stumble over?

`check_defence` answers with one `Finding` a check. Those of `model_checks` look at the model, those of this file at
attacks: what they reach with more steps, with a wider ball, and beside Square, which sees no gradient.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import Square, ascend
from robal.errors import InputError
from robal.evaluation.model_checks import (
    Check,
    Finding,
    batch_independent,
    borrowed,
    deterministic,
    gradients_present,
    gradients_true,
    logits_returned,
    margin,
    no_autograd_inside,
    state_kept,
)
from robal.images import check_pixels, unit
from robal.networks import check_logits
from robal.pool import check_labels
from robal.progress import track
from robal.seeds import generator
from robal.threats import L2, Linf, Threat

STEPS = 20  # of the white-box attack


def check_defence(
    model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int, *, queries: int = 300
) -> tuple[Finding, ...]:
    """Look for the signs that a model hides its gradients instead of being robust; eleven findings, in a fixed order.

    All are cheap; 100 to 200 images will do. The model is judged in eval mode, whatever mode it is handed over in.
    A finding that is flagged is a reason to look, and one that passed is no proof.

    Args:
        model: returns logits [B, K]; mode, weights, buffers and flags are unchanged afterwards.
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1, attacked as one batch.
        labels: [N] int64 in [0, K).
        threat: `Linf` or `L2`, of the radius that robustness is claimed for; above 0.
        seed: names every random stream.
        queries: Square's budget an image.

    Returns:
        A `Finding` each; `passed` is True where the model shows no sign.

    Raises:
        InputError: for images, labels, a threat or a number that cannot be right.
        ContractError: for a model that returns no [N, K] finite outputs. (Probabilities are a finding, no error.)

    Differs from the papers: they name the signs, the bounds are robal's own, set so that LeNet-5 on MNIST and
    Fashion-MNIST, trained naturally and adversarially, pass. AutoAttack flags a single zero gradient, and Square where
    it lowers the accuracy under the other attacks by 0.2 points, which it does on honest models too.

    Source: Athalye, Carlini and Wagner, ICML 2018, arXiv 1802.00420, section 3.1; Carlini et al. 2019,
    arXiv 1902.06705, section 5; Croce and Hein, ICML 2020, arXiv 2003.01690, for the flags of AutoAttack.

    >>> from robal.threats import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0]]))  # the brighter pixel
    >>> image, label = torch.tensor([[[[0.8, 0.4]]]]), torch.tensor([0])
    >>> all(finding.passed for finding in check_defence(model, image, label, Linf(0.1), seed=0))
    True
    """
    if not isinstance(threat, Linf | L2) or threat.eps == 0:
        raise InputError(f"a defence is checked inside Linf or L2, with a radius above 0; {threat} came")
    if queries < 1:
        raise InputError(f"Square needs queries >= 1; {queries} came")
    if len(inputs) == 0:
        raise InputError("there is no image to check the defence on")
    check_pixels(inputs)
    if labels.shape != inputs.shape[:1]:
        raise InputError(f"{len(inputs)} images came with labels of shape {list(labels.shape)}")
    first = next(model.parameters(), inputs)
    inputs, labels = unit(inputs.to(first.device)).clone(), labels.to(first.device)
    with borrowed(model, seed, "outputs"):
        outputs = model(inputs)
        # Less one, probabilities are no longer taken for such: whether they are is a finding of its own.
        classes = check_logits(outputs - 1 if isinstance(outputs, Tensor) else outputs).shape[1]
    check_labels(labels, classes)
    checks: tuple[Check, ...] = (
        logits_returned,
        deterministic,
        batch_independent,
        state_kept,
        no_autograd_inside,
        gradients_present,
        gradients_true,
        loss_rises_with_steps,
        loss_rises_with_eps,
        accuracy_falls_to_zero,
        partial(white_box_beats_square, queries=queries),
    )
    return tuple(check(model, inputs, labels, threat, seed) for check in track(checks, "checks of the defence"))


def loss_rises_with_steps(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """PGD raises the loss, and 20 steps raise it no less than 5, and 5 no less than 1 (FGSM)."""
    counts = (0, 1, 5, STEPS)
    margins = [_attacked(model, inputs, labels, threat, seed, steps=steps) for steps in counts]
    return _rising(
        "loss rises with steps",
        {f"{steps} steps" if steps else "no attack": reached for steps, reached in zip(counts, margins, strict=True)},
        "More steps of PGD do not raise the loss: the gradient does not lead uphill, and a robust accuracy measured by "
        "attacks with gradients says little.",
        "See whether gradients are present and true; choose a step size that neither freezes nor overshoots, and use "
        "attacks that need no gradient.",
    )


def loss_rises_with_eps(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """PGD reaches a loss in the wider ball that is no lower: at half the radius, the radius, and twice that."""
    shares = (0.0, 0.5, 1.0, 2.0)
    radii = [inputs.new_full((len(inputs),), share * threat.eps) for share in shares]
    margins = [
        _attacked(model, inputs, labels, threat, seed, steps=STEPS if share else 0, eps=eps)
        for share, eps in zip(shares, radii, strict=True)
    ]
    return _rising(
        "loss rises with eps",
        {f"eps {share * threat.eps:.4g}": reached for share, reached in zip(shares, margins, strict=True)},
        "The wider ball contains the narrower one, and yet the attack finds nothing worse in it: it is stuck.",
        "Give the attack random starts, more steps and another loss; see whether gradients are present and true.",
    )


def accuracy_falls_to_zero(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Finding:
    """Where every image may be turned into plain grey, at most 10 % of those that were right stand under PGD.

    The radius is each image's own distance to grey, threat.size(½ − x), or the threat's where that is wider. A grey
    image tells nothing of the class, so true robustness is that of a constant guess.
    """
    wide = threat.size(0.5 - inputs).clamp_min(threat.eps)
    right = _attacked(model, inputs, labels, threat, seed, steps=0) < 0
    standing = right & (_attacked(model, inputs, labels, threat, seed, steps=2 * STEPS, eps=wide) < 0)
    share = int(standing.sum()) / max(1, int(right.sum()))
    return Finding(
        "accuracy falls to zero",
        share <= 0.1,
        {"right images that stand": share, "median radius": float(wide.median())},
        "An attack that may turn every image into plain grey leaves many standing: it fails, the model is not robust.",
        "Find out why before believing any smaller radius: gradients absent or false, too few steps, the wrong loss.",
    )


def white_box_beats_square(
    model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int, *, queries: int = 300
) -> Finding:
    """PGD-20, which sees the gradient, breaks no fewer images than Square, which sees logits; by McNemar's test."""
    by_white_box = _attacked(model, inputs, labels, threat, seed, steps=STEPS) < 0
    with borrowed(model, seed, "square"):
        outputs = model(inputs).detach()
        noise = generator(seed, "check", "square")
        moved = Square(queries, threat=threat)(_Differentiable(model), inputs, labels, noise)
        by_square = (margin(outputs, labels) < 0) & (margin(model(moved).detach(), labels) < 0)
    return compare_with_square(by_white_box, by_square)


class _Differentiable(nn.Module):
    """The model, with gradients enabled, which it may need inside and Square forbids."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            logits: Tensor = self.inner(inputs)
        return logits.detach()


def compare_with_square(white_box: Tensor, square: Tensor) -> Finding:
    """Whether Square broke more images than a white-box attack, and more than chance explains.

    Of the b + c images that only one of them broke, Square has b: flagged where P(Binomial(b + c, ½) >= b) < 0.01.

    Args:
        white_box: [N] bool, the images that stand under the white-box attack.
        square: [N] bool, those that stand under Square.

    Source: McNemar 1947, one-sided and exact; the sign itself: Carlini et al. 2019, arXiv 1902.06705, section 5.

    >>> stands, falls = torch.ones(7, dtype=torch.bool), torch.zeros(7, dtype=torch.bool)
    >>> compare_with_square(stands, falls).measured["p"]  # seven heads in seven throws: 1 / 128
    0.0078125
    """
    only_square, only_white_box = int((white_box & ~square).sum()), int((square & ~white_box).sum())
    both = only_square + only_white_box
    p = sum(math.comb(both, k) for k in range(only_square, both + 1)) / 2**both
    return Finding(
        "white box beats Square",
        p >= 0.01,
        {
            "accuracy under the white-box attack": float(white_box.double().mean()),
            "accuracy under Square": float(square.double().mean()),
            "broken by Square alone": only_square / len(square),
            "p": p,
        },
        "A search at random that sees only logits breaks more images than an attack that sees the gradient: the "
        "gradient is masked.",
        "Report the worst case over both, give Square thousands of queries, and look for what masks the gradient.",
    )


def _attacked(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    threat: Threat,
    seed: int,
    *,
    steps: int,
    eps: Tensor | None = None,
) -> Tensor:
    """[N]: the margin (above 0: broken) after PGD with so many steps from the image itself; 0 steps: no attack.

    Not by `perturb`, which attacks a twin of the model: here the gradient has to be the one that the model hands out.
    """

    def loss(moved: Tensor) -> Tensor:
        # The second summand is nothing: where the model lets no gradient through, it gives zeros in place of an error.
        return F.cross_entropy(model(moved), labels, reduction="none") + 0.0 * moved.flatten(1).sum(1)

    radii = inputs.new_full((len(inputs),), threat.eps) if eps is None else eps
    step_size = 2.5 * radii / max(1, steps)  # as `PGD` has it
    with borrowed(model, seed, "attack"):
        moved = ascend(loss, inputs, threat, steps=steps, step_size=step_size, eps=radii)
        return margin(model(moved).detach(), labels)


def _rising(name: str, margins: dict[str, Tensor], meaning: str, advice: str) -> Finding:
    """Flagged where the mean margin does not rise from the first to the last, or falls on the way.

    A fall counts where it exceeds three standard errors of the paired differences and a tenth of the whole rise:
    on honest models one more step may overshoot a little.
    """
    levels = [reached.double() for reached in margins.values()]
    rise = float((levels[-1] - levels[0]).mean())
    falls = False
    for earlier, later in pairwise(levels):
        change = later - earlier
        error = float(change.std(correction=0)) / math.sqrt(len(change))
        falls = falls or -float(change.mean()) > max(3 * error, 0.1 * rise)
    return Finding(
        name,
        rise > 0 and not falls,
        {f"mean margin, {level}": float(reached.double().mean()) for level, reached in margins.items()},
        meaning,
        advice,
    )
