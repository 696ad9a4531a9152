"""The next images are read and decoded while the model looks at the present ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

_DEPTH = 2  # batches that wait, at most


def ahead(images: Any, parts: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """`images.batch(part, device)` for each part, in order; by a thread of its own where `images.reads_ahead` says so.

    At most two batches wait, so memory stays bounded; what goes wrong in reading is raised here, at its place.
    """
    if not getattr(images, "reads_ahead", False):
        for part in parts:
            yield images.batch(part, device)
        return
    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1, "robal-reads-ahead") as reader:
        try:
            for part in parts:
                waiting.append(reader.submit(images.batch, part, device))
                if len(waiting) > _DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
