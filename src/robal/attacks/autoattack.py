"""AutoAttack standard, the evaluation that claims rest on, by pyautoattack behind guards.

pyautoattack carries the official mathematics and checks nothing: it accepts pixels outside [0, 1], models in training
mode, three classes (where the targeted DLR loss is undefined), and always nine targets. This wrapper refuses or sets
each of these right, keeps the caller's random state, and attacks only images that still stand. Each of its four attacks
is a `Stage`, a value that can be run alone: what a stage does to a batch depends on nothing that ran before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyautoattack
import torch
from torch import Tensor, nn

from robal.attacks.answers import classes_of
from robal.attacks.square import margins
from robal.errors import InputError
from robal.progress import track
from robal.threats import L2, Linf, Threat

_STAGES = {"standard": ("apgd-ce", "apgd-t", "fab-t", "square"), "reduced": ("apgd-ce", "fab-t", "square")}


@dataclass(frozen=True)
class AutoAttack:
    """APGD-CE, targeted APGD-DLR, targeted FAB and Square, one after the other, on the images that still stand.

    Where the model answers NaN at a point that an attack returns, the image is broken. But pyautoattack takes the NaN
    for the largest logit while it searches, and may pass by where it is the label's; `Monitor` does not.

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
        if self.version not in _STAGES:
            raise InputError(f"AutoAttack's version is one of {', '.join(_STAGES)}; not {self.version!r}")
        if self.batch_size < 1:
            raise InputError(f"AutoAttack's batch_size must be positive; {self.batch_size} came")
        if not isinstance(self.threat, Linf | L2 | None):
            raise InputError(f"AutoAttack knows the threats Linf and L2; not {self.threat}")

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return "AutoAttack" if self.version == "standard" else "AutoAttack-reduced"

    @property
    def passes(self) -> int:
        """Gradient evaluations that an image which stands to the end costs, about: forward passes count a third."""
        return sum(Stage(name).passes for name in _STAGES[self.version])

    def stages(self, classes: int, seed: int) -> tuple[Stage, ...]:
        """Its attacks in their order, for a model of so many classes; `seed` as pyautoattack takes it.

        Raises:
            InputError: for fewer than four classes with "standard".

        >>> [stage.targets for stage in AutoAttack().stages(5, seed=0)]
        [4, 4, 4, 4]
        """
        threat = self.threat or Linf()
        if self.version == "standard" and classes < 4:
            raise InputError(
                f"AutoAttack standard needs at least 4 classes, because the targeted DLR loss is undefined below; "
                f"this model has {classes}. Use {{name: AutoAttack, version: reduced}}"
            )
        return tuple(Stage(name, threat, min(9, classes - 1), seed) for name in _STAGES[self.version])

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if model.training:
            raise InputError("AutoAttack needs a model in eval mode; call it through `perturb`")
        with torch.no_grad():
            predicted = torch.cat([classes_of(model(part)) for part in inputs.split(self.batch_size)])
            classes = model(inputs[:1]).shape[1]
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))
        stages = self.stages(classes, seed)
        if stages[0].threat.eps == 0:
            return inputs
        result = inputs.clone()
        standing = (predicted == labels).nonzero().flatten()
        for stage in stages:
            broken = []
            for chunk in track(standing.split(self.batch_size), f"AutoAttack: {stage.name}, {len(standing)} images"):
                if len(chunk) == 0:
                    continue
                moved = stage(model, inputs[chunk], labels[chunk])
                with torch.no_grad():
                    wrong = classes_of(model(moved)) != labels[chunk]
                result[chunk[wrong]] = moved[wrong]
                broken.append(wrong)
            if broken:
                standing = standing[~torch.cat(broken)]
        return result


@dataclass(frozen=True)
class Stage:
    """One of AutoAttack's attacks, as pyautoattack runs it on one batch: a function of its fields and the batch alone.

    pyautoattack restarts its random streams from the same seed with every batch of every attack, so a stage needs no
    other; the generator that the gate hands to every attack stays untouched.

    Args:
        name: "apgd-ce", "apgd-t", "fab-t" or "square".
        threat: `Linf` or `L2`.
        targets: classes that the targeted attacks aim at, at most K - 1.
        seed: as pyautoattack takes it.

    Raises:
        InputError: for Square within L2 on images below 5 x 5, which it divides into a grid of 5 x 5 tiles.

    Source: Croce and Hein, ICML 2020, arXiv 2003.01690.
    """

    name: str
    threat: Threat = Linf()
    targets: int = 9
    seed: int = 0

    @property
    def label(self) -> str:
        """As it is called in messages."""
        return f"AutoAttack's {self.name}"

    @property
    def passes(self) -> int:
        """Gradient evaluations that an image which stands costs, about: forward passes count a third."""
        cost = {"apgd-ce": 100, "apgd-t": 100 * self.targets, "fab-t": 200 * self.targets, "square": 5000 // 3}
        return cost[self.name]

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        norm = "Linf" if isinstance(self.threat, Linf) else "L2"
        if self.name == "square" and norm == "L2" and min(inputs.shape[2:]) < 5:
            raise InputError(f"Square within L2 needs images of at least 5 x 5; these are {list(inputs.shape[2:])}")
        official = pyautoattack.AutoAttack(
            model, eps=self.threat.eps, norm=norm, seed=self.seed, device=inputs.device, version="standard"
        )
        official.fab.targeted = True
        official.fab.n_target_classes = official.apgd_targeted.n_target_classes = self.targets
        official.square.margin_and_loss = partial(margins, model)
        attacks = {
            "apgd-ce": official.apgd,
            "apgd-t": official.apgd_targeted,
            "fab-t": official.fab,
            "square": official.square,
        }
        with torch.random.fork_rng([inputs.device] if inputs.device.type == "cuda" else []), torch.no_grad():
            moved = attacks[self.name].perturb(inputs.clone(), labels.clone()).detach()
        # It follows a gradient of NaN to pixels of NaN, which are no adversary.
        return torch.where(moved.flatten(1).isnan().any(1).view(-1, 1, 1, 1), inputs, moved)
