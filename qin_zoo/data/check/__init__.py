"""Checking the files of a dataset, mending a copy, and a quick look at any file."""

from qin_zoo.data.check.findings import CODES, Finding
from qin_zoo.data.check.folder import Report, check_folder

__all__ = ["CODES", "Finding", "Report", "check_folder"]
