"""Reports: run folders read, and turned into tables, figures and one static page. Reads files and nothing else."""

from robal.report.evaluation import evaluation_page, evaluation_table
from robal.report.page import report
from robal.report.tables import table

__all__ = ["evaluation_page", "evaluation_table", "report", "table"]
