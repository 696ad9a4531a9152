"""How CAAT divides examples between their adversaries and anti-adversaries: learned, or by rules that learn nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adam import adam

from robal.errors import InputError

FEATURES = 6
_HIDDEN = 100


@runtime_checkable
class Weighing(Protocol):
    """A frozen dataclass that says how much of an example's loss is its anti-adversary's."""

    @property
    def sides(self) -> int:
        """How many crafted images an example has: 2, or 1 where the shares are 0 and 1 alone."""
        ...

    @property
    def every(self) -> int:
        """Steps of training between two lessons; 0 where nothing is learned."""
        ...

    def build(self) -> nn.Module:
        """What is learned: [B, 6] normalised features to [B, 2] scores; without parameters where nothing is."""
        ...

    def shares(self, learned: Callable[[Tensor], Tensor], features: Tensor, normalised: Tensor) -> Tensor:
        """[B] float32 in [0, 1], the anti-adversary's share; [B, 6] features as they are, and normalised."""
        ...

    def teach(self, learned: nn.Module, gradients: Mapping[str, Tensor]) -> None:
        """Take a step against the gradients, by the parameters' names; the module keeps what the optimiser needs."""
        ...


@dataclass(frozen=True)
class Learned:
    """softmax(MLP(ζ) / temperature), the MLP with 100 hidden units taught by what its weights do to the meta set.

    Args:
        temperature: > 0. At the released 0.001 the shares are 0 or 1 for nearly all examples, and the softmax then has
            no gradient to learn from.
        every: steps of training between two lessons; 50 in the release.
        lr: of Adam; 0.0001 in the release, at which trainings of a few thousand steps learn next to nothing.
        weight_decay: of Adam.

    Source: Zhou, Yang and Wu, AAAI 2023, arXiv 2304.12550, and its released code.
    """

    temperature: float = 1.0
    every: int = 10
    lr: float = 1e-2
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.every < 1 or not self.lr > 0 or not self.weight_decay >= 0:
            raise InputError(
                "Learned needs temperature > 0, every >= 1, lr > 0 and weight_decay >= 0; "
                f"{self.temperature}, {self.every}, {self.lr} and {self.weight_decay} came"
            )

    sides = 2

    def build(self) -> nn.Module:
        return _Scores()

    def shares(self, learned: Callable[[Tensor], Tensor], features: Tensor, normalised: Tensor) -> Tensor:
        scores: Tensor = learned(normalised)
        return (scores.to(torch.promote_types(scores.dtype, torch.float32)) / self.temperature).softmax(1)[:, 1]

    def teach(self, learned: nn.Module, gradients: Mapping[str, Tensor]) -> None:
        """One step of Adam, whose moments are the module's buffers."""
        assert isinstance(learned, _Scores)
        learned.lessons += 1
        names = list(gradients)
        parameters = dict(learned.named_parameters())
        with torch.no_grad():
            adam(
                [parameters[name] for name in names],
                [gradients[name] for name in names],
                [learned.moment("mean", name) for name in names],
                [learned.moment("square", name) for name in names],
                [],
                [learned.lessons.clone() - 1 for _ in names],
                foreach=False,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.lr,
                weight_decay=self.weight_decay,
                eps=1e-8,
                maximize=False,
            )


class _Scores(nn.Module):
    """The MLP and the moments of its optimiser. Its first weights are drawn from torch's own stream, which stays."""

    lessons: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.hidden, self.out = nn.Linear(FEATURES, _HIDDEN), nn.Linear(_HIDDEN, 2)
        self.requires_grad_(False)  # not the trainer's to train
        for name, parameter in list(self.named_parameters()):
            for moment in ("mean", "square"):
                self.register_buffer(_buffer(moment, name), torch.zeros_like(parameter))
        self.register_buffer("lessons", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.out(F.relu(self.hidden(features)))
        return scores

    def moment(self, which: str, name: str) -> Tensor:
        return self.get_buffer(_buffer(which, name))


def _buffer(moment: str, name: str) -> str:
    return f"{moment}_of_{name.replace('.', '_')}"


@dataclass(frozen=True)
class LossRank:
    """Of each batch, the `share` of examples with the highest loss get anti-adversaries, the others adversaries.

    Nothing is learned, and an example costs what it costs in TRADES.

    Args:
        share: in [0, 1].
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"LossRank's share lies in [0, 1]; {self.share} came")

    sides = 1
    every = 0

    def build(self) -> nn.Module:
        return nn.Identity()

    def teach(self, learned: nn.Module, gradients: Mapping[str, Tensor]) -> None:
        """Nothing is learned."""

    def shares(self, learned: Callable[[Tensor], Tensor], features: Tensor, normalised: Tensor) -> Tensor:
        chosen = features[:, 0].argsort(descending=True, stable=True)[: round(self.share * len(features))]
        return torch.zeros_like(features[:, 0]).index_fill_(0, chosen, 1.0)


@dataclass(frozen=True)
class Doubtful:
    """Anti-adversaries for examples whose label the model contradicts, p_y − max p_other < −margin; else adversaries.

    Nothing is learned, and an example costs what it costs in TRADES. Meant for suspected label noise.

    Args:
        margin: in [0, 1]; 1: for no example.
    """

    margin: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise InputError(f"Doubtful's margin lies in [0, 1]; {self.margin} came")

    sides = 1
    every = 0

    def build(self) -> nn.Module:
        return nn.Identity()

    def teach(self, learned: nn.Module, gradients: Mapping[str, Tensor]) -> None:
        """Nothing is learned."""

    def shares(self, learned: Callable[[Tensor], Tensor], features: Tensor, normalised: Tensor) -> Tensor:
        return (features[:, 3] < -self.margin).float()
