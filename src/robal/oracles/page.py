"""People who look at the images on a page in their browser: `robal label` serves it, the run waits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robal.errors import AwaitingLabels
from robal.oracles.people import People
from robal.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Page(People):
    """Answers with what people said on the page that `robal label` serves; its fields are those of `People`.

    Raises:
        AwaitingLabels: as long as an image is not settled.
        InputError: for fewer than one answer.
    """

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        images = indices.tolist()
        found = self.said.settled(images, self.answers)
        if found.missing or found.disputed:
            disputed = f", {len(found.disputed)} for a decision" if found.disputed else ""
            raise AwaitingLabels(
                f"{len(found.missing)} of {len(images)} images wait for a label{disputed}: `robal label {self.place}` "
                "opens the page to give them on, then `robal resume`"
            )
        return torch.tensor([found.labels[image] for image in images], dtype=torch.int64)
