"""Objectives: what training minimises. A new one is one file and one line here."""

from robal.objectives.act import ACT
from robal.objectives.adversarial import Adversarial
from robal.objectives.awp import hardest_weights
from robal.objectives.caat import CAAT
from robal.objectives.class_costs import ClassCosts
from robal.objectives.fixmatch import FixMatch
from robal.objectives.frl import FRL
from robal.objectives.mtl_ibp import MTLIBP
from robal.objectives.natural import Natural
from robal.objectives.nfgsm import NFGSM
from robal.objectives.objective import Batch, Lesson, Objective, cross_entropy
from robal.objectives.trades import Trades
from robal.objectives.weighing import Doubtful, Learned, LossRank, Weighing

__all__ = [
    "ACT",
    "CAAT",
    "FRL",
    "MTLIBP",
    "NFGSM",
    "Adversarial",
    "Batch",
    "ClassCosts",
    "Doubtful",
    "FixMatch",
    "Learned",
    "Lesson",
    "LossRank",
    "Natural",
    "Objective",
    "Trades",
    "Weighing",
    "cross_entropy",
    "hardest_weights",
]

ALIASES = {
    "natural": "Natural",
    "standard": "Natural",
    "adversarial": "Adversarial",
    "pgd-at": "Adversarial",
    "trades": "Trades",
    "nfgsm": "NFGSM",
    "n-fgsm": "NFGSM",
    "fixmatch": "FixMatch",
    "mtl-ibp": "MTLIBP",
    "mtlibp": "MTLIBP",
    "frl": "FRL",
    "caat": "CAAT",
    "act": "ACT",
}
