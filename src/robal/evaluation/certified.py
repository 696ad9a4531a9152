"""Robustness that is proved, and the sandwich: certified ≤ worst case over all attacks ≤ each attack ≤ clean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from robal.attacks.deepfool import Norm, check_norm
from robal.errors import ContractError, InputError
from robal.evaluation.accuracy import clean
from robal.images import unit
from robal.networks import frozen, home_of, interval_bounds, is_affine
from robal.progress import track
from robal.threats import Linf

_RESERVE = 1e-5  # of the largest logit bound: what float32 passes of the model itself may stray by rounding


def certified(model: nn.Module, inputs: Tensor, labels: Tensor, eps: float, batch_size: int = 100) -> Tensor:
    """Which images no perturbation of at most `eps` a pixel can break, proved by interval bounds.

    An image is certified if it is classified correctly and min_k (z_y - z_k) > 0 over the whole box
    [max(x - eps, 0), min(x + eps, 1)], by `interval_bounds`. An image that is not certified may be robust all the same:
    on networks that were not trained for it, the bounds prove next to nothing at the usual radii.

    Args:
        model: of the layers that `interval_bounds` knows; left as it was.
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        eps: radius of the Linf ball, in [0, 1]; at 0 an image is certified if it is classified correctly.
        batch_size: images bounded together.

    Returns:
        [N] bool, on the CPU.

    Raises:
        InputError: for inputs, labels or a radius that cannot be right, and a layer without a rule, which is named.
        ContractError: for a model that computes something else than its layers, for example by a hook.

    Differs from the paper: bounds are computed in double precision, and must exceed 1e-5 of the largest logit bound,
    for the rounding of the model itself, which runs in float32.

    Source: Gowal et al., arXiv 1810.12715 (2018), section 3.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0], [0.0]]))
    >>> certified(model, torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), 0.25)  # z_0 - z_1 ≥ 0.25
    tensor([True])
    """
    Linf(eps)  # refuses what is no radius
    if batch_size < 1:
        raise InputError(f"batch_size must be positive; {batch_size} came")
    standing = clean(model, inputs, labels).correct
    device = home_of(model)
    with frozen(model), torch.no_grad():
        _check_reading(model, unit(inputs[:2].to(device)))
        if eps == 0:  # the box is the image, on which the model itself has the last word
            return standing
        for chunk in track(standing.nonzero().flatten().split(batch_size), f"certified, eps = {eps:g}"):
            pixels, classes = unit(inputs[chunk].to(device)).double(), labels[chunk].to(device)
            bounds = interval_bounds(model, (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=1), classes)
            margins = bounds.margins.scatter(1, classes[:, None], torch.inf)
            reserve = _RESERVE * torch.maximum(bounds.low.abs(), bounds.high.abs()).amax(1)
            standing[chunk] = (margins.amin(1) > reserve).cpu()
    return standing


def linear_radius(model: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm = "linf") -> Tensor:
    """How far a linear model's images can move in [0, 1] before one is misclassified: the exact radius of each.

    With d = w_y - w_k and m = z_y - z_k, the nearest point where class k draws level lies in the Linf norm at the t
    with Σ |d_i| · min(t, c_i) = m, and in L2 at δ_i = min(t |d_i|, c_i) with Σ |d_i| · δ_i = m; c_i is how far pixel
    i can go against d_i within [0, 1]. Where no pixel gets so far these are m / ‖d‖₁ and m / ‖d‖₂. The radius is the
    smallest over k.

    Args:
        model: affine: Linear, Conv2d, BatchNorm2d, Normalise, average pooling, Flatten and sums; left as it was.
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        norm: "linf" or "l2".

    Returns:
        [N] float64, on the CPU: the radius below which nothing breaks the image; 0 where it is misclassified,
        infinity where every image in [0, 1] gets this label.

    Raises:
        InputError: for a model that is not affine, and as `certified`.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, arXiv 1511.04599, section 2, for the distance to a
    hyperplane; the box by the conditions of Karush, Kuhn and Tucker.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> image, label = torch.tensor([[[[0.75, 0.25]]]]), torch.tensor([0])  # z = (2.25, 1), d = (3, -4)
    >>> linear_radius(model, image, label, "l2"), linear_radius(model, image, label).mul(7)  # 1.25 / 5, 1.25 / 7
    (tensor([0.2500], dtype=torch.float64), tensor([1.2500], dtype=torch.float64))
    """
    check_norm("linear_radius", norm)
    if not is_affine(model):
        raise InputError("linear_radius needs an affine model, and this one has ReLU or maximum pooling: use certified")
    right = clean(model, inputs, labels).correct
    device = home_of(model)
    with frozen(model):
        _check_reading(model, unit(inputs[:2].to(device)))
        weight, bias = (part.cpu() for part in _affine_map(model, unit(inputs[:1].to(device)).double()))
    pixels = unit(inputs.cpu()).double().flatten(1)
    logits = pixels @ weight.T + bias
    radius = torch.full((len(pixels),), torch.inf, dtype=torch.float64)
    for k in range(len(weight)):
        lead, gap = weight[labels] - weight[k], logits.gather(1, labels[:, None])[:, 0] - logits[:, k]
        room = torch.where(lead > 0, pixels, 1 - pixels)
        radius = torch.where(labels == k, radius, torch.minimum(radius, _distance(lead.abs(), room, gap, norm)))
    return torch.where(right, radius, 0.0)


@dataclass(frozen=True)
class Violation:
    """Images of which two verdicts contradict each other.

    Args:
        below: the verdict that stands for them though it must not.
        above: the verdict that falls for them though it includes the other.
        images: their positions, ascending.
        meaning: what must be wrong.
    """

    below: str
    above: str
    images: tuple[int, ...]
    meaning: str

    def __str__(self) -> str:
        some = ", ".join(map(str, self.images[:5])) + (", …" if len(self.images) > 5 else "")
        return f"{self.below} but not {self.above}, {len(self.images)} images ({some}): {self.meaning}"


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Verdicts on the same N images under one threat, from the strictest to the mildest.

    Args:
        certified: [N] bool.
        per_attack: [N] bool each, by the attack's label.
        clean: [N] bool.
        violations: where the order does not hold.
    """

    certified: Tensor
    per_attack: dict[str, Tensor]
    clean: Tensor
    violations: tuple[Violation, ...]

    @property
    def holds(self) -> bool:
        """Image by image."""
        return not self.violations

    @property
    def worst_case(self) -> Tensor:
        """[N] bool: right on the image itself and under every attack."""
        return torch.stack([self.clean, *self.per_attack.values()]).all(0)

    @property
    def accuracies(self) -> dict[str, float]:
        """In [0, 1], in the order in which they should rise; attacks by their result."""
        attacks = sorted(self.per_attack.items(), key=lambda item: int(item[1].sum()))
        parts = {"certified": self.certified, "worst case": self.worst_case, **dict(attacks), "clean": self.clean}
        return {name: float(part.double().mean()) for name, part in parts.items()}

    def __str__(self) -> str:
        line = " ≤ ".join(f"{name} {accuracy:.1%}" for name, accuracy in self.accuracies.items())
        if self.holds:
            return f"{line}: holds for each of {len(self.clean)} images"
        return "\n".join([f"{line}: VIOLATED", *map(str, self.violations)])


def sandwich(certified: Tensor, per_attack: Mapping[str, Tensor], clean: Tensor) -> Sandwich:
    """Whether certified ≤ worst case over all attacks ≤ each single attack ≤ clean, image by image.

    Certified images are robust to whatever stays inside the threat, and attacks only take away: where this does not
    hold, the bound or an attack is broken, or they were not given the same model, images and threat.

    Args:
        certified: [N] bool, by `certified`, or another sound method.
        per_attack: [N] bool each, by the attack's label: right on the image and under the attack.
        clean: [N] bool, right on the image.

    Returns:
        `Sandwich`; a violation is a result, not an error.

    Raises:
        InputError: for verdicts that are not bool, or not of one length; and for an attack called "certified",
            "worst case" or "clean".

    >>> proved, stands, right = torch.tensor([1, 0, 0]) > 0, torch.tensor([1, 1, 0]) > 0, torch.tensor([1, 1, 1]) > 0
    >>> print(sandwich(proved, {"PGD-50": stands}, right))
    certified 33.3% ≤ worst case 66.7% ≤ PGD-50 66.7% ≤ clean 100.0%: holds for each of 3 images
    """
    taken = {"certified", "worst case", "clean"} & set(per_attack)
    if taken:
        raise InputError(f"an attack is called {min(taken)!r}, like a verdict of the sandwich: give it another name")
    verdicts = {"certified": certified, **per_attack, "clean": clean}
    for name, verdict in verdicts.items():
        if verdict.dtype != torch.bool or verdict.shape != clean.shape or clean.ndim != 1 or len(clean) == 0:
            raise InputError(
                f"the verdicts of a sandwich are bool tensors of one length [N], N >= 1; {name!r} is "
                f"{str(verdict.dtype).split('.')[-1]} {list(verdict.shape)}, clean has {list(clean.shape)}"
            )
    verdicts = {name: verdict.cpu() for name, verdict in verdicts.items()}
    violations = []
    for below, above in combinations(verdicts, 2):
        if below != "certified" and above != "clean":
            continue  # one attack need not break what another breaks
        images = (verdicts[below] & ~verdicts[above]).nonzero().flatten().tolist()
        if images:
            violations.append(Violation(below, above, tuple(images), _meaning(below, above)))
    attacks = {name: verdicts[name] for name in per_attack}
    return Sandwich(verdicts["certified"], attacks, verdicts["clean"], tuple(violations))


def _meaning(below: str, above: str) -> str:
    if below != "certified":
        return "the attack's verdicts stand for images that the model gets wrong unattacked, or are of another model"
    if above == "clean":
        return "the bound is not sound, or is of another model or other images"
    return "the bound is not sound, or the attack left the threat or met another model, threat or order of images"


def _check_reading(model: nn.Module, few: Tensor) -> None:
    """Refuse a model that computes something else than what its layers, as they are read, come to."""
    with torch.no_grad():
        pixels = few.double()
        read = interval_bounds(model, pixels, pixels, torch.zeros(len(few), dtype=torch.int64, device=few.device)).low
        computed = model(few.clone()).double()
    if read.shape != computed.shape or not torch.allclose(read, computed, 1e-3, 1e-3 * float(computed.abs().max())):
        raise ContractError(
            "the model computes something else than its layers, one after the other (a hook, randomness, or a forward "
            "that depends on the data): interval bounds would not hold for it"
        )


def _affine_map(model: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [K, d] and bias [K] of an affine model, in double precision, from its gradients at a black image."""
    with torch.enable_grad():
        black = torch.zeros_like(like).requires_grad_()
        label = torch.zeros(1, dtype=torch.int64, device=like.device)
        bias = interval_bounds(model, black, black, label).low[0]
        rows = [torch.autograd.grad(logit, black, retain_graph=True)[0].flatten() for logit in bias.unbind()]
    return torch.stack(rows), bias.detach()


def _distance(steep: Tensor, room: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """[N]: the norm of the smallest δ with 0 ≤ δ ≤ room and Σ steep · δ = gap; infinity where there is none.

    δ_i = min(t · g_i, room_i), g = 1 for Linf and g = steep for L2, so Σ steep · δ rises with t in straight pieces
    that end where a pixel comes to its end; the piece with the gap in it is found by sorting those ends.
    """
    growth = torch.ones_like(steep) if norm == "linf" else steep
    ends, order = torch.where(steep > 0, room / growth, torch.inf).sort(1)
    slopes, gains = (steep * growth).gather(1, order), (steep * room).gather(1, order)
    spent = gains.cumsum(1) - gains  # by the pixels that came to their end before this one
    free = slopes.flip(1).cumsum(1).flip(1)  # the slope of those that did not
    times = torch.where(free > 0, (gap[:, None] - spent) / free, torch.inf)
    fits = times <= ends
    first = fits.int().argmax(1, keepdim=True)
    time = torch.where(fits.any(1), times.gather(1, first)[:, 0], torch.inf).clamp_min(0)
    if norm == "linf":
        return time
    length: Tensor = torch.minimum(time[:, None] * steep, room).norm(dim=1)
    return torch.where(time.isfinite(), length, torch.inf)
