"""Fetching public datasets: parallel, resuming, checked. :func:`download_dataset` is the way in."""

from qin_zoo.data.download.dataset import FileResult, Stopped, download_dataset
from qin_zoo.data.download.known import KNOWN, KnownDataset, known_dataset

__all__ = ["KNOWN", "FileResult", "KnownDataset", "Stopped", "download_dataset", "known_dataset"]
