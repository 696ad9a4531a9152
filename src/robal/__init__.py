"""robal: robust active learning. Which images to label so that the model stands up to adversarial examples.

The names below are loaded when first used, because torch takes seconds to import and `robal --help` should not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from robal.acquisition import (
        BADGE,
        BALD,
        BEST,
        CEAL,
        DFAL,
        DRE,
        EGL,
        KMST,
        MCP,
        AdversarialEntropy,
        BalancedByPrediction,
        BoundaryEnriched,
        ByProxy,
        CoreSet,
        Crafted,
        DeepGini,
        Disagreement,
        DistanceSurprise,
        DropOutEntropy,
        EntropyMix,
        ExcludeHard,
        FeatureNovelty,
        FGSMBisection,
        FirstOrderLoss,
        LeastConfidence,
        LikelihoodSurprise,
        LinearisedDistance,
        LogitMargin,
        LowInputGradient,
        Margin,
        MaxEntropy,
        Mix,
        NearExamples,
        OfTeacher,
        ProbCover,
        Random,
        Screened,
        Subsample,
        TypiClust,
        query,
        select,
    )
    from robal.attacks import FGSM, PGD, AutoAttack, perturb
    from robal.data import Data
    from robal.loop import run
    from robal.objectives import Adversarial, Natural, Trades
    from robal.plan import Evaluation, Plan, Start, Validation
    from robal.pool import Pool
    from robal.source import Source
    from robal.threats import L1, L2, Linf
    from robal.training import Recipe
    from robal.training.fit import fit

__all__ = [
    "BADGE",
    "BALD",
    "BEST",
    "CEAL",
    "DFAL",
    "DRE",
    "EGL",
    "FGSM",
    "KMST",
    "L1",
    "L2",
    "MCP",
    "PGD",
    "Adversarial",
    "AdversarialEntropy",
    "AutoAttack",
    "BalancedByPrediction",
    "BoundaryEnriched",
    "ByProxy",
    "CoreSet",
    "Crafted",
    "Data",
    "DeepGini",
    "Disagreement",
    "DistanceSurprise",
    "DropOutEntropy",
    "EntropyMix",
    "Evaluation",
    "ExcludeHard",
    "FGSMBisection",
    "FeatureNovelty",
    "FirstOrderLoss",
    "LeastConfidence",
    "LikelihoodSurprise",
    "LinearisedDistance",
    "Linf",
    "LogitMargin",
    "LowInputGradient",
    "Margin",
    "MaxEntropy",
    "Mix",
    "Natural",
    "NearExamples",
    "OfTeacher",
    "Plan",
    "Pool",
    "ProbCover",
    "Random",
    "Recipe",
    "Screened",
    "Source",
    "Start",
    "Subsample",
    "Trades",
    "TypiClust",
    "Validation",
    "fit",
    "perturb",
    "query",
    "run",
    "select",
]

_HOMES = ("threats", "pool", "data", "attacks", "objectives", "acquisition", "training", "source", "plan", "loop")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"robal.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module 'robal' has no attribute {name!r}")
