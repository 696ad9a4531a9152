"""A run as a value: everything that decides its result, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch

from robal.acquisition import DRE, Acquisition, Random, Score
from robal.attacks import PGD, Attack, AutoAttack
from robal.audit import audit_size
from robal.engines import Engine, Local
from robal.errors import InputError
from robal.files import absolute
from robal.learning_curves import FEWEST
from robal.networks import Architecture, LeNet5
from robal.objectives import Adversarial, FixMatch, Natural
from robal.oracles import Hidden, Oracle
from robal.source import Source
from robal.threats import Linf, Threat, with_threat
from robal.training import Adam, Cosine, PoolTraining, Recipe, Triangular


def name_of(attack: Attack, threat: Threat | None) -> str:
    """What an attack's results are called: its label, with its threat where that is not the plan's.

    >>> name_of(PGD(steps=50, threat=Linf(0.1)), Linf(0.3))
    'PGD-50 (Linf, eps = 0.1)'
    """
    return attack.label if attack.threat in (None, threat) else f"{attack.label} ({attack.threat})"


def device_of(name: str) -> str:
    """The torch device that "auto", "cpu" or "cuda" means here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda is asked for and torch finds none; use device=cpu, or auto")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def located(part: Any) -> Any:
    """The same with absolute paths, wherever inside a component names some and says so by `located()`."""
    if isinstance(part, tuple):
        return tuple(map(located, part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    if hasattr(part, "located"):
        return part.located()
    inner = {field.name: getattr(part, field.name) for field in fields(part) if field.init}
    moved = {name: located(value) for name, value in inner.items()}
    return part if moved == inner else replace(part, **moved)


@dataclass(frozen=True)
class Start:
    """The first labels, and how the first model is trained on them.

    Args:
        labels: how many; 0 where `data.train` brings labels: round 0 then asks nothing.
        recipe: of round 0. DRE's protocol starts from natural training.
        weights: a safetensors file of the network's tensors, or a run's model.safetensors, that the first model starts
            from; a copy goes into the run folder. A head for other classes is left out: so a pretrained backbone is
            brought in. Without first labels it is the first model as it is, and `recipe` is left aside.
        acquisition: which images they are; anything but `Random` (`TypiClust` for a cold start by clusters,
            `NearExamples` by examples) goes by the network before it is trained here, and so needs a pretrained one.
    """

    labels: int = 50
    recipe: Recipe = Recipe(Natural(), epochs=30, batch_size=50)
    weights: str = ""
    acquisition: Acquisition | Score = Random()

    def __post_init__(self) -> None:
        if self.labels < 2 and self.labels != 0:
            raise InputError(f"a run starts from at least two labels, or from none; {self.labels} came")

    def located(self) -> Start:
        """The same with absolute paths."""
        return replace(self, weights=absolute(self.weights), acquisition=located(self.acquisition))


@dataclass(frozen=True)
class Validation:
    """What models are chosen by, and progress is watched on.

    Args:
        images: at most so many of the held-out images are used. Their labels are free: not bought, and every table
            says so.
        bought_share: share of every answer that goes to validation instead of training, in [0, 0.2]; above 0 only
            these are used and no label is free.
        attack: what robust accuracy on validation images is measured with.
        measure: what the best epoch is chosen by: robust accuracy under `attack`, or, in standard active learning,
            "accuracy" or "loss" (the mean cross-entropy, least is best) on the images as they are, without any attack.
    """

    images: int = 500
    bought_share: float = 0.0
    attack: Attack = PGD(steps=20)
    measure: Literal["robust", "accuracy", "loss"] = "robust"

    def __post_init__(self) -> None:
        if self.measure not in ("robust", "accuracy", "loss"):
            raise InputError(f"validation.measure is robust, accuracy or loss; not {self.measure!r}")
        if self.images < 0 or not 0 <= self.bought_share <= 0.2:
            raise InputError(
                f"validation needs images >= 0 and a bought_share in [0, 0.2]; {self.images}, {self.bought_share} came"
            )


@dataclass(frozen=True)
class Meta:
    """The labels that an objective learns from beside training (CAAT, FRL); for other objectives there are none.

    They are bought like all others and are not trained on.

    Args:
        share: of every answer, in (0, 0.5].
        answers: of the simulated oracle: so many people are asked about an image at most, until one class has two
            answers more than any other (`robal.oracles.agreed_by_several`); without such a class the image is
            skipped. 1: the first answer counts. None: 7 where the oracle is noisy, else 1.
    """

    share: float = 0.1
    answers: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise InputError(f"meta.share lies in (0, 0.5]; {self.share} came")
        if self.answers is not None and self.answers < 1:
            raise InputError(f"meta.answers counts answers to an image, at least 1; {self.answers} came")


@dataclass(frozen=True)
class Relabel:
    """Asking again about bought labels that look wrong, in each round from 1 on, beside its question.

    Models trained on the other folds judge each training label, cleanlab (`pip install 'robal[noise]'`) ranks them, and
    the worst of those that it doubts are asked about as the meta set is; every further answer is bought. Images of
    validation and of the meta set are left alone, and so are those that were asked about again before.

    Args:
        per_round: how many, at most.
        folds: how many parts the labels are cut into, at least 2.
        answers: to one image, at most, the first included, at least 2.
        recipe: how the models are trained.
    """

    per_round: int = 10
    folds: int = 3
    answers: int = 7
    recipe: Recipe = Recipe(Natural(), epochs=20, batch_size=50, optimiser=Adam(2e-3), schedule=Cosine())

    def __post_init__(self) -> None:
        if self.per_round < 1 or self.folds < 2 or self.answers < 2:
            raise InputError(
                "relabel needs per_round >= 1, folds >= 2 and answers >= 2; "
                f"{self.per_round}, {self.folds} and {self.answers} came"
            )
        if self.recipe.looks_at_the_pool or self.recipe.needs_meta or self.recipe.keep == "best":
            raise InputError("relabel's models are trained on labels alone and keep their last epoch")


@dataclass(frozen=True)
class Evaluation:
    """What is measured, and when.

    Args:
        images: how many test images are attacked, the first of the test split; clean accuracy is of all of them.
        each_round: attacks of every round, on test images.
        each_round_images: on how many, at most `images`; None: on as many.
        at_end: attacks of the last round alone, on test images.
    """

    images: int = 1000
    each_round: tuple[Attack, ...] = (PGD(steps=50),)
    at_end: tuple[Attack, ...] = (AutoAttack(),)
    each_round_images: int | None = None

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"evaluation needs images >= 1; {self.images} came")
        if self.each_round_images is not None and not 1 <= self.each_round_images <= self.images:
            raise InputError(
                f"each round attacks at least 1 and at most the {self.images} images of the end; "
                f"evaluation.each_round_images={self.each_round_images} came"
            )
        names = [name_of(attack, None) for attack in (*self.each_round, *self.at_end)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(
                f"{', '.join(doubled)} is there twice; each_round runs in the last round too, so name an attack in "
                "each_round or in at_end"
            )


@dataclass(frozen=True)
class Stop:
    """When a run is over before its last round: once further labels would hardly help.

    After each round a learning curve (`robal.learning_curves`) is fitted to what `validation` measured; test and audit
    are not looked at.

    Args:
        gain: percentage points for 100 labels; the run is over when the next round's would bring less.
        sure: how probable that has to be, in (0, 1).
        after: rounds, round 0 included, that are measured before the curve is believed, at least 3.
    """

    gain: float = 0.5
    sure: float = 0.5
    after: int = 4

    def __post_init__(self) -> None:
        if self.after < FEWEST or not 0 < self.sure < 1:
            raise InputError(
                f"stop needs after >= {FEWEST} rounds and sure in (0, 1); {self.after} and {self.sure} came"
            )


_DIGITS_TEACHER = Recipe(
    FixMatch(threshold=0.8),
    budget=40_000,
    batch_size=25,
    unlabelled_batch=75,
    optimiser=Adam(4e-3),
    schedule=Cosine(),
    average=0.99,
    warm_start=False,
)


@dataclass(frozen=True)
class Plan:
    """A run of robust active learning.

    The defaults are the embedded example: scikit-learn's handwritten digits, DRE, six rounds, in about three minutes.
    The teacher of `recipe.pool` was chosen for them: for other data give a recipe of your own.

    Args:
        data: where the images come from.
        network: builds the model.
        threat: what the adversary may do; attacks that name no threat of their own take this one.
        start: the first labels and the first model.
        acquisition: which images to ask about.
        oracle: who answers.
        recipe: how the model is trained in rounds 1 to `rounds`.
        validation: what models are chosen by.
        meta: what an objective learns from beside training.
        relabel: which labels are asked for again; None: none.
        evaluation: what is measured.
        audit: so many images are drawn at random, asked about first and never trained on: an honest test where there
            is none. 0: none; or how far its rates may be off, "±3%", which says how many (`audit_size`). Its labels
            are counted apart, as test labels.
        stop: when the run is over before its last round; None: never.
        per_round: how many images a round asks about.
        rounds: after round 0; a run writes rounds + 1 rows of metrics.
        seed: of all random streams.
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        engine: where acquisition functions look at the pool: here, or by Ray on many machines. The result is the same.
    """

    data: Source = Source()
    network: Architecture = LeNet5()
    threat: Threat = Linf(0.2)
    start: Start = Start()
    acquisition: Acquisition | Score = DRE()
    oracle: Oracle = Hidden()
    recipe: Recipe = Recipe(
        Adversarial(PGD(steps=5, step_size=0.08)),
        budget=150_000,
        batch_size=50,
        optimiser=Adam(4e-3),
        schedule=Triangular(0.2),
        pool=PoolTraining(_DIGITS_TEACHER),
    )
    validation: Validation = Validation()
    meta: Meta = Meta()
    relabel: Relabel | None = None
    evaluation: Evaluation = Evaluation(images=200)
    audit: int | str = 0
    stop: Stop | None = None
    per_round: int = 50
    rounds: int = 6
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Engine = Local()

    def __post_init__(self) -> None:
        if self.per_round < 1 or self.rounds < 0:
            raise InputError(f"a plan needs per_round >= 1 and rounds >= 0; {self.per_round}, {self.rounds} came")
        audit_size(self.audit)

    @property
    def audit_images(self) -> int:
        """How many images the audit set has."""
        return audit_size(self.audit)

    @property
    def budget(self) -> int:
        """Labels that a whole run buys, without those of its audit."""
        return self.start.labels + self.rounds * self.per_round

    @property
    def is_simulated(self) -> bool:
        """Whether held-back labels answer, and nobody is asked."""
        return isinstance(self.oracle, Hidden)

    @property
    def meta_share(self) -> float:
        """The share of every answer that goes to the meta set; 0 where no objective learns from one."""
        recipes = (self.start.recipe, self.recipe) if self.rounds else (self.start.recipe,)
        return self.meta.share if any(recipe.needs_meta for recipe in recipes) else 0.0

    @property
    def meta_answers(self) -> int:
        """How many answers there are to an image of the meta set, at most."""
        if self.meta.answers is not None:
            return self.meta.answers
        return 7 if isinstance(self.oracle, Hidden) and self.oracle.noise else 1

    @property
    def is_pretrained(self) -> bool:
        """Whether training begins from weights that were learned elsewhere."""
        of_network = getattr(self.network, "weights", "") or getattr(self.network, "pretrained", False)
        return bool(of_network or (self.start.weights and self.start.labels))

    @property
    def trains_at_start(self) -> bool:
        """Whether round 0 trains: not where it is given a model and buys no label."""
        return bool(self.start.labels or not self.start.weights)

    def apart(self, asked: int) -> tuple[int, int]:
        """Of so many answers, how many go to validation, and how many to the meta set."""
        return round(self.validation.bought_share * asked), round(self.meta_share * asked)

    def located(self) -> Plan:
        """The same plan with absolute paths, so that it can be resumed from another working folder."""
        return replace(self, **{field.name: located(getattr(self, field.name)) for field in fields(self)})

    def with_threats(self) -> Plan:
        """The same plan with its threat in every part that names none."""
        return replace(
            self,
            start=with_threat(self.start, self.threat),
            acquisition=with_threat(self.acquisition, self.threat),
            recipe=with_threat(self.recipe, self.threat),
            relabel=with_threat(self.relabel, self.threat),
            validation=with_threat(self.validation, self.threat),
            evaluation=with_threat(self.evaluation, self.threat),
        )
