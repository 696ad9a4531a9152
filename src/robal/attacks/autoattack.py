"""AutoAttack standard, the evaluation that claims rest on, by pyautoattack behind guards.

pyautoattack carries the official mathematics and checks nothing: it accepts pixels outside [0, 1], models in training
mode, three classes (where the targeted DLR loss is undefined), and always nine targets. This wrapper refuses or sets
each of these right, keeps the caller's random state, and attacks only images that still stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyautoattack
import torch
from torch import Tensor, nn

from robal.errors import InputError
from robal.progress import track
from robal.threats import L2, Linf, Threat

_PARTS = {"standard": ("apgd-ce", "apgd-t", "fab-t", "square"), "reduced": ("apgd-ce", "fab-t", "square")}


@dataclass(frozen=True)
class AutoAttack:
    """APGD-CE, targeted APGD-DLR, targeted FAB and Square, one after the other, on the images that still stand.

    Args:
        version: "standard"; or "reduced", which leaves out APGD-T, for two or three classes, where it is undefined.
            Only the first is AutoAttack as the literature means it, and only the first is called so in results.
        batch_size: images attacked together; part of the result, since the random streams restart with each batch.
        threat: `Linf` or `L2`; None: the plan's; alone, Linf(8/255).

    Raises:
        InputError: for fewer than four classes with "standard", or a threat of another norm.

    Source: Croce and Hein, ICML 2020, arXiv 2003.01690; targets min(9, K - 1), 100 iterations, 5,000 queries.
    """

    version: Literal["standard", "reduced"] = "standard"
    batch_size: int = 250
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if self.version not in _PARTS:
            raise InputError(f"AutoAttack's version is one of {', '.join(_PARTS)}; not {self.version!r}")
        if self.batch_size < 1:
            raise InputError(f"AutoAttack's batch_size must be positive; {self.batch_size} came")

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return "AutoAttack" if self.version == "standard" else "AutoAttack-reduced"

    @property
    def passes(self) -> int:
        """Gradient evaluations that an image which stands to the end costs, about: forward passes count a third."""
        targeted = 900 if self.version == "standard" else 0
        return 100 + targeted + 9 * 100 * 2 + 5000 // 3

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        threat = self.threat or Linf()
        if not isinstance(threat, Linf | L2):
            raise InputError(f"AutoAttack knows the threats Linf and L2; not {threat}")
        if model.training:
            raise InputError("AutoAttack needs a model in eval mode; call it through `perturb`")
        with torch.no_grad():
            predicted = _predict(model, inputs, self.batch_size)
            classes = model(inputs[:1]).shape[1]
        if self.version == "standard" and classes < 4:
            raise InputError(
                f"AutoAttack standard needs at least 4 classes, because the targeted DLR loss is undefined below; "
                f"this model has {classes}. Use {{name: AutoAttack, version: reduced}}"
            )
        if threat.eps == 0:
            return inputs
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))
        parts = _parts(self.version, model, threat, classes, seed, inputs.device)
        result = inputs.clone()
        standing = (predicted == labels).nonzero().flatten()
        with torch.random.fork_rng(), torch.no_grad():
            for name, attack in parts.items():
                broken = []
                for chunk in track(standing.split(self.batch_size), f"AutoAttack: {name}, {len(standing)} images"):
                    moved = attack(inputs[chunk].clone(), labels[chunk].clone())
                    wrong = model(moved).argmax(1) != labels[chunk]
                    result[chunk[wrong]] = moved[wrong]
                    broken.append(wrong)
                if broken:
                    standing = standing[~torch.cat(broken)]
        return result


def _parts(
    version: str, model: nn.Module, threat: Threat, classes: int, seed: int, device: torch.device
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    norm = "Linf" if isinstance(threat, Linf) else "L2"
    official = pyautoattack.AutoAttack(model, eps=threat.eps, norm=norm, seed=seed, device=device, version="standard")
    official.apgd.loss = "ce"
    official.fab.targeted = True
    targets = min(9, classes - 1)
    official.fab.n_target_classes = official.apgd_targeted.n_target_classes = targets
    for attack in (official.apgd, official.apgd_targeted, official.fab, official.square):
        attack.seed = seed
    parts = {
        "apgd-ce": official.apgd.perturb,
        "apgd-t": official.apgd_targeted.perturb,
        "fab-t": official.fab.perturb,
        "square": official.square.perturb,
    }
    return {name: parts[name] for name in _PARTS[version]}


def _predict(model: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in inputs.split(batch_size)])
