"""Acquisition functions: which images to label next. A new one is one file and one line here."""

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of, is_score, needs_of, select
from robal.acquisition.adversarial_entropy import AdversarialEntropy
from robal.acquisition.ceal import CEAL
from robal.acquisition.dre import DRE, dre
from robal.acquisition.entropy_mix import EntropyMix
from robal.acquisition.exclude_hard import ExcludeHard
from robal.acquisition.mcp import MCP, mcp
from robal.acquisition.random import Random
from robal.acquisition.uncertainty import DeepGini, LeastConfidence, Margin, MaxEntropy
from robal.acquisition.wrappers import BalancedByPrediction, Mix, Subsample

__all__ = [
    "CEAL",
    "DRE",
    "MCP",
    "Acquisition",
    "AdversarialEntropy",
    "BalancedByPrediction",
    "DeepGini",
    "EntropyMix",
    "ExcludeHard",
    "LeastConfidence",
    "Margin",
    "MaxEntropy",
    "Mix",
    "Random",
    "Score",
    "Subsample",
    "choose",
    "dre",
    "examples_of",
    "is_score",
    "mcp",
    "needs_of",
    "select",
]

ALIASES = {
    "random": "Random",
    "entropy": "MaxEntropy",
    "maxentropy": "MaxEntropy",
    "EntropySampling": "MaxEntropy",
    "gini": "DeepGini",
    "lc": "LeastConfidence",
    "margin": "Margin",
    "mcp": "MCP",
    "dre": "DRE",
}
