"""Where what is kept of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFiles:
    """Where a run's results lie: ``<model_root>/<dataset_id>/<expid>.*``."""

    folder: Path
    expid: str

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.expid}{suffix}"

    @property
    def checkpoint(self) -> Path:
        return self._file(".model")

    @property
    def checkpoints(self) -> Path:
        return self._file(".checkpoints")

    @property
    def events(self) -> Path:
        return self._file(".events")

    @property
    def config(self) -> Path:
        """Folder of the configuration of a run that was made of a model and a folder of data."""
        return self._file(".config")

    @property
    def encoder(self) -> Path:
        """What encoding raw files learned from the training rows."""
        return self._file(".encoder.json")

    @property
    def rows(self) -> Path:
        """Of a continued run: its training rows, those that were trained again and the period's own."""
        return self._file(".train.parquet")

    @property
    def staleness(self) -> Path:
        """Of a continued run: periods since each value of each table last occurred."""
        return self._file(".staleness.npz")

    @property
    def lock(self) -> Path:
        return self.folder / f".{self.expid}.lock"

    @property
    def log(self) -> Path:
        return self._file(".log")

    @property
    def record(self) -> Path:
        return self._file(".json")

    @property
    def report(self) -> Path:
        return self._file(".md")

    @property
    def curves(self) -> Path:
        return self._file(".png")

    @property
    def prediction(self) -> Path:
        return self._file(".prediction.csv")

    @property
    def submission(self) -> Path:
        return self._file(".submission.zip")
