"""Measuring models honestly: clean and worst-case accuracy, overall and per class."""

from robal.evaluation.accuracy import Verdicts, clean, predict, seconds_needed, under_attack

__all__ = ["Verdicts", "clean", "predict", "seconds_needed", "under_attack"]
