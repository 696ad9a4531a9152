"""A run as a value: everything that decides its result, and nothing else."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from robal.acquisition import DRE, Acquisition, NearExamples, Random, Score, needs_of, proxy_in
from robal.acquisition.acquisition import parts_of
from robal.attacks import PGD, Attack, AutoAttack
from robal.audit import audit_size
from robal.data import Data
from robal.datasets import Dataset, known_name, load
from robal.engines import Engine, Local
from robal.errors import InputError
from robal.learning_curves import FEWEST
from robal.networks import Architecture, LeNet5, head_makes_logits
from robal.new_images import beside
from robal.objectives import Adversarial, FixMatch, Natural
from robal.oracles import Hidden, Oracle, class_name
from robal.parquet import in_memory, is_parquet, read_manifest, version_of
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


@dataclass(frozen=True)
class Source:
    """Where the images come from and how they are split.

    Args:
        name: of a known data set (`robal data list`), an .npz file, a folder of images, a .parquet file that `robal
            pool build` made (its images stay on disk), or module:function.
        folder: where the user's data sets lie; "": the environment's ROBAL_DATA, else ./data.
        resize: height and width in pixels to resize to; None: as they are.
        held_out: where validation images that cost no label come from, see `Data.from_dataset`.
        held_out_images: how many.
        train_images, test_images: take only the first so many of each.
        classes: names, for images that come without any label.
        seed: of the split, where one is drawn; apart from the run's, so that runs of several seeds share their test.
        imbalance: how many times as many images the pool has of its most frequent class as of its rarest, at least 1;
            which class is which is drawn by `seed`. Test and validation stay as they are. See `Data.imbalanced`.
        profile: from most to least frequent, "exponential", or "step": the second half of the classes is rare.
        train: the labelled images that the model has been trained on, named as `name` is. The pool is then `name`'s
            images beside them, and their labels are known and cost nothing; see `robal.new_images.beside`. "": none.
        test: labelled images to test on, where `train` is given; "": as `beside` finds them.
        apart: the share of `name`'s images that is tested on where `beside` draws them, in (0, 1).
        unforeseen: for a simulation, the names of classes that nobody has thought of at the beginning; the oracle
            names them as it meets them (or answers that they are none of the classes, see `Hidden`).
    """

    name: str = "digits"
    folder: str = ""
    resize: int | None = None
    held_out: Literal["train", "test"] = "train"
    held_out_images: int = 5000
    train_images: int | None = None
    test_images: int | None = None
    classes: tuple[str, ...] = ()
    seed: int = 0
    imbalance: float = 1.0
    profile: Literal["exponential", "step"] = "exponential"
    train: str = ""
    test: str = ""
    apart: float = 0.5
    unforeseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.apart < 1:
            raise InputError(f"data.apart is a share, in (0, 1); {self.apart} came")
        if self.test and not self.train:
            raise InputError("data.test goes with data.train, the images that a model was trained on")
        if self.train and self.imbalance > 1:
            raise InputError("data.imbalance makes a pool without known labels; leave it out beside data.train")
        if not 1 <= self.imbalance < float("inf"):
            raise InputError(f"data.imbalance is a factor, at least 1; {self.imbalance} came")
        if self.profile not in ("exponential", "step"):
            raise InputError(f"data.profile is exponential or step; not {self.profile!r}")

    def load(self) -> Data:
        """Read the data set and split it. Raises DataError and InputError as `robal.datasets.load` does."""
        data = self._load()
        return data.without(self.unforeseen) if self.unforeseen else data

    def _load(self) -> Data:
        if self.train:
            return self._beside()
        if is_parquet(self.name):
            if self.resize or self.train_images or self.test_images or self.imbalance > 1:
                raise InputError("a Parquet pool is used as it is: resize, choose and cut by `robal pool build`")
            return Data.from_parquet(
                self.name, seed=self.seed, held_out=self.held_out, held_out_images=self.held_out_images
            )
        dataset = load(self.name, self.folder or None, resize=self.resize)
        data = Data.from_dataset(
            dataset,
            seed=self.seed,
            held_out=self.held_out,
            held_out_images=self.held_out_images,
            train_images=self.train_images,
            test_images=self.test_images,
        )
        if self.imbalance > 1:
            data = data.imbalanced(self.imbalance, self.profile, self.seed)
        return replace(data, classes=self.classes) if self.classes and not data.classes else data

    def _beside(self) -> Data:
        """The pool of a retraining, see `beside`; what is named twice is one object."""
        trained_on = self.read(self.train)
        named: dict[str, Dataset] = {_located(self.train): trained_on}
        for name in (self.name, self.test):
            if name and _located(name) not in named:
                classes = trained_on.classes
                named[_located(name)] = self.read(name, classes)
        new, tests = named[_located(self.name)], named[_located(self.test)] if self.test else None
        if self.train_images is not None:
            few = slice(self.train_images)
            first = replace(trained_on, images=trained_on.images[few], labels=trained_on.labels[few])
            trained_on, new = first, first if new is trained_on else new
        if self.test_images is not None and new.test_images is not None and new.test_labels is not None:
            few = slice(self.test_images)
            first = replace(new, test_images=new.test_images[few], test_labels=new.test_labels[few])
            trained_on, new = first if new is trained_on else trained_on, first
        return beside(trained_on, new, tests, self.apart, self.seed)

    def read(self, name: str, classes: tuple[str, ...] | None = None) -> Dataset:
        """A data set whole, in memory. Raises DataError and InputError as `robal.datasets.load`."""
        if not is_parquet(name):
            return load(name, self.folder or None, resize=self.resize, classes=classes)
        if self.resize:
            raise InputError("a Parquet pool is used as it is: resize by `robal pool build`")
        return in_memory(name)

    def located(self) -> Source:
        """The same with absolute paths, so that a run can be resumed from another working folder."""
        folder = str(Path(self.folder).expanduser().resolve()) if self.folder else ""
        name, train, test = (_located(one) for one in (self.name, self.train, self.test))
        return replace(self, folder=folder, name=name, train=train, test=test)


def _located(name: str) -> str:
    """The absolute path of a data set that is a path; any other name as it is.

    A Parquet file may grow: its newest version is named, so that a run goes on with what it began with.
    """
    if is_parquet(name):
        file, version = version_of(name)
        newest = len(read_manifest(file).versions) if file.is_file() and version is None else version
        return f"{file.resolve()}@{newest}" if newest else str(file.resolve())
    is_path = name and known_name(name) is None and Path(name).expanduser().exists()
    return str(Path(name).expanduser().resolve()) if is_path else name


def located(acquisition: Any) -> Any:
    """The same with absolute paths to examples, wherever inside they are named."""
    if not is_dataclass(acquisition) or isinstance(acquisition, type):
        return acquisition
    if isinstance(acquisition, NearExamples):
        path = Path(acquisition.examples).expanduser()
        return replace(acquisition, examples=str(path.resolve())) if acquisition.examples else acquisition
    parts = {field.name: getattr(acquisition, field.name) for field in fields(acquisition) if field.init}
    moved = {name: located(part) for name, part in parts.items()}
    return acquisition if all(moved[name] is part for name, part in parts.items()) else replace(acquisition, **moved)


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
            answers more than any other (`robal.oracles.audited`); without such a class the image is skipped. 1: the
            first answer counts. None: 7 where the oracle is noisy, else 1.
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
    the worst of those that it doubts are audited as the meta set is; every further answer is bought. Images of
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
        """The same plan with absolute paths to its data and its first weights."""
        weights = str(Path(self.start.weights).expanduser().resolve()) if self.start.weights else ""
        start = replace(self.start, weights=weights, acquisition=located(self.start.acquisition))
        return replace(self, data=self.data.located(), start=start, acquisition=located(self.acquisition))

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

    def check(self, data: Data) -> None:
        """Refuse a plan that its data cannot carry, before anything is bought.

        Raises:
            InputError: fewer than two classes, a pool smaller than the budget, labels that are not there, images that
                the network does not take, nothing to choose the best epoch by, AutoAttack standard with fewer than
                four classes.
        """
        device_of(self.device)
        for part in ("start", "acquisition", "recipe", "relabel", "validation", "evaluation"):
            try:
                with_threat(getattr(self, part), self.threat)
            except InputError as error:
                raise InputError(f"{part} does not go with the plan's threat, {self.threat}: {error}") from None
        if len(data.classes) < 2:
            raise InputError(
                f"at least two classes are needed; there are {len(data.classes)}. "
                "For images without labels, name them: data.classes='[cat, dog]'"
            )
        candidates = data.pool.candidates
        if self.budget + self.audit_images > len(candidates):
            audit = f"{self.audit_images} for the audit, " if self.audit_images else ""
            raise InputError(
                f"the plan asks for {self.budget + self.audit_images} labels ({audit}{self.start.labels} at the start, "
                f"{self.rounds} rounds of {self.per_round}) and the pool holds {len(candidates)} images; lower rounds "
                "or per_round"
            )
        if self.start.labels == 0 and data.known is None:
            raise InputError(
                "start.labels=0 needs labels that are known from the beginning: name what the model was trained on by "
                "data.train, or buy first labels"
            )
        if isinstance(self.oracle, Hidden) and (data.hidden is None or bool((data.hidden[candidates] < 0).any())):
            unknown = len(candidates) if data.hidden is None else int((data.hidden[candidates] < 0).sum())
            raise InputError(
                f"{unknown} of {len(candidates)} images have no held-back label to simulate an annotator with; "
                "use oracle=CSVFile and fill in the labels yourself"
            )
        lower = [name.lower() for name in (*data.classes, *data.unforeseen)]
        for unforeseen in data.unforeseen:
            if class_name(unforeseen) != unforeseen or lower.count(unforeseen.lower()) > 1:
                raise InputError(f"{unforeseen!r} cannot be unforeseen: nobody could name it so beside the others")
        for of in parts_of(self.acquisition):
            if isinstance(of, NearExamples) and of.examples and not Path(of.examples).expanduser().is_dir():
                raise InputError(f"there is no folder {of.examples} of examples")
        simple = isinstance(self.oracle, Hidden) and not self.oracle.noise and self.meta_answers == 1
        if data.unforeseen and not (simple and self.relabel is None):
            raise InputError(
                "classes that are unforeseen are named by the simulated oracle, once and without noise: leave out "
                "oracle.noise, relabel and meta.answers"
            )
        needed = {*needs_of(self.start.acquisition), *(["proxy"] if proxy_in(self.start.acquisition) else [])}
        if needed:
            name = type(self.start.acquisition).__name__
            raise InputError(
                f"start.acquisition={name} needs {', '.join(sorted(needed))}, and nothing has been trained by then; "
                "use Random, TypiClust or NearExamples"
            )
        if "snapshots" in needs_of(self.acquisition):
            recipes = {"start.recipe": self.start.recipe, "recipe": self.recipe}
            recipes = recipes if self.trains_at_start else {"recipe": self.recipe}
            lacking = {name: recipe for name, recipe in recipes.items() if not recipe.snapshots}
            if lacking:
                wanted = " ".join(f"{name}.snapshots={min(5, recipe.epochs)}" for name, recipe in lacking.items())
                name = type(self.acquisition).__name__
                raise InputError(f"{name} looks at snapshots of the training and none are kept; add {wanted}")
        every = [self.start.recipe, self.recipe, *([self.relabel.recipe] if self.relabel else [])]
        pools = [recipe.pool for recipe in every if recipe.pool is not None]
        every += [one for pool in pools for one in (pool.teacher, pool.witness) if one is not None]
        if self.start.weights and not self.start.labels and self.recipe.backbone == 0 and not self.recipe.warm_start:
            raise InputError(
                "recipe.backbone=0 without warm_start trains a head on what nobody has trained; leave warm_start=true, "
                "so that round 1 goes on from start.weights"
            )
        if any(recipe.head_apart for recipe in every):
            built = self.network(data.images.shape, len(data.classes), self.seed)
            if not head_makes_logits(built, torch.zeros(1, *data.images.shape)):
                raise InputError("backbone and probe are for a network whose last linear layer makes the logits")
        beside = proxy_in(self.acquisition)
        for network in (self.network, *([] if beside is None else [beside.network])):
            network(data.images.shape, len(data.classes), self.seed)  # says so if it does not take these images
        if self.meta_share and self.meta_answers > 1 and not isinstance(self.oracle, Hidden):
            raise InputError(
                f"meta.answers={self.meta_answers} is for the simulated oracle; {type(self.oracle).__name__} asks "
                "people several times where it says so itself: leave meta.answers out"
            )
        if self.relabel is not None and not isinstance(self.oracle, Hidden):
            raise InputError(
                f"relabel is for the simulated oracle, not for {type(self.oracle).__name__}: for people, "
                "`robal labels suspects` lists the labels that look wrong"
            )
        if self.relabel is not None and importlib.util.find_spec("cleanlab") is None:
            raise InputError("relabel needs cleanlab: pip install 'robal[noise]'")
        flips = isinstance(self.oracle, Hidden) and self.oracle.noise > 0 and self.oracle.kind == "flip2"
        if flips and len(data.classes) < 3:
            raise InputError(f"oracle.kind=flip2 needs three classes; there are {len(data.classes)}")
        if self.relabel is not None and data.known is not None:
            raise InputError(
                "relabel looks at bought labels alone, and data.train brings others; leave one of them out"
            )
        (at_start, meta), (later, _) = self.apart(self.start.labels), self.apart(self.per_round)
        if self.meta_share and meta < 1:
            raise InputError(
                f"{self.start.labels} first labels have no share for the meta set (meta.share={self.meta_share}) that "
                "the objective learns from; raise meta.share or start.labels"
            )
        if self.start.labels and self.start.labels - at_start - meta < 2:
            raise InputError(
                f"of {self.start.labels} first labels {at_start} are for validation and {meta} for the meta set, which "
                "leaves fewer than two to train on; lower the shares or raise start.labels"
            )
        fewest = 2 * self.relabel.folds if self.relabel is not None else 0
        if self.start.labels - at_start - meta < fewest:
            raise InputError(
                f"{fewest // 2} folds need at least {fewest} labels to train on; the start has "
                f"{self.start.labels - at_start - meta}: raise start.labels or lower relabel.folds"
            )
        share = self.validation.bought_share
        free = share == 0 and data.validation is not None and self.validation.images > 0
        at_once = self.start.recipe.keep == "best" and at_start == 0 and self.trains_at_start
        if not free and (at_once or (self.recipe.keep == "best" and at_start + later == 0)):
            raise InputError(
                'recipe.keep="best" chooses by validation images and there are none; '
                "set validation.bought_share=0.1 (and ask for enough images), or recipe.keep=last"
            )
        if self.stop is not None and (self.validation.measure == "loss" or not (free or at_start or later)):
            raise InputError(
                "stop goes by an accuracy on validation images: set validation.bought_share=0.1, and leave "
                "validation.measure=loss out"
            )
        if data.test is None and not self.audit_images:
            return
        for when in ("each_round", "at_end"):
            for attack in getattr(self.evaluation, when):
                if isinstance(attack, AutoAttack) and attack.version == "standard" and len(data.classes) < 4:
                    raise InputError(
                        f"AutoAttack standard needs at least 4 classes and there are {len(data.classes)}; "
                        f"add evaluation.{when}='[{{name: AutoAttack, version: reduced}}]'"
                    )
