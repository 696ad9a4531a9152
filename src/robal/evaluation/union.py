"""All attacks together: every image at its worst, and accuracy against the size of the change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robal.attacks import PGD, DeepFool, perturb
from robal.evaluation.accuracy import predict
from robal.evaluation.ledger import Ledger
from robal.images import unit
from robal.networks import frozen, home_of
from robal.progress import track
from robal.seeds import generator
from robal.threats import Linf, Threat, with_threat

HARDEST = PGD(steps=20)
ADVERSARIAL_BY = (
    "An image that an attack broke is shown as the first attack that did so left it; one that stands, as the point of "
    f"higher cross-entropy of the image itself and where {HARDEST.label} ends; one that was wrong before, as it is."
)
CURVE_BY = (
    "The smallest change found for each image, by DeepFool or by an attack in the same norm: an upper bound that falls "
    "with ε, and at the radius of an attack never lies above what stands under it."
)


def adversaries(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    ledgers: Sequence[Ledger],
    standing: Tensor,
    threat: Threat,
    seed: int,
) -> Tensor:
    """[N, C, H, W] float32: each image as `ADVERSARIAL_BY` says; `standing`, [N] bool: those that no attack broke."""
    moved = unit(inputs).clone()
    for ledger in reversed(ledgers):
        if ledger.adversaries is not None:
            moved[ledger.broken] = ledger.adversaries
    attack, device = with_threat(HARDEST, threat), home_of(model)
    for number, batch in enumerate(track(standing.nonzero().flatten().split(250), "what stands, at its worst")):
        if len(batch) == 0:
            continue
        images, truth = moved[batch], labels[batch]
        noise = generator(seed, "hardest", number)
        points = perturb(attack, model, images.to(device), truth.to(device), noise).cpu()
        before, after = (answers(model, part, truth).gather(1, truth[:, None])[:, 0] for part in (images, points))
        moved[batch[after < before]] = points[after < before]
    return moved


def answers(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 256) -> Tensor:
    """[N, K] float64: a model's probabilities, of adversaries too, where it may answer NaN.

    Such an answer is a wrong one: the label's share is 0, that of every other class is 1 / (K - 1). Infinite logits are
    the largest there are. Arguments as in `probabilities`, and labels, [N] int64 in [0, K).

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    >>> _ = model[1].bias.data.fill_(torch.nan)
    >>> answers(model, torch.ones(1, 1, 1, 1), torch.tensor([0]))
    tensor([[0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    device = home_of(model)
    with frozen(model), torch.no_grad():
        logits = torch.cat([model(unit(part.to(device))).cpu().double() for part in inputs.split(batch_size)])
    probs = logits.nan_to_num(torch.nan, 1e300, -1e300).softmax(1)
    wrong = torch.full_like(probs, 1 / (probs.shape[1] - 1)).scatter_(1, labels[:, None], 0.0)
    return torch.where(probs.isnan().any(1, keepdim=True), wrong, probs)


def curve(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    threat: Threat,
    attacked: Sequence[tuple[Threat | None, Tensor, Tensor | None]],
    most: int = 500,
) -> dict[str, Any]:
    """Accuracy of the first images against ε, by the smallest change that is known to break each: an upper bound.

    The change is DeepFool's or that of one of the attacks, which are in the threat's norm; so the curve falls, and at
    an attack's ε and above it never lies over what the attack left standing.

    Args:
        attacked: an attack each: its threat, the positions of the images it broke, and these as it left them.
    """
    images, labels, device = unit(inputs[:most]), labels[:most], home_of(model)
    deepfool = DeepFool("linf" if isinstance(threat, Linf) else "l2")
    parts = [deepfool(model, part.to(device)) for part in track(images.split(128), "accuracy against eps")]
    change, flipped = (torch.cat([getattr(part, name).cpu() for part in parts]) for name in ("adversaries", "flipped"))
    reach = torch.where(flipped, threat.size(change - images).double(), torch.inf)
    reach[predict(model, images) != labels] = 0.0
    for within, broken, left in attacked:
        here = broken < most
        if left is not None and within is not None:
            positions = broken[here]
            size = threat.size(left[here] - images[positions]).double()
            reach[positions] = torch.minimum(reach[positions], size.clamp(max=within.eps))  # not beyond it by rounding
    radii = [2 * (threat.eps or 0.05) * (step / 40) for step in range(41)]
    standing = [(reach > radius).double().mean().item() for radius in radii]
    about = {"by": "DeepFool and the attacks", "text": CURVE_BY, "images": len(labels)}
    return about | {"eps": radii, "accuracy": standing}
