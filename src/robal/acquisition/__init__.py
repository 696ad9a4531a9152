"""Acquisition functions: which images to label next. A new one is one file and one line here."""

from robal.acquisition.acquisition import Acquisition, Score, choose, examples_of, is_score, needs_of, select
from robal.acquisition.adversarial_entropy import AdversarialEntropy
from robal.acquisition.badge import BADGE, badge
from robal.acquisition.bayesian import BALD, DropOutEntropy
from robal.acquisition.boundary import BoundaryEnriched, boundary_enriched
from robal.acquisition.by_proxy import ByProxy, proxy_in
from robal.acquisition.ceal import CEAL
from robal.acquisition.coreset import CoreSet, k_center_greedy
from robal.acquisition.crafted import Crafted
from robal.acquisition.dfal import DFAL
from robal.acquisition.disagreement import Disagreement
from robal.acquisition.distance import FGSMBisection, LinearisedDistance, LogitMargin
from robal.acquisition.dre import DRE, dre
from robal.acquisition.egl import EGL
from robal.acquisition.entropy_mix import EntropyMix
from robal.acquisition.estimators import query
from robal.acquisition.exclude_hard import ExcludeHard
from robal.acquisition.first_order import BEST, KMST, FirstOrderLoss
from robal.acquisition.input_gradient import LowInputGradient
from robal.acquisition.mcp import MCP, mcp
from robal.acquisition.near_examples import NearExamples
from robal.acquisition.novelty import FeatureNovelty, feature_novelty
from robal.acquisition.of_teacher import OfTeacher
from robal.acquisition.probcover import ProbCover, probcover
from robal.acquisition.random import Random
from robal.acquisition.screened import Screened
from robal.acquisition.surprise import DistanceSurprise, LikelihoodSurprise
from robal.acquisition.typiclust import TypiClust, typiclust
from robal.acquisition.uncertainty import DeepGini, LeastConfidence, Margin, MaxEntropy
from robal.acquisition.wrappers import BalancedByPrediction, Mix, Subsample

__all__ = [
    "BADGE",
    "BALD",
    "BEST",
    "CEAL",
    "DFAL",
    "DRE",
    "EGL",
    "KMST",
    "MCP",
    "Acquisition",
    "AdversarialEntropy",
    "BalancedByPrediction",
    "BoundaryEnriched",
    "ByProxy",
    "CoreSet",
    "Crafted",
    "DeepGini",
    "Disagreement",
    "DistanceSurprise",
    "DropOutEntropy",
    "EntropyMix",
    "ExcludeHard",
    "FGSMBisection",
    "FeatureNovelty",
    "FirstOrderLoss",
    "LeastConfidence",
    "LikelihoodSurprise",
    "LinearisedDistance",
    "LogitMargin",
    "LowInputGradient",
    "Margin",
    "MaxEntropy",
    "Mix",
    "NearExamples",
    "OfTeacher",
    "ProbCover",
    "Random",
    "Score",
    "Screened",
    "Subsample",
    "TypiClust",
    "badge",
    "boundary_enriched",
    "choose",
    "dre",
    "examples_of",
    "feature_novelty",
    "is_score",
    "k_center_greedy",
    "mcp",
    "needs_of",
    "probcover",
    "proxy_in",
    "query",
    "select",
    "typiclust",
]

ALIASES = {
    # the DRE study's short names
    "random": "Random",
    "entropy": "MaxEntropy",
    "gini": "DeepGini",
    "lc": "LeastConfidence",
    "margin": "Margin",
    "mcp": "MCP",
    "bald": "BALD",
    "entropyDrop": "DropOutEntropy",
    "kcenter": "CoreSet",
    "dfal": "DFAL",
    "dre": "DRE",
    # other names that people search for
    "EntropySampling": "MaxEntropy",
    "maxentropy": "MaxEntropy",
    "KCenterGreedy": "CoreSet",
    "coreset": "CoreSet",
    "AdversarialDeepFool": "DFAL",
    "ExpectedGradientLength": "EGL",
    "ceal": "CEAL",
    "badge": "BADGE",
    "typiclust": "TypiClust",
    "probcover": "ProbCover",
    "DFM": "FeatureNovelty",
    "LSA": "LikelihoodSurprise",
    "DSA": "DistanceSurprise",
    "FOL": "FirstOrderLoss",
    "KM-ST": "KMST",
    "BE-ST": "BEST",
}
