"""The names of what a study measures."""

from __future__ import annotations

from typing import Literal

from robal.plan import Plan, name_of

BOUNDARY = "boundary error under "
WORST = ", worst class"
KINDS = (", balanced", WORST)


def measures_of(plan: Plan, at: Literal["end", "area"] = "end") -> list[str]:
    """What a run measures at its end, or in each round: "accuracy", each attack by its name, and both by class.

    By class are the mean over classes, the worst class, and the boundary error: what an attack takes from the accuracy.

    >>> measures_of(Plan(), at="area")[:6]
    ['accuracy', 'PGD-50', 'accuracy, balanced', 'accuracy, worst class', 'PGD-50, balanced', 'PGD-50, worst class']
    >>> measures_of(Plan(), at="area")[6:]
    ['boundary error under PGD-50', 'boundary error under PGD-50, worst class']
    """
    evaluation = plan.evaluation
    attacks = (*evaluation.each_round, *(evaluation.at_end if at == "end" else ()))
    names = ["accuracy", *(name_of(attack, plan.threat) for attack in attacks)]
    by_class = [name + kind for name in names for kind in KINDS]
    fallen = [BOUNDARY + name + kind for name in names[1:] for kind in ("", WORST)]
    return [*names, *by_class, *fallen]


def is_by_class(measure: str) -> bool:
    """Whether it is made of the rates of the classes."""
    return measure.endswith(KINDS) or measure.startswith(BOUNDARY)


def without_kind(measure: str) -> str:
    """What a measure by class is made of.

    >>> without_kind("PGD-50, worst class"), without_kind("boundary error under PGD-50")
    ('PGD-50', 'boundary error under PGD-50')
    """
    for kind in KINDS:
        measure = measure.removesuffix(kind)
    return measure


def in_words(measure: str) -> str:
    """As titles and sentences say it.

    >>> [in_words(one) for one in ("accuracy, worst class", "PGD-50", "boundary error under PGD-50")]
    ['accuracy, worst class', 'accuracy under PGD-50', 'boundary error under PGD-50']
    """
    return measure if measure.startswith(("accuracy", BOUNDARY)) else f"accuracy under {measure}"
