"""What oracles have in common that ask people: how many, of which round, and in which run folder they answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from robal.errors import InputError
from robal.oracles.judgements import Judgements


@dataclass(frozen=True, kw_only=True)
class People:
    """People who judge images; what they say is kept in the run's folder, and the label of an image follows from it.

    Args:
        answers: how many people judge each image, at least 1. The label with the most votes is taken; where none has
            the most, somebody decides. Answers beyond the first of an image count as labels bought.
        place: the run folder, filled in by the run; not a part of the plan.
        round: the one that asks, filled in by the run.

    Raises:
        InputError: for fewer than one answer.
    """

    answers: int = 1
    place: str = ""
    round: int = 0

    PRIVATE: ClassVar[tuple[str, ...]] = ("place", "round")

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise InputError(f"answers is how many people judge each image, 1 or more; {self.answers} came")

    def inside(self, folder: Path, number: int) -> Self:
        """The oracle of the run in this folder, in round `number`."""
        return replace(self, place=str(folder), round=number)

    @property
    def said(self) -> Judgements:
        """What people said in the run."""
        return Judgements(Path(self.place) / "state.sqlite")
