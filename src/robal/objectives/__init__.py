"""Objectives: what training minimises. A new one is one file and one line here."""

from robal.objectives.adversarial import Adversarial
from robal.objectives.awp import hardest_weights
from robal.objectives.fixmatch import FixMatch
from robal.objectives.mtl_ibp import MTLIBP
from robal.objectives.natural import Natural
from robal.objectives.nfgsm import NFGSM
from robal.objectives.objective import Batch, Objective, cross_entropy
from robal.objectives.trades import Trades

__all__ = [
    "MTLIBP",
    "NFGSM",
    "Adversarial",
    "Batch",
    "FixMatch",
    "Natural",
    "Objective",
    "Trades",
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
}
