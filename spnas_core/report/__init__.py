"""Reports of a run: the result table, `report.md`, `trials.csv`, `pareto.png`, and everything in one HTML file."""

from spnas_core.report.picture import pareto_png
from spnas_core.report.publish import publish_run
from spnas_core.report.tables import Row, markdown, plain, plain_timing, rows, table_of, trials_csv
from spnas_core.report.text import report_md

__all__ = ["Row", "markdown", "pareto_png", "plain", "plain_timing", "publish_run", "report_md", "rows", "table_of", "trials_csv"]
