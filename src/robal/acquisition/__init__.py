"""Acquisition functions: which images to label next. A new one is one file and one line here."""

from robal.acquisition.acquisition import Acquisition, Score, choose, is_score, select
from robal.acquisition.dre import DRE, dre
from robal.acquisition.mcp import MCP, mcp
from robal.acquisition.random import Random
from robal.acquisition.uncertainty import DeepGini, LeastConfidence, Margin, MaxEntropy

__all__ = [
    "DRE",
    "MCP",
    "Acquisition",
    "DeepGini",
    "LeastConfidence",
    "Margin",
    "MaxEntropy",
    "Random",
    "Score",
    "choose",
    "dre",
    "is_score",
    "mcp",
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
