"""The simulated oracle: labels that are known and held back, and the ways in which an annotator errs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robal.errors import InputError
from robal.pool import UNLABELLED, Pool
from robal.seeds import generator

Kind = Literal["symmetric", "flip1", "flip2", "instance"]
_SPREAD = 0.1  # of the chances of single images, for kind="instance"


@dataclass(frozen=True)
class Hidden:
    """Answers with the held-back labels, now and then with a wrong class.

    Args:
        noise: chance, in [0, 1], that an answer is another class. The same image gets the same answer whenever it is
            asked about, but for `attempt`.
        labels: [N] int64, filled in by the run from its data; not a part of the plan.
        kind: which other class. "symmetric": any, evenly. "flip1": for each class always the same one. "flip2": for
            each class one of the same two, evenly. "instance": it depends on the image x: its own chance q is drawn
            from a normal distribution around `noise` with deviation 0.1, cut off at 0 and 1, and the class from
            softmax(W_y x) without y, W_y of standard normal entries for each class y and pixels in [0, 1].
        unforeseen: what it says of a class that the data keep secret (`data.unforeseen`): "new" names it, so that it is
            a class from this round on; "none" says that it is none of the classes.
        attempt: whom is asked: 0, or another number for an answer by somebody else, who errs apart from the first; not
            a part of the plan.

    Source: "flip1" and "flip2" as in CAAT's released code; "instance": Xia et al., NeurIPS 2020, arXiv 2006.07836.

    Differs: symmetric noise in CAAT's code may draw the true class too, so that its rate means nine tenths of ours.
    """

    noise: float = 0.0
    labels: Tensor | None = None
    kind: Kind = "symmetric"
    attempt: int = 0
    unforeseen: Literal["new", "none"] = "new"

    PRIVATE = ("labels", "attempt")

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise is a chance in [0, 1]; {self.noise} came")
        if self.unforeseen not in ("new", "none"):
            raise InputError(f"oracle.unforeseen is new or none; not {self.unforeseen!r}")
        if self.kind not in get_args(Kind):
            raise InputError(f"the kind of noise is one of {', '.join(get_args(Kind))}; not {self.kind!r}")

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        if self.labels is None:
            raise InputError(
                "this data has no held-back labels to simulate an annotator with; "
                "use oracle=CSVFile and fill in the labels yourself"
            )
        answers = self.labels[indices].clone()
        if (answers == UNLABELLED).any():
            raise InputError(
                "some of the images asked about have no held-back label; use oracle=CSVFile and fill them in yourself"
            )
        if not self.noise:
            return answers
        classes, draw = len(pool.classes), self._draw(seed)
        if self.kind == "flip2" and classes < 3:
            raise InputError(f"noise of the kind flip2 needs three classes; there are {classes}")
        wrong = torch.rand(len(pool), generator=draw)[indices] < self._chances(len(pool), indices, seed)
        if self.kind == "instance":
            return torch.where(wrong, self._by_instance(pool, indices, answers, draw, seed), answers)
        if self.kind == "symmetric":
            shift = torch.randint(1, classes, (len(pool),), generator=draw)[indices]
        else:
            ways = 1 if self.kind == "flip1" else 2
            others = torch.stack(
                [
                    1 + torch.randperm(classes - 1, generator=generator(seed, "flips", own))[:ways]
                    for own in range(classes)
                ]
            )
            which = torch.randint(ways, (len(pool),), generator=draw)[indices]
            shift = others[answers, which]
        return torch.where(wrong, (answers + shift) % classes, answers)

    def _draw(self, seed: int) -> torch.Generator:
        return generator(seed, "label noise", self.attempt) if self.attempt else generator(seed, "label noise")

    def _chances(self, count: int, indices: Tensor, seed: int) -> float | Tensor:
        if self.kind != "instance":
            return self.noise
        drawn, draw = torch.full((count,), -1.0), generator(seed, "chances")
        while bool((outside := (drawn < 0) | (drawn > 1)).any()):
            again = self.noise + _SPREAD * torch.randn(count, generator=draw)
            drawn = torch.where(outside, again, drawn)
        return drawn[indices]

    def _by_instance(self, pool: Pool, indices: Tensor, own: Tensor, draw: torch.Generator, seed: int) -> Tensor:
        """[n]: a wrong class for each image, by what it looks like."""
        classes, pixels = len(pool.classes), pool.images.batch(indices, torch.device("cpu")).flatten(1)
        scores = torch.empty(len(indices), classes)
        for label in own.unique().tolist():
            weight = torch.randn(pixels.shape[1], classes, generator=generator(seed, "directions", label))
            scores[own == label] = pixels[own == label] @ weight
        probs = scores.scatter(1, own[:, None], -torch.inf).softmax(1)
        place = torch.rand(len(pool), generator=draw)[indices]
        found = (probs.cumsum(1) < place[:, None]).sum(1).clamp_max(classes - 1)
        return torch.where(found == own, probs.argmax(1), found)  # rounding, at the very end
