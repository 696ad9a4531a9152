"""The machine: how many processors are ours, and how its C library treats memory that torch frees."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM, _MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def processors() -> int:
    """How many this process may use, which in a container is often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let the process keep freed blocks of up to 32 MB for the next step, instead of giving them back to the system.

    Training allocates the same blocks step after step, and a block fresh from the system costs a page fault every 4 KB:
    on CIFAR-10 a step of a small residual network takes a fifth longer without this. It is for programs that are
    robal's own, the command line; a library leaves its host's allocator alone.

    Returns:
        Whether the C library took it: glibc does, others have no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MAP, 32 << 20)) and bool(mallopt(_TRIM, 2**31 - 1))
