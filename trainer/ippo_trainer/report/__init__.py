"""The report of a run: one self-contained HTML file, drawn from what the run has published."""

from ippo_trainer.report.gather import gather
from ippo_trainer.report.page import render, write_report

__all__ = ["gather", "render", "write_report"]
