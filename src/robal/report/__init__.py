"""Reports: run folders read, and turned into tables, figures and one static page. Reads files and nothing else."""

from robal.report.page import report
from robal.report.tables import table

__all__ = ["report", "table"]
