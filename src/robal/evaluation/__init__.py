"""Evaluation: accuracy clean and under attack, certificates, classes, reliability, and checks of the defence."""

from robal.evaluation.accuracy import Verdicts, broken_by, clean, predict, seconds_needed, under_attack
from robal.evaluation.certified import Sandwich, certified, linear_radius, sandwich
from robal.evaluation.checks import check_defence
from robal.evaluation.classwise import Classwise, classwise, confusion
from robal.evaluation.corruptions import CORRUPTIONS, corrupt, under_corruptions
from robal.evaluation.ledger import Ledger, evaluate_attack, fitting
from robal.evaluation.model_checks import Finding
from robal.evaluation.reliability import Reliability, out_of_distribution, probabilities, reliability

__all__ = [
    "CORRUPTIONS",
    "Classwise",
    "Finding",
    "Ledger",
    "Reliability",
    "Sandwich",
    "Verdicts",
    "broken_by",
    "certified",
    "check_defence",
    "classwise",
    "clean",
    "confusion",
    "corrupt",
    "evaluate_attack",
    "fitting",
    "linear_radius",
    "out_of_distribution",
    "predict",
    "probabilities",
    "reliability",
    "sandwich",
    "seconds_needed",
    "under_attack",
    "under_corruptions",
]
