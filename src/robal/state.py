"""Where a run stands, as a value, and what the answers of a round change in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from robal.data import Data
from robal.folder import RunFolder, is_over
from robal.kept import relabelled_too
from robal.plan import Plan
from robal.pool import Examples, Pool
from robal.seeds import generator


@dataclass(frozen=True, eq=False)
class State:
    """Where a run stands. A value: a step returns a new one.

    Args:
        pool: what is known of the labels.
        history: the metrics of the finished rounds; the round at work is `len(history)`.
        question: [n] int64, what the round at work asks about, or None before it asks.
        note: what was seen when the question was chosen (entropies, seconds).
        answers: [n] int64, or None before they are all there.
        validation: [V] int64, the bought images that went to validation.
        meta: [M] int64, those that went to the meta set.
        again: [A] int64, those that were asked about again.
        kept: what the acquisition function added to the training set: adversarial twins, pseudo-labelled images.
        audit: [n] int64 twice, the images of the audit set and their answers, which the pool does not know.
    """

    pool: Pool
    history: tuple[dict[str, Any], ...] = ()
    question: Tensor | None = None
    note: dict[str, Any] | None = None
    answers: Tensor | None = None
    validation: Tensor = torch.empty(0, dtype=torch.int64)
    meta: Tensor = torch.empty(0, dtype=torch.int64)
    again: Tensor = torch.empty(0, dtype=torch.int64)
    kept: Examples = field(default_factory=Examples.none)
    audit: tuple[Tensor, Tensor] = (torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))

    @property
    def labels(self) -> Tensor:
        """[N] int64, as the pool's, with the answers of the audit: for people who look at labels, not for training."""
        found = self.pool.labels.clone()
        found[self.audit[0]] = self.audit[1]
        return found

    def is_over(self, plan: Plan) -> bool:
        """Whether the last round is done, by the plan's number or because its `stop` says so."""
        return is_over(plan.rounds, self.history)

    def relabelled(self, images: Tensor, labels: Tensor) -> State:
        """With other labels, [q] int64, of images that have one; those of the audit stay apart."""
        of_audit = torch.isin(images, self.audit[0])
        corrected = self.labels
        corrected[images] = labels
        pool = self.pool.relabel(images[~of_audit], labels[~of_audit])
        return replace(self, pool=pool, audit=(self.audit[0], corrected[self.audit[0]]))

    @property
    def round(self) -> int:
        """The number of the round at work."""
        return len(self.history)


def reveal(plan: Plan, state: State, relabelled: tuple[Tensor, Tensor]) -> State:
    """The state whose pool knows the answers; random shares go to validation and the meta set (DESIGN §3, rule 10).

    Those of the audit stay apart. `relabelled`: images that the round asked about again, and their labels now.
    """
    question, answers = there(state.question), there(state.answers)
    validation, meta = shared_out(plan, state.round, len(question))
    count, audit, pool = audited_of(plan, state.round), state.audit, state.pool
    if count:
        audit = (question[:count], answers[:count])
        beside = torch.tensor((state.note or {}).get("alike", []), dtype=torch.int64)
        pool = pool.set_apart(torch.cat([question[:count], beside]))
    known = replace(state, pool=pool.reveal(question[count:], answers[count:]), audit=audit).relabelled(*relabelled)
    return replace(
        known,
        validation=torch.cat([state.validation, question[validation]]),
        meta=torch.cat([state.meta, question[meta]]),
        again=torch.cat([state.again, relabelled[0]]),
        kept=relabelled_too(state.kept, *relabelled),
    )


def shared_out(plan: Plan, number: int, asked: int) -> tuple[Tensor, Tensor]:
    """Which of the answers of a round, as positions in the question, go to validation, and which to the meta set."""
    audit = audited_of(plan, number)
    validation, meta = plan.apart(asked - audit)
    drawn = torch.randperm(asked - audit, generator=generator(plan.seed, "validation", number)) + audit
    return drawn[:validation].sort().values, drawn[validation : validation + meta].sort().values


def audited_of(plan: Plan, number: int) -> int:
    """How many of the images that a round asks about, the first ones, are the audit's."""
    return 0 if number else plan.audit_images


def with_new_classes(state: State, data: Data, place: RunFolder) -> State:
    """The state whose pool knows the classes that people named up to its round."""
    classes = (*data.classes, *place.new_classes(state.round))
    return replace(state, pool=replace(state.pool, classes=classes))


def there(value: Any) -> Any:
    if value is None:
        raise RuntimeError("a step was taken out of turn")
    return value
