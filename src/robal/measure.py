"""What a round leaves in the metrics: accuracy and robust accuracy, and the labels they cost."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robal.attacks import Attack, Monitor
from robal.candidates import Candidates
from robal.data import Data
from robal.evaluation import clean, fitting, probabilities, seconds_needed, under_attack
from robal.learning_curves import FEWEST, fitted
from robal.plan import Plan, Validation, name_of
from robal.pool import NONE_OF_THESE, SKIPPED, Examples
from robal.progress import say
from robal.scores import entropy
from robal.seeds import stream
from robal.state import State
from robal.threats import L2, Linf
from robal.training import Trained

_BINS = 50


@dataclass(frozen=True, eq=False)
class Labelled:
    """What the labels known so far are used for, and what they cost.

    Args:
        examples: for training.
        validation: images at rest and labels, or None where there are none.
        counts: how many labels of each kind, for the metrics; "known", which cost nothing, where there are any.
    """

    examples: Examples
    validation: tuple[Tensor, Tensor] | None
    counts: dict[str, int]

    @classmethod
    def of(cls, plan: Plan, data: Data, state: State, kept: Examples | None = None, repeated: int = 0) -> Labelled:
        """Divide what is known into training, validation and the meta set.

        `kept`, no labels bought, joins the training examples; `repeated` answers were bought about images that had one.
        """
        pool, meta = state.pool, state.meta[state.pool.labels[state.meta] >= 0]
        training = pool.labelled[~torch.isin(pool.labelled, torch.cat([state.validation, meta]))]
        examples = Examples.of(pool.images.at_rest(training), pool.labels[training], training)
        beside = Examples.of(pool.images.at_rest(meta), pool.labels[meta], meta, "meta") if len(meta) else None
        nobody = (pool.labels == NONE_OF_THESE).nonzero().flatten()
        outside = Examples.of(pool.images.at_rest(nobody), torch.zeros_like(nobody), nobody, "none")
        parts = [examples, kept or Examples.none(), beside or Examples.none()]
        examples = Examples.join([*parts, *([outside] if len(nobody) else [])])
        answered = state.validation[pool.labels[state.validation] >= 0]
        validation, free = None, 0
        if len(answered):
            validation = (pool.images.at_rest(answered), pool.labels[answered])
        elif plan.validation.bought_share == 0 and data.validation is not None and plan.validation.images:
            free = min(plan.validation.images, len(data.validation))
            validation = (data.validation.images.at_rest(torch.arange(free)), data.validation.labels[:free])
        refused = int(((pool.labels == SKIPPED) | (pool.labels == NONE_OF_THESE)).sum())
        known = 0 if data.known is None else int((data.known >= 0).sum())
        counts = {
            "training": len(training) - known,
            "validation": len(answered),
            "meta": len(meta),
            "repeated": repeated,
            "skipped": refused,
            "bought": len(training) - known + len(answered) + len(meta) + refused + repeated,
            "free_validation": free,
        }
        audit = {"audit": plan.audit_images} if plan.audit_images else {}
        return cls(examples, validation, counts | ({"known": known} if known else {}) | audit)


def monitor_of(plan: Plan, labelled: Labelled, number: int) -> Callable[[nn.Module, int], float] | None:
    """A figure on validation images, by which the best epoch of round `number` is kept; None without any."""
    if labelled.validation is None:
        return None
    return ByValidation(*labelled.validation, plan.with_threats().validation, plan.seed, number)


@dataclass(frozen=True, eq=False)
class ByValidation:
    """The figure that `validation.measure` names, of a model after an epoch."""

    inputs: Tensor
    labels: Tensor
    validation: Validation
    seed: int
    round: int

    def __call__(self, model: nn.Module, epoch: int) -> float:
        inputs, labels, by = self.inputs, self.labels, self.validation.measure
        if by == "robust":
            seed = stream(self.seed, "monitor", self.round, epoch)
            return under_attack(model, inputs, labels, self.validation.attack, seed, what="validation").accuracy
        if by == "accuracy":
            return clean(model, inputs, labels).accuracy
        return probabilities(model, inputs).gather(1, labels[:, None]).clamp_min(1e-300).log().mean().item()


def measure(
    plan: Plan,
    data: Data,
    labelled: Labelled,
    trained: Trained,
    number: int,
    answers: Tensor,
    audit: Audit | None = None,
    history: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The metrics of round `number`. All rates lie in [0, 1]; what cannot be measured is None.

    `history`: the rounds before, by which a plan's `stop` decides whether this one is the last; with the first of them
    a retraining is compared.
    """
    started, plan = time.perf_counter(), plan.with_threats()
    row: dict[str, Any] = {
        "round": number,
        "labelled": labelled.counts["bought"],
        "accuracy": None,
        "robust_accuracy": {},
        "labels": labelled.counts,
        "epoch_kept": trained.epoch,
        "validation": None,
        "per_class": {"accuracy": None, "robust_accuracy": {}, "boundary_error": {}},
        "images": {},
        "query": {
            "images": len(answers),
            "classes": torch.bincount(answers[answers >= 0], minlength=len(data.classes)).tolist(),
            "answers": refusals(answers),
        },
    }
    if labelled.validation is not None:
        row["validation"] = _on_validation(plan, labelled.validation, trained.model, number)
    stopped = stopped_by(plan, [*history, row])
    if stopped is not None:
        row["stopped"] = stopped
    is_last, each = number == plan.rounds or stopped is not None, data.known is not None
    if data.test is not None:
        inputs, labels = data.test.images.at_rest(torch.arange(len(data.test))), data.test.labels
        unknown = int((labels >= len(data.classes)).sum())
        if unknown:
            row["unforeseen"] = unknown
        row |= _measured(plan, trained.model, inputs, labels, len(data.classes), number, is_last, "test", each)
        if each and history:
            row["against_before"] = _changes_since(history[0], row)
    if data.known_test is not None:
        inputs, labels = data.known_test.images.at_rest(torch.arange(len(data.known_test))), data.known_test.labels
        row["known_test"] = _measured(
            _quickly(plan), trained.model, inputs, labels, len(data.classes), number, is_last, "known test", each
        )
        if each and history:
            row["known_test"]["against_before"] = _changes_since(history[0].get("known_test", {}), row["known_test"])
    if audit is not None:
        row["audit"] = {"asked": len(audit.labels), "alike": audit.alike, "answers": refusals(audit.labels)}
        row["audit"]["labels"] = f"{zlib.crc32(audit.labels.numpy().tobytes()):08x}"
        known = audit.labels >= 0
        if bool(known.any()):
            inputs, labels = audit.inputs[known], audit.labels[known]
            classes = int(labels.max()) + 1  # people named them all
            row["audit"] |= _measured(plan, trained.model, inputs, labels, classes, number, is_last, "audit", each)
            # an answer that was corrected since would count as learned
            if each and history and history[0].get("audit", {}).get("labels") == row["audit"]["labels"]:
                row["audit"]["against_before"] = _changes_since(history[0]["audit"], row["audit"])
    return row | {"seconds": time.perf_counter() - started}


def stopped_by(plan: Plan, rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Why the plan's `stop` ends the run after these rounds: points for 100 labels, and how sure; None: it goes on."""
    stop = plan.stop
    if stop is None or len(rows) < stop.after or len(rows) > plan.rounds:
        return None
    is_like = type(plan.start.recipe.objective) is type(plan.recipe.objective)
    points: dict[int, float] = {}  # by labels bought, which a round whose questions nobody answered leaves as they are
    for row in rows[0 if is_like else 1 :]:
        if row["validation"] is not None and row["labelled"] > max(points, default=0):
            points[row["labelled"]] = _watched(row["validation"])
    if len(points) < FEWEST:
        return None
    labels, rates = list(points), list(points.values())
    curve, following = fitted(labels, rates), labels[-1] + plan.per_round
    wanted = stop.gain / 100 * plan.per_round / 100
    probability, gain = curve.gains_less(following, wanted), curve.at(following).gain
    if probability <= stop.sure:
        return None
    return {"points_for_100_labels": 100 * gain * 100 / plan.per_round, "probability": probability}


def _watched(validation: dict[str, Any]) -> float:
    robust = validation["robust_accuracy"]
    return float(min(robust.values()) if robust else validation["accuracy"])


@dataclass(frozen=True, eq=False)
class Audit:
    """The audit set and its answers.

    Args:
        inputs: [A, C, H, W] at rest.
        labels: [A] int64: classes, SKIPPED or NONE_OF_THESE.
        alike: how many further images of the pool were left out of it, for they are like some of these.
    """

    inputs: Tensor
    labels: Tensor
    alike: int = 0


def refusals(answers: Tensor) -> dict[str, int]:
    """How many answers are no class.

    >>> refusals(torch.tensor([3, -2, -3, -3]))
    {'skipped': 1, 'none_of_these': 2}
    """
    return {"skipped": int((answers == SKIPPED).sum()), "none_of_these": int((answers == NONE_OF_THESE).sum())}


def _on_validation(plan: Plan, split: tuple[Tensor, Tensor], model: nn.Module, number: int) -> dict[str, Any]:
    attack, seed = plan.validation.attack, stream(plan.seed, "validate", number)
    robust = {}
    if plan.validation.measure == "robust":
        found = under_attack(model, *split, attack, seed, what=f"round {number}: {attack.label}, validation")
        robust = {name_of(attack, plan.threat): found.accuracy}
    return {"accuracy": clean(model, *split).accuracy, "robust_accuracy": robust, "images": len(split[1])}


def _measured(
    plan: Plan,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    number: int,
    is_last: bool,
    what: str = "test",
    each: bool = False,
) -> dict[str, Any]:
    """Rates on images and on those of them that are attacked: of the test as many as the plan says, of an audit all.

    `each`: keep of each image whether the model was right, and whether it stood each attack, for rounds to come.
    Images of classes that nobody has thought of, labels from `classes` on, are wrong whatever the model says.
    """
    asked, total, known = plan.evaluation, len(labels), labels < classes
    per_class: dict[str, Any] = {"accuracy": None, "robust_accuracy": {}, "boundary_error": {}}
    found: dict[str, Any] = {"accuracy": 0.0, "robust_accuracy": {}, "per_class": per_class, "images": {"clean": total}}
    right = found.setdefault("right", {}) if each else {}
    if not bool(known.any()):
        return found
    verdicts = clean(model, inputs[known], labels[known])
    found["accuracy"], per_class["accuracy"] = float(verdicts.correct.sum()) / total, verdicts.per_class
    right["clean"] = _packed(known, verdicts.correct)
    parts: list[tuple[int, tuple[Attack, ...]]] = [(asked.each_round_images or asked.images, asked.each_round)]
    if is_last:
        parts.append((asked.images, asked.at_end))
    seed = stream(plan.seed, *(() if what == "test" else (what,)), "evaluate", number)
    for images, attacks in parts:
        count = total if what == "audit" else min(images, total)
        first, attacks = known[:count], tuple(fitting(attack, verdicts.classes) for attack in attacks)
        some, theirs, clean_of = inputs[:count][first], labels[:count][first], verdicts.correct[: int(first.sum())]
        if not len(theirs):
            continue
        for label, seconds in seconds_needed(model, some, theirs, attacks).items():
            if seconds > 2:
                say(f"round {number}: {label} on {count} {what} images takes at most about {seconds:.0f} s")
        for attack in attacks:
            name = name_of(attack, plan.threat)
            title = f"round {number}: {name}" + ("" if what == "test" else f", {what}")
            under = under_attack(model, some, theirs, attack, seed, what=title)
            found["robust_accuracy"][name], found["images"][name] = float(under.correct.sum()) / count, count
            per_class["robust_accuracy"][name] = under.per_class
            right[name] = _packed(first, under.correct)
            as_it_is = replace(verdicts, correct=clean_of, labels=theirs).per_class
            per_class["boundary_error"][name] = [
                None if one is None or other is None else one - other
                for one, other in zip(as_it_is, under.per_class, strict=True)
            ]
    return found


def _quickly(plan: Plan) -> Plan:
    """The same, but for attacks: where the plan asks for any, `Monitor`, a third of AutoAttack's work."""
    attacks = (
        (Monitor(threat=plan.threat),) if plan.evaluation.each_round and isinstance(plan.threat, Linf | L2) else ()
    )
    asked = replace(plan.evaluation, each_round=attacks, at_end=())
    return replace(plan, evaluation=asked)


def _packed(known: Tensor, correct: Tensor) -> str:
    """Verdicts on the images that are `known`, and False on the others, [N] bool; as hexadecimal digits.

    >>> _packed(torch.tensor([True, False, True, True, True]), torch.tensor([True, False, False, True]))
    '88'
    """
    right = torch.zeros(len(known), dtype=torch.bool).masked_scatter(known, correct)
    return np.packbits(right.numpy()).tobytes().hex()


def _changes_since(first: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """What changed since the first round: on images as they are, and ("robust") by attack on those attacked in both."""
    found: dict[str, Any] = {}
    for name, now in row["right"].items():
        count, was = row["images"][name], first.get("right", {}).get(name)
        if was is not None and first["images"][name] == count:
            bits = (np.unpackbits(np.frombuffer(bytes.fromhex(each), np.uint8), count=count) for each in (was, now))
            found[name] = changes(*(torch.from_numpy(each).bool() for each in bits))
    return found.pop("clean", {}) | {"robust": found}


def changes(was: Tensor, now: Tensor) -> dict[str, float | int | None]:
    """What a training changed on test images, [T] bool each: right before it, and right now; under attack: stood it.

    Returns:
        "right": how many were right; "forgotten": the share of them that is wrong now; "wrong": how many were wrong;
        "learned": the share of them that is right now. A share of no image is None.

    >>> changes(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    {'right': 2, 'forgotten': 0.5, 'wrong': 1, 'learned': 0.0}
    """
    found: dict[str, float | int | None] = {}
    for of, share, which, turned in (("right", "forgotten", was, ~now), ("wrong", "learned", ~was, now)):
        count = int(which.sum())
        found |= {of: count, share: int((which & turned).sum()) / count if count else None}
    return found


def describe_query(candidates: Candidates, question: Tensor) -> dict[str, list[float]]:
    """The entropy of the chosen images against that of the pool: histograms over common edges, in nats."""
    values = entropy(candidates.probs).double()
    chosen = values[torch.isin(candidates.indices, question)]
    edges = torch.linspace(0, torch.log(torch.tensor(float(len(candidates.pool.classes)))).item(), _BINS + 1)
    span = (float(edges[0]), float(edges[-1]))
    return {
        "edges": edges.tolist(),
        "pool": torch.histc(values.clamp(*span), _BINS, *span).tolist(),
        "chosen": torch.histc(chosen.clamp(*span), _BINS, *span).tolist(),
    }
