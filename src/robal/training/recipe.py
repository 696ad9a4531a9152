"""How a model is trained in a round, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from robal.augmentations import Augmentation, CropFlip, NoAugmentation
from robal.errors import InputError
from robal.objectives import Adversarial, FixMatch, Objective
from robal.seeds import generator
from robal.training.optimisers import Adam, Constant, Cosine, Optimiser, Schedule

Precision = Literal["float32", "bfloat16"]


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
        snapshots: how many states of the model are kept from the training, evenly spaced over its epochs, or over the
            steps of a budget, the last one at the end; acquisition functions such as `ExcludeHard` look at them.
        budget: gradient evaluations (images times forward and backward passes, crafting included) to spend instead of
            a number of epochs, so that trainings on few and on many examples cost the same, a teacher's and a witness's
            included; None: `epochs` decides.
        unlabelled_batch: images without labels a step, for objectives that look at them (`FixMatch`, `Trades`).
        ramp: share of the steps over which eps grows from 0 to the threat's, in [0, 1], and with it the weight of a
            bound (`MTLIBP`); robust training at a large eps may not begin without.
        average: decay of the exponential moving average of the weights that becomes the model, in [0, 1); 0: none.
        pool: how the unlabelled images train too; None: they do not.
        shrink: what share of the previous model's weights a warm start keeps, the rest coming from fresh initial
            weights, in (0, 1]; below 1 this is shrink-and-perturb.
        patience: stop after so many epochs without a better one; needs keep="best"; None: never.
        restarts: train so many times in a round, each from other initial weights, and keep the one that is best by
            validation; needs keep="best" and warm_start=False. A budget is divided among them.
        devices: processes of this machine that train together, each on a GPU of its own, or on processors where there
            is none: each attacks its share of every batch by itself, and gradients are summed. With fewer than
            2 · devices images a batch is not shared. The result is that of one device but for the noise of
            attacks and BatchNorm, whose statistics are of each share. Teacher and witness say their own.
        backbone: factor of the learning rate for all but the head, the last linear layer, in [0, 1]. 0: what comes
            before the head stays as it is, BatchNorm's statistics included, which is linear probing.
        probe: share of the steps, at first, in which the head alone is trained, in [0, 1): probing, then fine-tuning.
        precision: of the forward and backward passes, crafting included. "bfloat16" trains a small residual network
            about twice as fast on processors with instructions for it, and LeNets no faster; weights, losses, the
            lessons of an objective that learns, and whatever is measured stay float32.

    Source: of `average`, Izmailov et al., UAI 2018, arXiv 1803.05407, in the exponential form usual in robust training
    (Gowal et al., arXiv 2010.03593); of `shrink`, Ash and Adams, NeurIPS 2020, arXiv 1910.08475.
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
    budget: int | None = None
    unlabelled_batch: int = 100
    ramp: float = 0.0
    average: float = 0.0
    pool: PoolTraining | None = None
    shrink: float = 1.0
    patience: int | None = None
    restarts: int = 1
    precision: Precision = "float32"
    devices: int = 1
    backbone: float = 1.0
    probe: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.backbone <= 1 or not 0 <= self.probe < 1:
            raise InputError(f"backbone lies in [0, 1] and probe in [0, 1); {self.backbone} and {self.probe} came")
        if self.head_apart and self.keep_optimiser:
            raise InputError("keep_optimiser goes with one learning rate for all layers: leave out backbone and probe")
        if self.backbone == 0 and self.shrink < 1:
            raise InputError("backbone=0 leaves all before the head as it is, and shrink would change it")
        if self.head_apart and (self.needs_meta or getattr(self.objective, "trains_beside", False)):
            name = type(self.objective).__name__
            raise InputError(f"{name} trains more than the network's layers one by one: leave out backbone and probe")
        if self.devices < 1 or (self.devices > 1 and self.batch_size < 2 * self.devices):
            raise InputError(
                f"devices is 1 or more, with at least two images of a batch for each; {self.devices} devices and a "
                f"batch_size of {self.batch_size} came"
            )
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(
                f"a recipe needs epochs >= 1 and batch_size >= 2; {self.epochs} and {self.batch_size} came"
            )
        if self.unlabelled_batch < 2:
            raise InputError(f"unlabelled_batch counts images, at least 2; {self.unlabelled_batch} came")
        if self.budget is not None and self.budget < 1:
            raise InputError(f"a budget counts gradient evaluations, at least 1; {self.budget} came")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision is one of {', '.join(get_args(Precision))}; not {self.precision!r}")
        if self.snapshots < 0 or (self.budget is None and self.snapshots > self.epochs):
            raise InputError(f"a training of {self.epochs} epochs has up to so many snapshots; {self.snapshots} came")
        if not 0 <= self.ramp <= 1 or not 0 <= self.average < 1 or not 0 < self.shrink <= 1:
            raise InputError(
                f"ramp lies in [0, 1], average in [0, 1) and shrink in (0, 1]; "
                f"{self.ramp}, {self.average} and {self.shrink} came"
            )
        if self.shrink < 1 and (not self.warm_start or (self.pool is not None and self.pool.from_teacher)):
            raise InputError("shrink is for a warm start from the previous round's model, and there is none")
        if self.keep_optimiser and (not self.warm_start or (self.pool is not None and self.pool.from_teacher)):
            raise InputError(
                "keep_optimiser goes with warm_start and without pool.from_teacher: another model's optimiser state is "
                "of no use"
            )
        if self.budget is not None and self.pool is not None:
            self.pool.check_budget(self.budget)
        if self.patience is not None and (self.keep != "best" or self.patience < 1):
            raise InputError(f'patience counts epochs, at least 1, and goes with keep="best"; {self.patience} came')
        if self.restarts < 1:
            raise InputError(f"restarts counts trainings, at least 1; {self.restarts} came")
        if self.restarts > 1 and (self.keep != "best" or self.warm_start or self.pool is not None):
            raise InputError(
                f'of {self.restarts} restarts the best by validation is kept: they go with keep="best", '
                "warm_start=false and pool=null"
            )

    @property
    def head_apart(self) -> bool:
        """Whether the head is trained otherwise than what comes before it."""
        return self.backbone < 1 or self.probe > 0

    @property
    def looks_at_the_pool(self) -> bool:
        """Whether training looks at images without labels."""
        return self.pool is not None or self.unlabelled_passes > 0

    @property
    def unlabelled_passes(self) -> int:
        """Gradient evaluations that an image without a label costs; 0 for an objective that looks at none."""
        return int(getattr(self.objective, "unlabelled_passes", 0))

    @property
    def needs_meta(self) -> bool:
        """Whether the objective learns from a meta set beside training."""
        return bool(getattr(self.objective, "needs_meta", False))

    @property
    def meta_passes(self) -> int:
        """Gradient evaluations that an image of the meta set costs once an epoch."""
        return int(getattr(self.objective, "meta_passes", 0))

    def steps(self, per_epoch: int, images: float, unlabelled: bool, spent: int = 0, an_epoch: int = 0) -> int:
        """Optimiser steps of a whole training.

        Args:
            per_epoch: steps in an epoch.
            images: examples in a step, on average.
            unlabelled: whether there are images without labels beside them.
            spent: gradient evaluations that are gone from the budget already.
            an_epoch: gradient evaluations that each epoch costs on top, from its first step on.

        >>> Recipe(budget=11_000).steps(per_epoch=7, images=50, unlabelled=False)  # PGD-10: 11 passes
        20
        """
        if self.budget is None:
            return self.epochs * per_epoch
        beside = self.unlabelled_batch * self.unlabelled_passes if unlabelled else 0
        each = images * self.objective.passes + beside + an_epoch / per_epoch
        return max(1, math.ceil(round((self.budget - spent) / each, 9)))


def _teacher() -> Recipe:
    return Recipe(
        FixMatch(),
        budget=1_000_000,
        batch_size=50,
        unlabelled_batch=200,
        optimiser=Adam(2e-3),
        schedule=Cosine(),
        augmentation=CropFlip(pad=2, flip=False),
        average=0.999,
        warm_start=False,
    )


@dataclass(frozen=True)
class PoolTraining:
    """The unlabelled pool as training data: a standard teacher labels it, and the robust model trains on all of it.

    The teacher is trained on the bought examples alone (and, by its objective, on images without their labels). What
    it is sure of becomes pseudo-labelled examples; the rest is left to objectives that need no label.

    A witness is a filter against wrong and poisoned pseudo-labels: what a teacher learns from images without labels
    can be led by whoever put them there, and a second model that never saw them cannot. Where the two name different
    classes, the image is not labelled.

    Where the pseudo-labels have collapsed, so that they fall on far fewer classes than those that were bought
    (`PseudoLabels.has_collapsed`), pool and teacher are left out for that round, and the metrics say so.

    Args:
        teacher: how the teacher is trained, always from fresh weights, whatever its `warm_start` says.
        share: of bought examples in each batch, in (0, 1); the others are pseudo-labelled.
        confidence: the least probability of a pseudo-label, in [0, 1].
        soft: train on the teacher's probabilities instead of its most likely class.
        from_teacher: the robust model starts from the teacher's weights; else as the recipe says, which was better in
            our trials.
        images: at most so many unlabelled images are used, drawn at random; None: all.
        outside: where people have answered that some images are none of the classes, the teacher learns that as one
            more class, and images that it takes for such get no pseudo-label.
        witness: how a model beside the teacher is trained, from fresh weights and on the bought examples alone, whose
            most likely class must be the teacher's too; None: there is no such model.

    Source: robust self-training (Carmon et al., NeurIPS 2019, arXiv 1905.13736) and unsupervised adversarial training
    (Alayrac et al., NeurIPS 2019, arXiv 1905.13725), inside active learning; of the danger that the witness is for,
    Carlini, USENIX Security 2021, arXiv 2105.01622.
    """

    teacher: Recipe = field(default_factory=_teacher)
    share: float = 0.25
    confidence: float = 0.0
    soft: bool = False
    from_teacher: bool = False
    images: int | None = None
    witness: Recipe | None = None
    outside: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not 0 <= self.confidence <= 1:
            raise InputError(
                f"pool training needs share in (0, 1) and confidence in [0, 1]; {self.share}, {self.confidence} came"
            )
        if self.images is not None and self.images < 1:
            raise InputError(f"pool.images counts images, at least 1; {self.images} came. For none write pool=null")
        _check_beside("teacher", self.teacher)
        if self.witness is not None:
            _check_beside("witness", self.witness)
            name = type(self.witness.objective).__name__
            if self.witness.looks_at_the_pool or self.witness.objective.passes > 1:
                raise InputError(
                    "a witness is a standard model that never sees the pool, and "
                    f"{name} crafts or looks at images without labels: use pool.witness.objective=Natural"
                )

    def check_budget(self, budget: int) -> None:
        """Refuse a recipe's budget that leaves nothing to the robust model.

        Raises:
            InputError: when teacher or witness counts epochs, or they have the whole of it.
        """
        beside = {"teacher": self.teacher} | ({} if self.witness is None else {"witness": self.witness})
        for name, recipe in beside.items():
            if recipe.budget is None:
                raise InputError(
                    f"the budget of {budget} gradient evaluations includes the {name}'s, which counts epochs: "
                    f"set pool.{name}.budget"
                )
        spent = {name: recipe.budget or 0 for name, recipe in beside.items()}
        if sum(spent.values()) >= budget:
            said = " and ".join(f"the {name}'s {evaluations}" for name, evaluations in spent.items())
            lower = " or ".join(f"pool.{name}.budget" for name in spent)
            raise InputError(
                f"the budget of {budget} gradient evaluations includes {said}: lower {lower} or raise budget"
            )

    def drawn(self, count: int, seed: int) -> Tensor:
        """[min(count, images)] int64, ascending: which of `count` unlabelled images are used by a training of `seed`.

        >>> PoolTraining(images=9).drawn(3, seed=0)
        tensor([0, 1, 2])
        """
        return torch.randperm(count, generator=generator(seed, "pool"))[: self.images].sort().values


def _check_beside(who: str, recipe: Recipe) -> None:
    """Refuse settings that mean nothing for a model that is trained afresh each round, and for its labels alone."""
    if recipe.pool is not None or recipe.keep == "best":
        raise InputError(f"a {who} has no pool training of its own and keeps its last epoch")
    if recipe.needs_meta:
        raise InputError(f"a {who} is taught without a meta set, which {type(recipe.objective).__name__} learns from")
    meaningless = {
        "keep_optimiser": recipe.keep_optimiser,
        "shrink": recipe.shrink < 1,
        "snapshots": recipe.snapshots > 0,
        "restarts": recipe.restarts > 1,
    }
    said = [name for name, is_said in meaningless.items() if is_said]
    if said:
        raise InputError(
            f"a {who} is trained from fresh weights each time, for its labels alone: leave out {', '.join(said)}"
        )
