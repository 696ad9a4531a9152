"""Bayesian acquisition by Monte Carlo dropout: what the label would tell about the weights, or how unsure they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn, special

from robal.candidates import Candidates
from robal.errors import InputError
from robal.networks import DropoutPasses, check_logits, dropout_places
from robal.progress import say
from robal.seeds import drawn


@dataclass(frozen=True)
class BALD:
    """The n images on whose class `passes` draws of the network disagree most: H(mean p) - mean H(p).

    See `robal.scores.bayesian.bald`. A draw is a forward pass with dropout on and all else in eval mode. A network
    without dropout gets it for the passes at `rate`, where `robal.networks.dropout.dropout_places` says; the networks
    of this package say it themselves. Memory does not grow with `passes`.

    Args:
        passes: T >= 2; one pass cannot disagree.
        rate: of dropout put into a network that has none, in (0, 1).

    Called: [M] float64 in nats, in [0, log C], higher = label me first.

    Raises InputError where the network's dropout takes no part in its forward pass.

    Differs from the paper: the masks of a pass are shared by all images, see `DropoutPasses`. Differs from the DRE
    study's code: its VGG-16 has no effective dropout, and there probabilities of exactly 0 rank an image last.

    Source: Houlsby et al. 2011, arXiv 1112.5745; Gal, Islam, Ghahramani, ICML 2017, arXiv 1703.02910. passes=10 and
    rate=0.1 as in the DRE study, arXiv 2112.02542.
    """

    passes: int = 10
    rate: float = 0.1

    def __post_init__(self) -> None:
        _check("BALD", self.passes, self.rate, least=2)

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        rows = _entropies(candidates, self.passes, self.rate, generator)
        return (rows["of the mean"] - rows["mean"]).clamp_min(0.0)


@dataclass(frozen=True)
class DropOutEntropy:
    """The n images of highest entropy of the mean of `passes` draws of the network: H(mean p).

    See `robal.scores.bayesian.dropout_entropy`; passes, arguments and errors as in `BALD`, but one pass will do.

    Source: Gal, Islam, Ghahramani, ICML 2017, arXiv 1703.02910, as the DRE study uses it, arXiv 2112.02542.
    """

    passes: int = 10
    rate: float = 0.1

    def __post_init__(self) -> None:
        _check("DropOutEntropy", self.passes, self.rate, least=1)

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return _entropies(candidates, self.passes, self.rate, generator)["of the mean"]


@dataclass(frozen=True)
class Entropies:
    """Of a tile: the entropy of the mean of the passes, the mean of their entropies, and the first pass's logits.

    Only sums over the passes are kept, in double: the difference of the two is small.
    """

    passes: int
    rate: float
    seed: int
    _ready: list[DropoutPasses] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if not self._ready or self._ready[0].model is not model:
            self._ready[:] = [DropoutPasses(model, batch, self.rate)]
        draws = self._ready[0](batch, self.passes, self.seed)
        first = next(draws)
        total, expected = _probs_and_entropy(first)
        for logits in draws:
            probs, entropy = _probs_and_entropy(logits)
            total, expected = total + probs, expected + entropy
        of_the_mean = special.entr(total / self.passes).sum(1).clamp_min(0.0)
        return {"of the mean": of_the_mean, "mean": expected / self.passes, "logits": first}


def _probs_and_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    probs = logits.double().softmax(1)
    return probs, special.entr(probs).sum(1)


def _entropies(candidates: Candidates, passes: int, rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    places = dropout_places(candidates.model, rate)
    if any(place.dropout is not place.layer for place in places):
        say(f"the model has no dropout: rate {rate:g} is put {', '.join(str(place) for place in places)}")
    # The masks follow from this seed, and not from the tile's generator: so the tile's size does not matter.
    seed = drawn(generator)
    rows = candidates.map(Entropies(passes, rate, seed))
    if len(candidates):
        check_logits(rows["logits"], len(candidates.pool.classes))
    return rows


def _check(name: str, passes: int, rate: float, least: int) -> None:
    if passes < least:
        raise InputError(f"{name} needs passes >= {least}; {passes} came")
    if not 0 < rate < 1:
        raise InputError(f"{name} needs a dropout rate in (0, 1); {rate} came")
