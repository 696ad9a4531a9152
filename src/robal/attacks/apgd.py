"""Auto-PGD: projected ascent with momentum that chooses its own step size, on four losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks.answers import classes_of
from robal.errors import InputError
from robal.threats import Linf, Threat

Loss = Literal["ce", "dlr", "targeted-dlr", "targeted-margin"]
_LABELS = {"ce": "APGD-CE", "dlr": "APGD-DLR", "targeted-dlr": "APGD-T", "targeted-margin": "APGD-T-margin"}
_FEWEST_CLASSES = {"ce": 2, "dlr": 3, "targeted-dlr": 4, "targeted-margin": 2}


@dataclass(frozen=True)
class APGD:
    """Climb a loss with momentum; at checkpoints, where the climb stalls, halve the step and go back to the best point.

    With η = 2 eps at first, P the projection and g the steepest direction,

        z = P(x_k + η g(x_k)),    x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})).

    Images that are wrong already come back as they are. An image that is broken leaves the batch with the point that
    broke it; one that stands to the end comes back as the point of highest loss. A point at which the model answers NaN
    has broken its image.

    Args:
        loss: "ce" (cross-entropy); "dlr" (`dlr`, at least 3 classes); "targeted-dlr" (`targeted_dlr`, at least 4
            classes), one climb towards each of the `targets` most likely wrong classes; "targeted-margin", the same
            with the loss z_t - z_y, for any number of classes.
        steps: gradient steps of each climb.
        restarts: how many random starts; more never raise robust accuracy.
        targets: at most so many wrong classes; those with fewer classes have K - 1.
        threat: None: the plan's; alone, Linf(8/255).

    Raises:
        InputError: when called on a model with too few classes for the loss.

    Differs from the paper, as the released code does: whether a step rose is asked of the points as they were visited,
    the first of them compared with a loss of 0. Differs from both: the start is uniform in the ball (the released code
    takes one on its surface), broken images leave at once, and all targets have had a climb before the second restart.
    Inside `L1` it is this same ascent along that threat's sparse steps, and not the authors' L1-APGD (ICML 2021, arXiv
    2103.01208), which adapts the sparsity too.

    Source: Croce and Hein, ICML 2020, arXiv 2003.01690, algorithm 1, equations 6 and 7.
    """

    loss: Loss = "ce"
    steps: int = 100
    restarts: int = 1
    targets: int = 9
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise InputError(f"APGD's loss is one of {', '.join(get_args(Loss))}; not {self.loss!r}")
        if min(self.steps, self.restarts, self.targets) < 1:
            raise InputError(
                f"APGD needs steps >= 1, restarts >= 1 and targets >= 1; "
                f"{self.steps}, {self.restarts} and {self.targets} came"
            )

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return f"{_LABELS[self.loss]}-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        """Gradient evaluations that an image which stands to the end costs."""
        return (self.steps + 1) * self.restarts * (self.targets if self.loss.startswith("targeted") else 1)

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        threat = self.threat or Linf()
        with torch.no_grad():
            logits = model(inputs)
        if logits.shape[1] < _FEWEST_CLASSES[self.loss]:
            raise InputError(
                f"the loss {self.loss!r} is defined for {_FEWEST_CLASSES[self.loss]} or more classes; this model has "
                f"{logits.shape[1]}. Take 'ce' or 'targeted-margin'"
            )
        result = inputs.clone()
        highest = torch.full_like(labels, -torch.inf, dtype=logits.dtype)
        standing = (classes_of(logits) == labels).nonzero().flatten()
        for targets in self._climbs(logits, labels):
            if len(standing) == 0:
                break
            mine, aims = labels[standing], None if targets is None else targets[standing]
            points, losses, broken = climb(
                _loss_of(self.loss, model, mine, aims),
                inputs[standing],
                threat,
                steps=self.steps,
                start=threat.random_start(inputs[standing], generator),
            )
            better = broken | (losses > highest[standing])
            result[standing[better]] = points[better]
            highest[standing] = torch.maximum(highest[standing], losses)
            standing = standing[~broken]
        return result

    def _climbs(self, logits: Tensor, labels: Tensor) -> Iterator[Tensor | None]:
        """One entry a climb: the targets, [B], or None."""
        for _ in range(self.restarts):
            yield from likely_targets(logits, labels, self.targets) if self.loss.startswith("targeted") else [None]


def climb(
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    inputs: Tensor,
    threat: Threat,
    *,
    steps: int,
    start: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One run of Auto-PGD from `start`.

    Args:
        loss: maps points [b, C, H, W] and the rows of `inputs` they belong to, [b] int64, to a loss each, [b], and
            whether each is broken, [b] bool; a broken one leaves the batch. Examples must not influence each other.
        inputs: [B, C, H, W] float32 in [0, 1], the centres of the balls.
        threat: the ball.
        steps: at least 1.
        start: [B, C, H, W], inside the balls.

    Returns:
        Three tensors: [B, C, H, W], the point that broke the image, else the one of highest loss met; [B], its loss;
        [B] bool, whether it is broken.

    >>> def loss(points, rows):
    ...     return points.flatten(1).sum(1), torch.zeros(len(rows), dtype=torch.bool)
    >>> image = torch.full((1, 1, 1, 2), 0.5)
    >>> climb(loss, image, Linf(0.25), steps=1, start=image)[:2]
    (tensor([[[[0.7500, 0.7500]]]]), tensor([1.5000]))
    """
    reached, heights = start.clone(), inputs.new_empty(len(inputs))
    broken = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    window, shorter, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    live = torch.arange(len(inputs), device=inputs.device)
    height, gradient, fell = _ascent(loss, start, live)
    points = before = best = start
    best_gradient, highest, at_check = gradient, height, height
    size = torch.full_like(height, 2 * threat.eps)
    rises = last = torch.zeros_like(height)
    halved = torch.ones_like(height, dtype=torch.bool)
    project, since = threat.around(inputs), 0
    for step in range(steps + 1):
        if step > 0:
            share = 1.0 if step == 1 else 0.75
            aim = project(points + threat.steepest(gradient) * size.view(-1, 1, 1, 1))
            points, before = project(points + share * (aim - points) + (1 - share) * (points - before)), points
            height, gradient, fell = _ascent(loss, points, live)
            rises, last, since = rises + (height > last), height, since + 1
            higher = height > highest
            best, best_gradient = _where(higher, points, best), _where(higher, gradient, best_gradient)
            highest = torch.where(higher, height, highest)
        if fell.any():
            gone, stay = live[fell], ~fell
            broken[gone], reached[gone], heights[gone] = True, points[fell], height[fell]
            images = (points, before, best, gradient, best_gradient)
            points, before, best, gradient, best_gradient = (part[stay] for part in images)
            numbers = (live, last, highest, at_check, size, rises, halved)
            live, last, highest, at_check, size, rises, halved = (part[stay] for part in numbers)
            project = threat.around(inputs[live])
            if len(live) == 0:
                break
        if since == window:
            stalled = (rises <= 0.75 * window) | (~halved & (highest <= at_check))
            size = torch.where(stalled, size / 2, size)
            points, gradient = _where(stalled, best, points), _where(stalled, best_gradient, gradient)
            halved, at_check = stalled, highest
            rises, since, window = torch.zeros_like(rises), 0, max(window - shorter, shortest)
    reached[live], heights[live] = best, highest
    return reached, heights, broken


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio, -(z_y - max_{k≠y} z_k) / (z_(1) - z_(3)), z_(j) the j-th largest logit.

    Shifts and scales of the logits leave it as it is, so no model hides behind large ones.

    Args:
        logits: [B, K] float32, K >= 3.
        labels: [B] int64 in [0, K).

    Returns:
        [B], positive where misclassified, else in [-1, 0].

    Source: Croce and Hein, ICML 2020, arXiv 2003.01690, equation 6.

    >>> dlr(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]))  # -(5 - 3) / (5 - 1)
    tensor([-0.5000])
    """
    ordered = logits.topk(3, 1)[0]
    return -label_lead(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The same towards a class t: -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2).

    Args:
        logits: [B, K] float32, K >= 4.
        labels: [B] int64 in [0, K).
        targets: [B] int64 in [0, K), other than the labels.

    Returns:
        [B], positive where class t leads the label.

    Source: Croce and Hein, ICML 2020, arXiv 2003.01690, equation 7.

    >>> targeted_dlr(torch.tensor([[5.0, 3.0, 2.0, 0.0]]), torch.tensor([0]), torch.tensor([2]))  # -(5 - 2) / (5 - 1)
    tensor([-0.7500])
    """
    ordered = logits.topk(4, 1)[0]
    return _ahead(logits, labels, targets) / (ordered[:, 0] - ordered[:, 2:].mean(1) + 1e-12)


def likely_targets(logits: Tensor, labels: Tensor, targets: int) -> Tensor:
    """[min(targets, K - 1), B] int64: the wrong classes of each image, the one of the largest logit first.

    >>> likely_targets(torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([0]), 9)
    tensor([[2],
            [1]])
    """
    others = logits.scatter(1, labels.view(-1, 1), -torch.inf)
    return others.topk(min(targets, logits.shape[1] - 1), 1)[1].t()


def clearly_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: another class leads the label by more than rounding, a hundred thousandth of the largest finite logit.

    A point that is wrong by less may be right in another batch, or memory layout, and breaks nothing. One at which the
    model answers NaN breaks its image: no class is named there.

    >>> clearly_wrong(torch.tensor([[1.0, 2.0], [2.0, 1.0], [2.0, float("nan")]]), torch.tensor([0, 0, 0]))
    tensor([ True, False,  True])
    """
    rounding = 1e-5 * logits.nan_to_num(0.0, 0.0, 0.0).abs().amax(1)
    return (label_lead(logits, labels) < -rounding) | logits.isnan().any(1)


def _loss_of(
    name: str, model: nn.Module, labels: Tensor, targets: Tensor | None
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def loss(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits, mine = model(points), labels[rows]
        if targets is not None:
            measure = targeted_dlr if name == "targeted-dlr" else _ahead
            heights = measure(logits, mine, targets[rows])
        else:
            heights = dlr(logits, mine) if name == "dlr" else F.cross_entropy(logits, mine, reduction="none")
        return heights, clearly_wrong(logits.detach(), mine)

    return loss


def _ascent(
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], points: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        heights, fell = loss(points, rows)
        (gradient,) = torch.autograd.grad(heights.sum(), points)
    # NaN is no height to climb from: where infinite logits give it, the climb goes back to its best point.
    return heights.detach().nan_to_num(-torch.inf, torch.inf, -torch.inf), gradient.nan_to_num(), fell


def _ahead(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    of_target, of_label = (logits.gather(1, classes.view(-1, 1)).flatten() for classes in (targets, labels))
    return of_target - of_label


def label_lead(logits: Tensor, labels: Tensor) -> Tensor:
    """[B]: by how much the label leads the best other class, where [B, K] are the logits."""
    return -_ahead(logits, labels, likely_targets(logits.detach(), labels, 1)[0])


def _where(chosen: Tensor, points: Tensor, others: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1), points, others)
