"""The cheap word on robustness, for every round: two white-box attacks of our own, then a short Square."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks.answers import classes_of
from robal.attacks.apgd import APGD
from robal.attacks.perturb import Attack
from robal.attacks.square import Square
from robal.errors import InputError
from robal.seeds import generator as named
from robal.threats import L2, Linf, Threat


@dataclass(frozen=True)
class Monitor:
    """APGD on the cross-entropy, targeted APGD on what stands, Square on what still stands.

    Its verdict is at most the robust accuracy of each part, and at least the truth, as of any attack. It is near
    AutoAttack's at a fraction of its time; claims rest on `AutoAttack`.

    With two or three classes, where the targeted DLR loss is undefined, the targeted margin takes its place.

    Args:
        steps: gradient steps of each climb.
        targets: wrong classes that targeted APGD aims at, the most likely first; at most K - 1 are.
        square: queries of Square; 0: none.
        threat: `Linf` or `L2`, any threat where square is 0; None: the plan's; alone, Linf(8/255).

    Source: the parts of AutoAttack without FAB; Croce and Hein, ICML 2020, arXiv 2003.01690.
    """

    steps: int = 100
    targets: int = 9
    square: int = 1000
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.targets) < 1 or self.square < 0:
            raise InputError(
                f"Monitor needs steps >= 1, targets >= 1 and square >= 0; "
                f"{self.steps}, {self.targets} and {self.square} came"
            )
        if self.square and not isinstance(self.threat, Linf | L2 | None):
            raise InputError(f"Monitor's Square knows the threats Linf and L2; for {self.threat}, set square to 0")

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return "Monitor"

    @property
    def passes(self) -> int:
        """Gradient evaluations that an image which stands to the end costs, about: forward passes count a third."""
        return sum(part.passes for part in self.parts(4))

    def parts(self, classes: int) -> tuple[Attack, ...]:
        """The attacks, in their order, on a model of so many classes."""
        targeted = APGD("targeted-dlr" if classes > 3 else "targeted-margin", self.steps, 1, self.targets, self.threat)
        white = (APGD("ce", self.steps, threat=self.threat), targeted)
        return (*white, Square(self.square, threat=self.threat)) if self.square else white

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        # A stream for each part, so that no part's noise depends on how many images stood before it.
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))
        result = inputs.clone()
        with torch.no_grad():
            logits = model(inputs)
        standing = (classes_of(logits) == labels).nonzero().flatten()
        for number, part in enumerate(self.parts(logits.shape[1])):
            if len(standing) == 0:
                break
            noise = named(seed, part.label, device=generator.device)
            moved = part(model, inputs[standing], labels[standing], noise)
            with torch.no_grad():
                wrong = classes_of(model(moved)) != labels[standing]
            # An image that stands to the end comes back as the first part left it, at its highest cross-entropy.
            kept = wrong if number else torch.ones_like(wrong)
            result[standing[kept]] = moved[kept]
            standing = standing[~wrong]
        return result
