"""Forward and backward passes in bfloat16, where processor or GPU has instructions for it; answers in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robal.networks.layout import home_of


@contextmanager
def in_bfloat16(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Autocast inside: convolutions and matrix products in bfloat16; answers of the model, and losses, in float32.

    Weights, and what an optimiser does with them, stay float32; so do `interval_bounds` and augmentations. Nothing
    happens where it is not `wanted`.
    """
    if not wanted:
        yield
        return
    handle = answering_in_float32(model)
    try:
        # Without the cache, which would hand out casts of weights that were changed inside since.
        with torch.autocast(home_of(model).type, torch.bfloat16, cache_enabled=False):
            yield
    finally:
        handle.remove()


def answering_in_float32(module: nn.Module) -> RemovableHandle:
    """From now on, answers of `module` that would be bfloat16 are float32."""
    return module.register_forward_hook(_as_float32)


def _as_float32(module: nn.Module, inputs: Any, answer: Any) -> Any:
    return answer.float() if isinstance(answer, Tensor) and answer.dtype is torch.bfloat16 else answer


def gains_from_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, as far as torch can tell; without them it is much slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return True
