"""Scores of images as pure functions: higher = label me first."""

from robal.scores.uncertainty import deepgini, entropy, least_confidence, margin

__all__ = ["deepgini", "entropy", "least_confidence", "margin"]
