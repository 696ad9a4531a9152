"""The model you already have: order images by expected fault, choose some, retrain on them, see what it brought."""

from robal.retraining.faults import apfd, fault_curve
from robal.retraining.ranking import Ranking, rank_from_files
from robal.retraining.retrain import retraining_plan

__all__ = ["Ranking", "apfd", "fault_curve", "rank_from_files", "retraining_plan"]
