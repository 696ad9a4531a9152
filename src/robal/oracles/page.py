"""People who look at the images on a page in their browser: `robal label` serves it, the run waits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from robal.errors import AwaitingLabels, InputError
from robal.oracles.judgements import Judgements
from robal.pool import Pool


@dataclass(frozen=True)
class Page:
    """Answers with what people said on the page that `robal label` serves.

    Args:
        answers: how many people judge each image, at least 1. The label with the most votes is taken; where none has
            the most, somebody decides. Answers beyond the first of an image count as labels bought.
        place: the run folder, filled in by the run; not a part of the plan.

    Raises:
        AwaitingLabels: as long as an image is not settled.
        InputError: for fewer than one answer.
    """

    answers: int = 1
    place: str = ""

    PRIVATE = ("place",)

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise InputError(f"answers is how many people judge each image, 1 or more; {self.answers} came")

    def inside(self, folder: Path) -> Page:
        """The oracle of the run in this folder."""
        return replace(self, place=str(folder))

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        where = Path(self.place)
        images = indices.tolist()
        found = Judgements(where / "state.sqlite").settled(images, self.answers)
        if found.missing or found.disputed:
            disputed = f", {len(found.disputed)} for a decision" if found.disputed else ""
            raise AwaitingLabels(
                f"{len(found.missing)} of {len(images)} images wait for a label{disputed}: `robal label {where}` opens "
                "the page to give them on, then `robal resume`"
            )
        return torch.tensor([found.labels[image] for image in images], dtype=torch.int64)
