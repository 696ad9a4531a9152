"""How sure one can be of a share that was seen on so many images."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson(rate: float, images: int, z: float = Z95) -> tuple[float, float]:
    """The range of true rates that a share seen on so many images does not contradict.

        centre ± half,  centre = (p + z²/2n) / (1 + z²/n),  half = z √(p(1-p)/n + z²/4n²) / (1 + z²/n)

    Unlike p ± z √(p(1-p)/n) it stays inside [0, 1] and has a width at p = 0 and p = 1.

    Args:
        rate: the share seen, in [0, 1].
        images: how many images it was seen on, at least 1.
        z: the normal quantile; the default gives 95 %.

    Returns:
        The lower and the upper end, in [0, 1].

    With z = 2, p = 1/2, n = 4: centre = (0.5 + 0.5) / 2 = 0.5, half = 2 √(1/16 + 1/16) / 2 = √(1/8).

    >>> [round(end, 4) for end in wilson(0.5, 4, z=2.0)]
    [0.1464, 0.8536]

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    share = z * z / images
    centre = (rate + share / 2) / (1 + share)
    half = z * math.sqrt(rate * (1 - rate) / images + share / (4 * images)) / (1 + share)
    # at 0 and 1 the ends are exact; rounding must not push the rate out of its own interval
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
