"""Every error that robal raises on purpose; each says what was expected, what came and what to do.

RobalError                      exit code 1
├── InputError                  2   pixels, labels, shapes or numbers that cannot be right
│   └── ContractError           2   a component (model, acquisition function, attack) broke its contract
├── PlanError                   2   a plan that cannot be run; lists all its mistakes at once
├── DataError                   2
│   ├── DataMissing             2   files that are not where they were looked for
│   └── DataCorrupt             2   files that are there and are wrong
├── PoolExhausted               2   more images asked for than the pool has
├── RunFolderError              4   a run folder that cannot be used or written
│   └── FolderInUse             4   another process is running there
├── LabelStudioError            4   Label Studio cannot be reached, or refuses; called again, the run goes on
└── AwaitingLabels              3   not a failure: a person has to answer, then `robal resume` goes on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobalError(Exception):
    """The root: catch it to catch everything that robal raises on purpose."""

    exit_code = 1


class InputError(RobalError, ValueError):
    """Pixels, labels, shapes or numbers that cannot be right."""

    exit_code = 2


class ContractError(InputError):
    """A component broke its contract, for example a model that returns probabilities."""


class PlanError(RobalError, ValueError):
    """A plan that cannot be run. `mistakes` holds one sentence each."""

    exit_code = 2

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        head = "the plan has a mistake" if len(self.mistakes) == 1 else f"the plan has {len(self.mistakes)} mistakes"
        super().__init__(f"{head}: " + "; ".join(self.mistakes))


class DataError(RobalError):
    """A data set that cannot be used."""

    exit_code = 2


class DataMissing(DataError, FileNotFoundError):
    """Files that are not where they were looked for."""


class DataCorrupt(DataError):
    """Files that are there and are wrong: truncated, or with another checksum."""


class PoolExhausted(RobalError):
    """More images asked for than the pool has left."""

    exit_code = 2


class RunFolderError(RobalError):
    """A run folder that cannot be used or written."""

    exit_code = 4


class FolderInUse(RunFolderError):
    """Another process is running in the folder."""


class LabelStudioError(RobalError):
    """Label Studio cannot be reached, or refuses; nothing is lost, and the run goes on when it is called again."""

    exit_code = 4


class AwaitingLabels(RobalError):
    """A person has to answer before the run can go on; nothing is lost."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one, or all of them.

    >>> did_you_mean("Margn", ["DRE", "Margin"])
    "did you mean 'Margin'?"
    >>> did_you_mean("xyz", ["DRE", "Margin"])
    'known: DRE, Margin'
    """
    known = sorted(known)
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"did you mean {lower[near[0]]!r}?" if near else "known: " + ", ".join(known)
