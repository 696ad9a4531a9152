"""The state of a training as named tensors, and their safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robal.errors import RunFolderError
from robal.files import whole


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def tensors_of(parts: list[nn.Module], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of everything that training changes."""
    tensors = named("optimiser", optimiser_tensors(optimiser))
    for number, module in enumerate(parts):
        tensors |= named(str(number), copied(module))
    return tensors


def put_back(tensors: dict[str, Tensor], parts: list[nn.Module], optimiser: torch.optim.Optimizer) -> None:
    """What `tensors_of` copied, into the same modules and the optimiser."""
    for number, module in enumerate(parts):
        module.load_state_dict(part(tensors, str(number)))
    load_optimiser(optimiser, part(tensors, "optimiser"))


def restore(
    checkpoint: Path, parts: list[nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, Tensor]]]:
    """Put back what a checkpoint holds; its numbers, the best tensors so far, and the snapshots."""
    tensors, numbers = load_tensors(checkpoint)
    put_back(part(tensors, "now"), parts, optimiser)
    return numbers, part(tensors, "best"), snapshots_in(tensors)


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
