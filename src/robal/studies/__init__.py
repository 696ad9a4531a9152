"""Studies: a grid of runs from one file, carried out side by side, and what can honestly be said of it."""

from robal.studies.compare import Place, compare, is_study, joined, with_data
from robal.studies.cost import costs_of, table_of
from robal.studies.page import study_report
from robal.studies.reproduce import named, reproduction, reproductions
from robal.studies.schedule import Local, OnRay, Scheduler
from robal.studies.study import Cell, Primary, Study, study_of
from robal.studies.tracking import MLflow, Tracker, mirrored
from robal.studies.watch import read_text, stop_code, watch

__all__ = [
    "Cell",
    "Local",
    "MLflow",
    "OnRay",
    "Place",
    "Primary",
    "Scheduler",
    "Study",
    "Tracker",
    "compare",
    "costs_of",
    "is_study",
    "joined",
    "mirrored",
    "named",
    "read_text",
    "reproduction",
    "reproductions",
    "stop_code",
    "study_of",
    "study_report",
    "table_of",
    "watch",
    "with_data",
]
