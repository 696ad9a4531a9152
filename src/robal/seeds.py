"""Every random stream is a function of its name, so nothing ever stores random state and resuming is exact."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *name: str | int) -> int:
    """The 63-bit seed of the stream called `name` under the run's `seed`.

    Any change of any part gives an unrelated stream; equal names give equal streams on every machine.

    >>> stream(0, "train", 3) == stream(0, "train", 3)
    True
    >>> stream(0, "train", 3) == stream(0, "train", 4)
    False
    """
    text = "\x1f".join([str(int(seed)), *(str(part) for part in name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def drawn(generator: torch.Generator) -> int:
    """A seed drawn from a generator, for work that has streams of its own."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def generator(seed: int, *name: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator at the start of the stream called `name` under `seed`."""
    return torch.Generator(device=device).manual_seed(stream(seed, *name))
