"""How a model is trained in a round, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robal.errors import InputError
from robal.objectives import Adversarial, Objective
from robal.training.augmentation import Augmentation, NoAugmentation
from robal.training.optimisers import Adam, Constant, Optimiser, Schedule


@dataclass(frozen=True)
class Recipe:
    """Everything about the training of one round.

    Args:
        objective: what is minimised; `Natural` here is standard active learning, `Adversarial` robust active learning.
        epochs: passes over the examples.
        batch_size: examples a step.
        optimiser: `Adam` or `SGD`.
        schedule: of the learning rate, within a round.
        augmentation: of the training images.
        warm_start: go on from the previous round's model; else from the network's initial weights.
        keep_optimiser: go on with the previous round's optimiser state too.
        keep: "last" epoch, or the "best" by validation (robust accuracy; ties go to the later one).
        snapshots: how many states of the model are kept from the training, evenly spaced over its epochs, the last one
            after the last epoch; acquisition functions such as `ExcludeHard` look at them.
    """

    objective: Objective = Adversarial()
    epochs: int = 10
    batch_size: int = 100
    optimiser: Optimiser = Adam()
    schedule: Schedule = Constant()
    augmentation: Augmentation = NoAugmentation()
    warm_start: bool = True
    keep_optimiser: bool = False
    keep: Literal["last", "best"] = "last"
    snapshots: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(
                f"a recipe needs epochs >= 1 and batch_size >= 2; {self.epochs} and {self.batch_size} came"
            )
        if not 0 <= self.snapshots <= self.epochs:
            raise InputError(f"a training of {self.epochs} epochs has up to so many snapshots; {self.snapshots} came")
        if self.keep_optimiser and not self.warm_start:
            raise InputError("keep_optimiser goes with warm_start: another model's optimiser state is of no use")
