"""The report: one self-contained HTML page from a folder of records."""

from subnetwork.report.page import render, write

__all__ = ["render", "write"]
