"""Any acquisition function in the eyes of another network, trained on the same labels for this alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of, needs_of, parts_of
from robal.acquisition.uncertainty import Margin
from robal.candidates import Candidates
from robal.errors import InputError
from robal.networks import Architecture, LeNet5
from robal.pool import Examples


@dataclass(frozen=True)
class ByProxy:
    """The choice of `inner` by a network of its own: do labels chosen with one network serve another?

    Each round of a run trains `network` as the plan's recipe says, on the same examples as the model that counts,
    and lets `inner` choose by it; what `inner` adds to the training set (twins, pseudo-labels) is the proxy's too.
    With a recipe that starts afresh each round this is DFAL's experiment on transfer: the proxy asks as it might in
    a run of its own (its random streams are others), and the other network is trained on what it asked about. A
    small proxy also makes the choice cheap.

    Args:
        inner: chooses.
        network: builds the proxy. Its training is in the metrics' gradient evaluations and seconds.

    Raises:
        InputError: for an `inner` that needs a teacher, snapshots or a proxy itself: a proxy has none.

    Source: Ducoffe and Precioso, arXiv 1802.09841 (2018), on the transfer between networks; Coleman et al., Selection
    via Proxy, ICLR 2020, arXiv 1906.11829. Alone, give `select(..., proxy=model)`.
    """

    inner: Acquisition | Score = Margin()
    network: Architecture = LeNet5()
    needs: ClassVar[frozenset[str]] = frozenset({"proxy"})

    def __post_init__(self) -> None:
        if needs_of(self.inner):
            raise InputError(
                f"ByProxy chooses by a proxy alone, which has no teacher, no snapshots and no proxy; "
                f"{type(self.inner).__name__} needs {' and '.join(sorted(needs_of(self.inner)))}"
            )

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return choose(self.inner, candidates.by_proxy, n, generator)

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, generator: torch.Generator) -> Examples:
        return examples_of(self.inner, candidates.by_proxy, chosen, labels, generator)


def proxy_in(acquisition: object) -> ByProxy | None:
    """The `ByProxy` that an acquisition function is or holds; None where there is none.

    >>> from robal.acquisition.wrappers import Subsample
    >>> proxy_in(Subsample(ByProxy())) == ByProxy()
    True

    Raises:
        InputError: for two of different networks, of which a run could train but one.
    """
    found = {part.network: part for part in parts_of(acquisition) if isinstance(part, ByProxy)}
    if len(found) > 1:
        raise InputError(f"a run trains one proxy, and ByProxy is there with {len(found)} different networks")
    return next(iter(found.values()), None)
