"""An audit set: images drawn at random from the pool, labelled first and never trained on, as an honest test.

Its size is a number of images, or follows from how sure its figures should be.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from robal.errors import InputError
from robal.images import Images
from robal.near_duplicates import prints
from robal.parquet import ParquetImages
from robal.wilson import Z95


def audit_size(wanted: int | str) -> int:
    """How many images an audit takes: so many, or as many as keep every rate's 95 % interval inside ± a width.

    A rate's Wilson interval is widest at 1/2, where half of it is z / (2 √(n + z²)); hence n = z² / 4w² − z².

    Args:
        wanted: a number of images, 0 for no audit; or a width w in percentage points, such as "±3%".

    Raises:
        InputError: for anything else, and for a width outside of (0, 50).

    >>> audit_size(400), audit_size("±3%"), audit_size("10 %")
    (400, 1064, 93)

    Source: of the interval, Wilson, JASA 1927.
    """
    if isinstance(wanted, int):
        if wanted < 0:
            raise InputError(f"an audit has 0 images (there is none) or more; {wanted} came")
        return wanted
    said = re.fullmatch(r"(±|\+-|\+/-)?\s*(\d+(\.\d+)?)\s*%", wanted.strip())
    if said is None or not 0 < float(said[2]) < 50:
        raise InputError(
            f"an audit is a number of images (audit=400), or how far its rates may be off (audit=±3%); {wanted!r} came"
        )
    width = float(said[2]) / 100
    return math.ceil(Z95**2 / (4 * width**2) - Z95**2)


def alike(images: Images, chosen: Tensor) -> Tensor:
    """Other images of the pool that are equal to chosen ones, or nearly so where that is known; ascending.

    They tell what an audit's images are, and must not be trained on. Near-duplicates are those that `robal pool build`
    has found.

    Args:
        images: the pool's, N.
        chosen: [n] int64, positions in it.

    >>> from robal.images import InMemory
    >>> alike(InMemory(torch.tensor([0, 7, 0, 7], dtype=torch.uint8).view(4, 1, 1, 1)), torch.tensor([3]))
    tensor([1])
    """
    found = torch.zeros(len(images), dtype=torch.bool)
    if isinstance(images, ParquetImages):
        for every in (images.groups, images.equals):
            group = every[images.rows]
            of_chosen = group[chosen]
            found |= torch.isin(group, of_chosen[of_chosen >= 0])
    elif len(chosen):
        wanted = set(prints(images.at_rest(chosen)))
        tiles = torch.arange(len(images)).split(4096)
        seen = [one in wanted for tile in tiles for one in prints(images.at_rest(tile))]
        found = torch.tensor(seen)
    found[chosen] = False
    return found.nonzero().flatten()
