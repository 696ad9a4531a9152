"""Oracles: who answers. Held-back labels for simulation, a CSV file for a person."""

from robal.oracles.csv_file import CSVFile
from robal.oracles.hidden import Hidden
from robal.oracles.oracle import Oracle

__all__ = ["CSVFile", "Hidden", "Oracle"]

ALIASES = {"hidden": "Hidden", "simulated": "Hidden", "csv": "CSVFile", "file": "CSVFile"}
