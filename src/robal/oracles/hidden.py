"""The simulated oracle: labels that are known and held back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.errors import InputError
from robal.pool import UNLABELLED, Pool
from robal.seeds import generator


@dataclass(frozen=True)
class Hidden:
    """Answers with the held-back labels, now and then with a wrong class.

    Args:
        noise: chance, in [0, 1], that an answer is another class, drawn uniformly. The same image gets the same answer
            whenever it is asked about.
        labels: [N] int64, filled in by the run from its data; not a part of the plan.
    """

    noise: float = 0.0
    labels: Tensor | None = None

    PRIVATE = ("labels",)

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise is a chance in [0, 1]; {self.noise} came")

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
        if self.noise:
            noise = generator(seed, "label noise")
            wrong = torch.rand(len(pool), generator=noise) < self.noise
            shift = torch.randint(1, len(pool.classes), (len(pool),), generator=noise)
            answers = torch.where(wrong[indices], (answers + shift[indices]) % len(pool.classes), answers)
        return answers
