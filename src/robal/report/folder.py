"""A run folder as the report sees it: whatever files are there, read once and never trusted to be complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robal.errors import RunFolderError
from robal.report.rates import Rate

PHASES = ("choose", "label", "train", "evaluate")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Query:
    """What was asked in one round. `edges`, `pool` and `chosen` are the entropy histogram, empty where not recorded."""

    images: int
    classes: tuple[int, ...]
    answers: Mapping[str, int]
    edges: tuple[float, ...] = ()
    pool: tuple[float, ...] = ()
    chosen: tuple[float, ...] = ()
    strip: bytes | None = None


@dataclass(frozen=True)
class Taught:
    """What a teacher said of the pool: how many images have its label, the share of right ones where that is known.

    `unsure` and `disputed` say how many the teacher's confidence and the witness kept out, `outside` how many it took
    for none of the classes; `collapsed`, that what they let through fell on too few classes and was left out.
    """

    pseudo: int
    right: float | None = None
    unsure: int = 0
    disputed: int = 0
    outside: int = 0
    collapsed: bool = False


@dataclass(frozen=True)
class Changes:
    """What a retraining changed on test images: of so many that the model was `right` on, the share that is forgotten,
    and of so many that it was `wrong` on, the share that is learned. A share of no image is None, as is a count that an
    older run does not say."""

    right: int | None
    forgotten: float | None
    wrong: int | None
    learned: float | None


@dataclass(frozen=True)
class Audited:
    """What a run's audit set says: images drawn at random, labelled first, never trained on.

    `asked` of them; the rates are of those that have a class.
    `alike`: other images that were kept out of the run. `changes`: as of `Round`.
    """

    asked: int
    accuracy: Rate | None
    robust: Mapping[str, Rate]
    answers: Mapping[str, int] = field(default_factory=dict)
    alike: int = 0
    changes: Mapping[str, Changes] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One line of metrics.jsonl. `measured_on` is "test"; without test images "audit"; without both "validation".

    `kept` counts what the acquisition function added to the bought labels, by kind ("twin", "pseudo", "crafted");
    `pseudo_right` is the share of right ones among its pseudo-labels, where the truth is known. `taught` is of pool
    training, None where there was none. `bias`, by measure, is how unlike the pool the query was,
    in bits, less what a random one of its size is anyway. `boundary`: by attack and class, how much accuracy it takes.
    `wrong` and `auroc`: in a simulation, how many bought labels are wrong, and how well two scores tell them. `again`
    and `changed`: labels asked for again in this round, and how many became others. `changes`, of a
    retraining: since the first round, on images as they are ("clean") and by attack. `known` is clean accuracy on test
    images of what was trained on before, where the test is of others, `known_robust` that under attack, and
    `known_changes` as `changes`, of them. `audit` is of the audit set,
    None without one. `stopped`: the plan's `stop` ended the run after this round. `unforeseen`: test images of classes
    that nobody had named yet, which count as wrong.
    """

    number: int
    bought: int
    labels: Mapping[str, int]
    measured_on: str
    accuracy: Rate | None
    robust: Mapping[str, Rate]
    validation: Rate | None
    per_class: Mapping[str, tuple[float | None, ...]]
    times: Mapping[str, float]
    seconds: float
    gradient_evaluations: int | None
    epoch_kept: int | None
    query: Query | None
    kept: Mapping[str, int] = field(default_factory=dict)
    pseudo_right: float | None = None
    taught: Taught | None = None
    bias: Mapping[str, float] = field(default_factory=dict)
    boundary: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    wrong: int = 0
    auroc: Mapping[str, float] = field(default_factory=dict)
    again: int = 0
    changed: int = 0
    changes: Mapping[str, Changes] = field(default_factory=dict)
    known: Rate | None = None
    known_robust: Mapping[str, Rate] = field(default_factory=dict)
    known_changes: Mapping[str, Changes] = field(default_factory=dict)
    audit: Audited | None = None
    stopped: bool = False
    unforeseen: int = 0

    @property
    def attack(self) -> str | None:
        """The attack to quote: AutoAttack where it was run, else the one that broke most."""
        names = sorted(self.robust, key=lambda name: (not is_auto_attack(name), self.robust[name].value))
        return names[0] if names else None

    @property
    def of_what(self) -> str:
        """What the rates are of."""
        return "images of the audit set" if self.measured_on == "audit" else f"{self.measured_on} images"


@dataclass(frozen=True)
class RunRecord:
    """A run folder in memory. `notes` says in sentences what could not be read."""

    folder: Path
    name: str
    plan: Mapping[str, Any]
    plan_text: str
    environment: Mapping[str, Any]
    rounds: tuple[Round, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    new_classes: tuple[str, ...] = ()

    @property
    def last(self) -> Round | None:
        """The newest measured round."""
        return self.rounds[-1] if self.rounds else None

    @property
    def is_finished(self) -> bool:
        """Whether the last round of the plan is measured; a plan that names no number counts as finished."""
        planned = whole(self.plan.get("rounds"))
        return self.last is not None and (planned is None or self.last.number >= planned or self.last.stopped)

    @property
    def status(self) -> str:
        """How far the run got: "round 3 of 6, unfinished"."""
        planned = whole(self.plan.get("rounds"))
        of = "" if planned is None else f" of {planned}"
        if self.last is None:
            return "no round measured yet, unfinished"
        how = "stopped: more labels would hardly help" if self.last.stopped else "finished"
        return f"round {self.last.number}{of}, {how if self.is_finished else 'unfinished'}"

    @property
    def attacks(self) -> tuple[str, ...]:
        """Every attack measured in any round, AutoAttack last."""
        names = {name for row in self.rounds for name in row.robust}
        return tuple(sorted(names, key=lambda name: (is_auto_attack(name), name)))

    @property
    def discovered(self) -> tuple[tuple[int, int], ...]:
        """(answers, classes) after each round: how many classes have been met, with an audit's answers."""
        seen, found = set[int](), list[tuple[int, int]]()
        asked = 0
        for row in self.rounds:
            if row.query is not None:
                asked += row.query.images
                seen |= {label for label, count in enumerate(row.query.classes) if count}
                found.append((asked, len(seen)))
        return tuple(found)

    @property
    def seconds(self) -> float:
        """Wall-clock time of all rounds."""
        return sum(row.seconds for row in self.rounds)


def is_auto_attack(name: str) -> bool:
    """Whether it is AutoAttack standard; "AutoAttack-reduced", for two or three classes, is another thing."""
    return name == "AutoAttack"


def number(value: object) -> float | None:
    """A number that can be drawn and counted, below 10¹⁵, else None.

    >>> number(3), number(float("nan")), number("3"), number(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e15 else None


def whole(value: object) -> int | None:
    """A whole number, else None."""
    found = number(value)
    return None if found is None else int(found)


def mapping(value: object) -> dict[str, Any]:
    """A mapping with string keys; a bare name stands for {name: …}; anything else is empty."""
    if isinstance(value, str):
        return {"name": value}
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def sequence(value: object) -> list[Any]:
    """A list, or an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def _rate(value: object, images: object) -> Rate | None:
    share = _share(value)
    return None if share is None else Rate(share, whole(images))


def _share(value: object) -> float | None:
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def _changes(row: Mapping[str, Any]) -> dict[str, Changes]:
    """By what the model was right under, "clean" or an attack; empty where nothing was compared."""
    against = mapping(row.get("against_before")) or row  # the known test of older runs says it itself
    found = {}
    for name, one in {"clean": against, **mapping(against.get("robust"))}.items():
        told = mapping(one)
        lost, won = _share(told.get("forgotten")), _share(told.get("learned"))
        if lost is not None or won is not None:
            found[str(name)] = Changes(whole(told.get("right")), lost, whole(told.get("wrong")), won)
    return found


def _rates(values: object, images: Mapping[str, Any]) -> dict[str, Rate]:
    rates = {name: _rate(value, images.get(name)) for name, value in mapping(values).items()}
    return {name: rate for name, rate in rates.items() if rate is not None}


def _counts(values: object) -> dict[str, int]:
    counts = {name: whole(value) for name, value in mapping(values).items()}
    return {name: count for name, count in counts.items() if count is not None}


def _per_class(values: Mapping[str, Any]) -> dict[str, tuple[float | None, ...]]:
    columns = {"clean": values.get("accuracy"), **mapping(values.get("robust_accuracy"))}
    return _columns(columns)


def _columns(columns: Mapping[str, Any]) -> dict[str, tuple[float | None, ...]]:
    return {name: tuple(_share(v) for v in sequence(column)) for name, column in columns.items() if sequence(column)}


def _query(values: Mapping[str, Any], strip: bytes | None) -> Query | None:
    if not values and strip is None:
        return None
    entropy = mapping(values.get("entropy"))
    edges, pool, chosen = (
        tuple(number(v) or 0.0 for v in sequence(entropy.get(key))) for key in ("edges", "pool", "chosen")
    )
    if not len(edges) == len(pool) + 1 == len(chosen) + 1 or len(pool) == 0:
        edges, pool, chosen = (), (), ()
    classes = tuple(whole(v) or 0 for v in sequence(values.get("classes")))
    images = whole(values.get("images"))
    images = sum(classes) if images is None else images
    if images == 0:  # the round of a retraining that asks nothing
        return None
    return Query(images, classes, _counts(values.get("answers")), edges, pool, chosen, strip)


def _round(row: Mapping[str, Any], strip: bytes | None) -> Round:
    validation = mapping(row.get("validation"))
    images = mapping(row.get("images"))
    seen = whole(validation.get("images"))
    on_validation = _rate(validation.get("accuracy"), seen)
    accuracy = _rate(row.get("accuracy"), images.get("clean"))
    robust = _rates(row.get("robust_accuracy"), images)
    measured_on, audit, per_class = "test", _audited(mapping(row.get("audit"))), mapping(row.get("per_class"))
    changes = _changes(row)
    if accuracy is None and not robust and audit and audit.accuracy:
        measured_on, accuracy, robust = "audit", audit.accuracy, dict(audit.robust)
        per_class, changes = mapping(mapping(row["audit"]).get("per_class")), dict(audit.changes)
    if accuracy is None and not robust and validation:
        measured_on, accuracy = "validation", on_validation
        attacked = mapping(validation.get("robust_accuracy"))
        robust = _rates(attacked, dict.fromkeys(attacked, seen))
    labelled = whole(row.get("labelled")) or 0
    labels = _counts(row.get("labels"))
    wrong, again = mapping(row.get("wrong_labels")), mapping(mapping(row.get("query")).get("again"))
    told = {name: _share(value) for name, value in mapping(wrong.get("auroc")).items()}
    known = mapping(row.get("known_test"))
    counts = known.get("images")
    of_known = counts if isinstance(counts, Mapping) else {"clean": counts}
    times = {phase: max(0.0, number(mapping(row.get("times")).get(phase)) or 0.0) for phase in PHASES}
    seconds = number(row.get("seconds"))
    return Round(
        number=whole(row.get("round")) or 0,
        bought=labels.get("bought", labelled),
        labels=labels or {"training": labelled},
        measured_on=measured_on,
        accuracy=accuracy,
        robust=robust,
        validation=on_validation,
        per_class=_per_class(per_class),
        boundary=_columns(mapping(per_class.get("boundary_error"))),
        times=times,
        seconds=sum(times.values()) if seconds is None else seconds,
        gradient_evaluations=whole(row.get("gradient_evaluations")),
        epoch_kept=whole(row.get("epoch_kept")),
        query=_query(mapping(row.get("query")), strip),
        kept=_counts({key: value for key, value in mapping(row.get("kept")).items() if key != "pseudo_right"}),
        pseudo_right=_share(mapping(row.get("kept")).get("pseudo_right")),
        taught=_taught(mapping(row.get("pool"))),
        bias=_bias(mapping(mapping(row.get("query")).get("bias"))),
        wrong=whole(wrong.get("wrong")) or 0,
        auroc={name: share for name, share in told.items() if share is not None},
        again=whole(again.get("images")) or 0,
        changed=whole(again.get("changed")) or 0,
        changes=changes,
        known=_rate(known.get("accuracy"), of_known.get("clean")),
        known_robust=_rates(known.get("robust_accuracy"), of_known),
        known_changes=_changes(known),
        audit=audit,
        stopped=bool(row.get("stopped")),
        unforeseen=whole(row.get("unforeseen")) or 0,
    )


def _audited(row: Mapping[str, Any]) -> Audited | None:
    if not row:
        return None
    images = mapping(row.get("images"))
    rates = _rate(row.get("accuracy"), images.get("clean")), _rates(row.get("robust_accuracy"), images)
    asked, alike = whole(row.get("asked")) or 0, whole(row.get("alike")) or 0
    return Audited(asked, *rates, _counts(row.get("answers")), alike, _changes(row))


def _bias(row: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, one in row.items():
        above, floor = number(mapping(one).get("divergence")), number(mapping(one).get("floor"))
        if above is not None and floor is not None:
            found[name] = above - floor
    return found


def _taught(row: Mapping[str, Any]) -> Taught | None:
    if not row:
        return None
    keys = ("pseudo", "unsure", "disputed", "outside")
    pseudo, unsure, disputed, outside = (max(0, whole(row.get(key)) or 0) for key in keys)
    return Taught(pseudo, _share(row.get("pseudo_right")), unsure, disputed, outside, row.get("collapsed") is True)


def _plan(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "plan.yaml"
    if not path.is_file():
        raise RunFolderError(f"{folder} is not a run folder: it has no plan.yaml. Name a folder that `robal run` wrote")
    try:
        text = path.read_text("utf-8")
        plan = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is not readable YAML: {error}") from error
    if plan is not None and not isinstance(plan, Mapping):
        raise RunFolderError(f"{path} should hold a mapping (data: …, network: …), and holds a {type(plan).__name__}")
    return mapping(plan), text


def _environment(folder: Path, notes: list[str]) -> dict[str, Any]:
    path = folder / "environment.json"
    if not path.is_file():
        notes.append("There is no environment.json: versions and hardware are unknown.")
        return {}
    try:
        return mapping(json.loads(path.read_text("utf-8")))
    except ValueError:
        notes.append("environment.json cannot be read: versions and hardware are unknown.")
        return {}


def _rows(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The rounds in order, each once: a run that was killed and resumed may have written one twice."""
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    rows: dict[int, dict[str, Any]] = {}
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = mapping(json.loads(line))
        except ValueError:
            row = {}
        if whole(row.get("round")) is None:
            which = "The last line" if at == len(lines) else f"Line {at}"
            notes.append(f"{which} of metrics.jsonl is half-written or damaged and is left out.")
        else:
            rows[int(row["round"])] = row
    return [rows[key] for key in sorted(rows)]


def _strip(folder: Path, number_of_round: int, notes: list[str]) -> bytes | None:
    path = folder / "rounds" / f"{number_of_round:03d}" / "query.png"
    if not path.is_file():
        return None
    content = path.read_bytes()
    if content.startswith(PNG):
        return content
    notes.append(f"The image strip of round {number_of_round} is not a PNG file and is left out.")
    return None


def read(folder: Path, name: str | None = None, strips: bool = True) -> RunRecord:
    """Read what a run folder holds now, finished or not.

    Args:
        folder: where the run wrote its plan.yaml.
        name: what to call the run; the folder's own name by default.
        strips: the pictures of what was asked too.

    Raises:
        RunFolderError: there is no plan.yaml, or it is not a YAML mapping. All else may be missing.
    """
    folder = Path(folder)
    plan, text = _plan(folder)
    notes: list[str] = []
    environment = _environment(folder, notes)
    rows = _rows(folder, notes)
    rounds = tuple(_round(row, _strip(folder, int(row["round"]), notes) if strips else None) for row in rows)
    classes = tuple(str(word) for word in sequence(mapping(environment.get("data")).get("classes")))
    new_classes = tuple(str(word) for row in rows[-1:] for word in sequence(row.get("new_classes")))
    classes += new_classes
    longest = max((len(column) for row in rounds for column in row.per_class.values()), default=0)
    longest = max(longest, *(len(row.query.classes) for row in rounds if row.query), 0)
    classes += tuple(str(index) for index in range(len(classes), longest))
    name = name or folder.resolve().name
    return RunRecord(folder, name, plan, text, environment, rounds, classes, tuple(notes), new_classes)


def read_all(folders: Sequence[Path]) -> tuple[RunRecord, ...]:
    """Read several run folders under names that tell them apart.

    Raises:
        RunFolderError: no folder is named, or one is not a run folder.
    """
    if not folders:
        raise RunFolderError("a report needs at least one run folder, and none was named")
    paths = [Path(folder).resolve() for folder in folders]
    depth = 1
    while depth < 8 and len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return tuple(read(path, "/".join(path.parts[-depth:])) for path in dict.fromkeys(paths))
