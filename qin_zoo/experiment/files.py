"""Where what is kept of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def _ending(suffix: str, what: str) -> property:
    """A path in the run's folder that is named after the run."""
    return property(lambda files: files.folder / f"{files.expid}{suffix}", doc=what)


@dataclass(frozen=True)
class RunFiles:
    """Where a run's results lie: ``<model_root>/<dataset_id>/<expid>.*``."""

    folder: Path
    expid: str

    checkpoint = _ending(".model", "The weights.")
    checkpoints = _ending(".checkpoints", "Folder of what a stopped training goes on from.")
    events = _ending(".events", "Folder of TensorBoard's events.")
    config = _ending(".config", "Folder of the configuration of a run that was made of a model and a folder of data.")
    encoder = _ending(".encoder.json", "What encoding raw files learned from the training rows.")
    rows = _ending(".train.parquet", "Of a continued run its training rows: those trained again, and the period's own.")
    staleness = _ending(".staleness.npz", "Of a continued run: periods since each value of each table last occurred.")
    log = _ending(".log", "What the run told.")
    record = _ending(".json", "What was trained on what, and what came of it.")
    report = _ending(".md", "The same for people.")
    curves = _ending(".png", "Picture of the training.")
    prediction = _ending(".prediction.csv", "Scores of the test rows.")
    submission = _ending(".submission.zip", "The same as the challenge takes them.")

    @property
    def lock(self) -> Path:
        """Held by the process that trains the run."""
        return self.folder / f".{self.expid}.lock"
