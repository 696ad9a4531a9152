"""Oracles: who answers. Held-back labels for simulation; for people a page, Label Studio or a CSV file."""

from robal.oracles.agreement import FURTHER, agreed_by_several, answer_of
from robal.oracles.csv_file import CSVFile
from robal.oracles.hidden import Hidden
from robal.oracles.judgements import Judgement, Judgements, Settlement, class_name, standing
from robal.oracles.label_studio import LabelStudio
from robal.oracles.oracle import InFolder, Oracle
from robal.oracles.page import Page
from robal.oracles.people import People

__all__ = [
    "FURTHER",
    "CSVFile",
    "Hidden",
    "InFolder",
    "Judgement",
    "Judgements",
    "LabelStudio",
    "Oracle",
    "Page",
    "People",
    "Settlement",
    "agreed_by_several",
    "answer_of",
    "class_name",
    "standing",
]

ALIASES = {
    "hidden": "Hidden",
    "simulated": "Hidden",
    "csv": "CSVFile",
    "file": "CSVFile",
    "browser": "Page",
    "person": "Page",
    "label_studio": "LabelStudio",
}
