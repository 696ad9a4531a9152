"""Square, the attack without gradients, by pyautoattack behind guards; what it alone breaks, masked gradients hid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robal.attacks.answers import classes_of
from robal.attacks.apgd import label_lead
from robal.errors import InputError
from robal.threats import L2, Linf, Threat


@dataclass(frozen=True)
class Square:
    """Random search: change one square of the image, keep the change where it lowers the lead of the label.

    Images that are wrong already come back as they are; one that stands to the end, at the lowest lead that was found.
    A point at which the model answers NaN is misclassified, and ends the search of its image.

    Args:
        queries: forward passes of each restart. AutoAttack takes 5,000; headline models deserve 20,000.
        restarts: how often; the second one begins with what still stands.
        threat: `Linf` or `L2`; None: the plan's; alone, Linf(8/255).

    Raises:
        InputError: for another threat, or when L2 meets images below 5 x 5 pixels, on which its squares are not
            defined.

    Differs from the paper: squares shrink by the schedule for 10,000 queries, whatever `queries` is, as in
    AutoAttack; so more queries never raise robust accuracy.

    Source: Andriushchenko, Croce, Flammarion and Hein, ECCV 2020, arXiv 1912.00049.
    """

    queries: int = 5000
    restarts: int = 1
    threat: Threat | None = None

    def __post_init__(self) -> None:
        if min(self.queries, self.restarts) < 1:
            raise InputError(f"Square needs queries >= 1 and restarts >= 1; {self.queries} and {self.restarts} came")
        if not isinstance(self.threat, Linf | L2 | None):
            raise InputError(f"Square knows the threats Linf and L2; not {self.threat}")

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return f"Square-{self.queries}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        """Gradient evaluations that an image which stands to the end costs, about: forward passes count a third."""
        return max(self.queries * self.restarts // 3, 1)

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        threat = self.threat or Linf()
        if isinstance(threat, L2) and min(inputs.shape[-2:]) < 5:
            raise InputError(
                f"Square in L2 needs images of at least 5 x 5 pixels; these are "
                f"{inputs.shape[-2]} x {inputs.shape[-1]}. Take Linf"
            )
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))
        with torch.no_grad():
            logits = model(inputs)
        standing = (classes_of(logits) == labels).nonzero().flatten()
        result = inputs.clone()
        if threat.eps == 0 or len(standing) == 0:
            return result
        search = SquareAttack(
            model,
            norm="Linf" if isinstance(threat, Linf) else "L2",
            n_queries=self.queries,
            eps=threat.eps,
            resc_schedule=False,
            device=inputs.device,
        )
        search.init_hyperparam(inputs)
        search.margin_and_loss = partial(margins, model)
        with torch.random.fork_rng(), torch.no_grad():  # the peer draws from the global stream
            torch.manual_seed(seed)
            for restart in range(self.restarts):
                if len(standing) == 0:
                    break
                moved = search.attack_single_run(inputs[standing], labels[standing])[1]
                wrong = classes_of(model(moved)) != labels[standing]
                kept = wrong if restart else torch.ones_like(wrong)
                result[standing[kept]] = moved[kept]
                standing = standing[~wrong]
        return result


def margins(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What Square minimises, twice: [B] the lead of the label, below 0 where it has none or the model answers NaN.

    It takes the place of pyautoattack's own, which asks the model about a batch of none, loses an image at which the
    margin is no number, and within L2 falls over where all margins are 0 at once.
    """
    lead = label_lead(model(points), labels) if len(points) else points.new_zeros(0)
    lead = torch.where(lead > 0, lead, lead.nan_to_num(-1.0).clamp_max(-1e-30)).clamp_max(1e30)
    return lead, lead.clone()
