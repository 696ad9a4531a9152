"""Published figures and ours, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from robal.studies.reproduce import Reproduction, reproduction
from robal.studies.results import Results


@dataclass(frozen=True)
class Beside:
    """A published figure and ours.

    Args:
        label, measure: of what.
        published, ours: rates; ours is a mean over `seeds` seeds.
        low, high: 95 % interval over the images, at our mean; with five seeds or more the wider of it and the seeds'.
        seeds: how many.
    """

    label: str
    measure: str
    published: float
    ours: float
    low: float
    high: float
    seeds: int

    @property
    def differs(self) -> bool:
        """Whether what was published lies outside our interval."""
        return not self.low <= self.published <= self.high


def beside(results: Results) -> tuple[Reproduction | None, list[Beside]]:
    """What a study reproduces, if anything, and its figures beside the published ones where they can be compared."""
    name, _, stage = results.place.study.reproduces.partition(" ")
    if not name:
        return None, []
    about, found = reproduction(name), []
    for block in results.blocks:
        for line in block.lines:
            for measure, published in about.published.get(stage, {}).get(line.label, {}).items():
                ours, images = line.mean(measure), line.over_images(measure)
                if ours is None or images is None:
                    continue
                over = line.over_seeds(measure) or images
                low, high = min(images[0], over[0]), max(images[1], over[1])
                found.append(Beside(line.label, measure, published, ours, low, high, len(line.values(measure))))
    return about, found
