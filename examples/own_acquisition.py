# %% [markdown]
# # An acquisition function of one's own
# A frozen dataclass with `__call__`. With `(candidates, generator)` it is a score, highest first; with
# `(candidates, n, generator)` it chooses.

# %%
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal import Pool, select
from robal.candidates import Candidates
from robal.datasets import load
from robal.images import InMemory


@dataclass(frozen=True)
class SmallestLogit:
    """The images whose largest logit is smallest."""

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        return -candidates.logits.amax(1)  # [M], higher = label me first


@dataclass(frozen=True)
class OneOfEachClass:
    """The least confident image of each predicted class in turn, whose classes come in order."""

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        sure, predicted = candidates.probs.max(1)
        order = sure.argsort(stable=True).tolist()  # least confident first
        turn: dict[int, int] = {}
        place = []
        for position in order:
            kind = int(predicted[position])
            turn[kind] = turn.get(kind, 0) + 1
            place.append((turn[kind], kind, position))
        return candidates.indices[[position for _, _, position in sorted(place)[:n]]]  # positions in the pool


# %% [markdown]
# The gate `select` asks for any of them, and checks what they answer.

# %%
digits = load("digits", resize=8)
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
images, labels = digits.images[:200].float() / 255, digits.labels[:200]
for _ in range(50):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimiser.step()

pool = Pool.unlabelled(InMemory(digits.images), classes=digits.classes).reveal(torch.arange(200), labels)
for acquisition in (SmallestLogit(), OneOfEachClass()):
    print(type(acquisition).__name__, select(acquisition, model, pool, n=10, seed=0).tolist())

# %% [markdown]
# In a run, from a file that Python finds: `robal run acquisition=own_acquisition:SmallestLogit`.
