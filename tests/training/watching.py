"""Objectives that watch, count or stop, around one that trains, and looks at images without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robal.objectives import Batch, Natural
from robal.pool import Examples
from robal.training import Trained


@dataclass(frozen=True)
class Watching:
    """Keeps every batch, and the model's mode; raises KeyboardInterrupt instead of looking at batch number `stop`."""

    inner: Any = Natural()
    stop: int = -1
    unlabelled_passes: int = 1
    batches: list[Batch] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    @property
    def passes(self) -> int:
        return int(self.inner.passes)

    def __getattr__(self, name: str) -> Any:
        if name in ("learn", "needs_meta", "meta_passes"):  # there where the inner one has them
            return getattr(self.inner, name)
        raise AttributeError(name)

    def begin(self, model: nn.Module, examples: Examples) -> nn.Module | None:
        return self.inner.begin(model, examples)

    def __call__(self, model: nn.Module, companion: nn.Module | None, batch: Batch, draw: torch.Generator) -> Tensor:
        if len(self.batches) == self.stop:
            raise KeyboardInterrupt
        self.batches.append(batch)
        self.modes.append(all(module.training for module in model.modules()))
        return self.inner(model, companion, batch, draw)


class Counter(nn.Module):
    """What an objective learns beside the model: here, how many batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))


@dataclass(frozen=True)
class WithCompanion:
    """Natural training that counts in its companion."""

    passes: int = 1

    def begin(self, model: nn.Module, examples: Examples) -> nn.Module:
        return Counter()

    def __call__(self, model: nn.Module, companion: nn.Module | None, batch: Batch, draw: torch.Generator) -> Tensor:
        assert isinstance(companion, Counter)
        companion.seen += 1
        return Natural()(model, None, batch, draw)


def weights(trained: Trained) -> Tensor:
    """All the model's parameters in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()])
