"""Scores of images as pure functions: higher = label me first."""

from robal.scores.bayesian import bald, dropout_entropy
from robal.scores.gradients import expected_gradient_length
from robal.scores.uncertainty import deepgini, entropy, least_confidence, margin

__all__ = ["bald", "deepgini", "dropout_entropy", "entropy", "expected_gradient_length", "least_confidence", "margin"]
