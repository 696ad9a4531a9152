"""robal: robust active learning. Which images to label so that the model stands up to adversarial examples.

The names below are loaded when first used, because torch takes seconds to import and `robal --help` should not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from robal.acquisition import DRE, MCP, DeepGini, LeastConfidence, Margin, MaxEntropy, Random, select
    from robal.attacks import FGSM, PGD, AutoAttack, perturb
    from robal.data import Data
    from robal.loop import run
    from robal.objectives import Adversarial, Natural, Trades
    from robal.plan import Evaluation, Plan, Source, Start, Validation
    from robal.pool import Pool
    from robal.threats import L2, Linf
    from robal.training import Recipe, fit

__all__ = [
    "DRE",
    "FGSM",
    "L2",
    "MCP",
    "PGD",
    "Adversarial",
    "AutoAttack",
    "Data",
    "DeepGini",
    "Evaluation",
    "LeastConfidence",
    "Linf",
    "Margin",
    "MaxEntropy",
    "Natural",
    "Plan",
    "Pool",
    "Random",
    "Recipe",
    "Source",
    "Start",
    "Trades",
    "Validation",
    "fit",
    "perturb",
    "run",
    "select",
]

_HOMES = ("threats", "pool", "data", "attacks", "objectives", "acquisition", "training", "plan", "loop")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"robal.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module 'robal' has no attribute {name!r}")
