"""Objectives: what training minimises. A new one is one file and one line here."""

from robal.objectives.adversarial import Adversarial
from robal.objectives.natural import Natural
from robal.objectives.objective import Batch, Objective
from robal.objectives.trades import Trades

__all__ = ["Adversarial", "Batch", "Natural", "Objective", "Trades"]

ALIASES = {
    "natural": "Natural",
    "standard": "Natural",
    "adversarial": "Adversarial",
    "pgd-at": "Adversarial",
    "trades": "Trades",
}
