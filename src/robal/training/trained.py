"""What training leaves behind: tensors only, so that it can be saved without pickle and loaded anywhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robal.errors import RunFolderError
from robal.files import whole


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
        refused: how many images got no pseudo-label, by reason: "unsure", "disputed"; not saved.
        evaluations: gradient evaluations of this training, a teacher's included; not saved.
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

    @property
    def has_collapsed(self) -> bool:
        """Whether a teacher was trained and its pseudo-labels were left out, since they fell on too few classes."""
        return self.guesses is not None and self.teacher is None

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


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as {"0.exp_avg": tensor, ...}; numbers become tensors."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().clone()
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` took, in the memory layout of the parameters; learning rates stay."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)].detach()
        same = value.shape == parameter.shape
        state.setdefault(int(number), {})[name] = torch.empty_like(parameter).copy_(value) if same else value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with "prefix:" before each name."""
    return {f"{prefix}:{name}": tensor for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What `named` put under `prefix`, by its own names."""
    start = f"{prefix}:"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def numbered(snapshots: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all snapshots in one mapping, "snapshot3:" before the names of the fourth."""
    return {name: tensor for i, one in enumerate(snapshots) for name, tensor in named(f"snapshot{i}", one).items()}


def snapshots_in(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """What `numbered` put together."""
    found: list[dict[str, Tensor]] = []
    while one := part(tensors, f"snapshot{len(found)}"):
        found.append(one)
    return found


def save_tensors(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, int | float]) -> None:
    """Write tensors and a few numbers to a safetensors file, whole or not at all."""
    on_cpu = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole(path) as temporary:
        # Not `save_file`, which has a temporary file of its own that a kill would leave behind.
        temporary.write_bytes(save(on_cpu, metadata={"numbers": json.dumps(dict(numbers))}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            numbers = json.loads((file.metadata() or {}).get("numbers", "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    return tensors, numbers
