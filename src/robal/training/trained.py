"""What training leaves behind: tensors only, so that it can be saved without pickle and loaded anywhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from robal.errors import RunFolderError
from robal.training.tensors import load_tensors, named, numbered, part, save_tensors, snapshots_in


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what the next round's training may go on from.

    Args:
        model: in eval mode.
        companion: what the objective learned beside the model, or None.
        snapshots: states of the model during training, oldest first.
        optimiser: the optimiser's state by name, empty where none was kept.
        steps: optimiser steps taken so far, over all rounds.
        epoch: the epoch (from 1) whose weights these are; 0 before any training.
        teacher: the standard model that labelled the pool in this training, in eval mode, or None.
        guesses: [U] int64, the pseudo-label of each image without a label, -1 where it has none, or None; not saved.
        refused: how many images got no pseudo-label, by reason: "unsure", "disputed", "outside"; not saved.
        evaluations: gradient evaluations of this training, a teacher's and a witness's included; not saved.
        earlier: seconds that earlier processes, which were killed, put into this training, as far as it was not lost,
            a teacher's and a witness's included; not saved.
        score: of the kept epoch, by the monitor, where keep="best"; else NaN; not saved.
    """

    model: nn.Module
    companion: nn.Module | None = None
    snapshots: tuple[Mapping[str, Tensor], ...] = ()
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    epoch: int = 0
    teacher: nn.Module | None = None
    guesses: Tensor | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    evaluations: int = 0
    earlier: float = 0.0
    score: float = math.nan

    @property
    def has_collapsed(self) -> bool:
        """Whether a teacher was trained and its pseudo-labels were left out, since they fell on too few classes."""
        return self.guesses is not None and self.teacher is None

    def widened(self, fresh: Trained) -> Trained:
        """This, or where `fresh` tells more classes apart, its network with these weights as far as they go.

        The classes that are new keep the fresh weights; of all else, the model and the numbers alone go on.
        """
        ours, wider = self.model.state_dict(), copy.deepcopy(fresh.model)
        theirs = wider.state_dict()
        if all(tensor.shape == theirs[name].shape for name, tensor in ours.items()):
            return self
        for name, tensor in ours.items():
            if tensor.shape == theirs[name].shape:
                theirs[name].copy_(tensor)
            else:
                theirs[name][: len(tensor)] = tensor
        return Trained(wider, steps=self.steps, epoch=self.epoch)

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, by temp file, fsync and rename."""
        tensors = named("model", self.model.state_dict()) | named("optimiser", self.optimiser)
        tensors |= numbered(self.snapshots)
        if self.companion is not None:
            tensors |= named("companion", self.companion.state_dict())
        if self.teacher is not None:
            tensors |= named("teacher", self.teacher.state_dict())
        save_tensors(path, tensors, {"steps": self.steps, "epoch": self.epoch})

    @classmethod
    def load(cls, path: Path, model: nn.Module, companion: nn.Module | None = None) -> Trained:
        """Read what `save` wrote into `model` (and `companion`), which are changed.

        Raises:
            RunFolderError: if the file is not whole or belongs to another network.
        """
        tensors, numbers = load_tensors(path)
        teacher, of_teacher = None, part(tensors, "teacher")
        try:
            if of_teacher:
                teacher = copy.deepcopy(model).eval()
                teacher.load_state_dict(of_teacher)
            model.load_state_dict(part(tensors, "model"))
            if companion is not None:
                companion.load_state_dict(part(tensors, "companion"))
        except RuntimeError as error:
            raise RunFolderError(f"{path} holds the weights of another network: {error}") from None
        snapshots = tuple(snapshots_in(tensors))
        optimiser = part(tensors, "optimiser")
        return cls(model.eval(), companion, snapshots, optimiser, numbers["steps"], numbers["epoch"], teacher)
