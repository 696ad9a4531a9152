"""A measured rate and how sure of it one can be."""

from __future__ import annotations

from dataclasses import dataclass

from robal.wilson import wilson


@dataclass(frozen=True)
class Rate:
    """A share of images, with the number of images it was measured on where that is known.

    >>> str(Rate(0.931, 359)), str(Rate(0.5, None))
    ('93.1 %', '50.0 %')
    >>> Rate(0.931, 359).range
    '90.0–95.3'
    """

    value: float
    images: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval; None where the number of images is unknown."""
        return wilson(self.value, self.images) if self.images is not None and self.images > 0 else None

    @property
    def range(self) -> str:
        """The interval in percent, without its unit; empty where unknown."""
        ends = self.interval
        return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}" if ends else ""

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} %"
