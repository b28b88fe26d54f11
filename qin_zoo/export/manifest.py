"""What an exported model says of itself: its inputs, where it comes from, and how good it was."""

from __future__ import annotations

import json
from pathlib import Path

from qin_zoo import __version__
from qin_zoo.calibration import calibrator_to_dict, read_calibrator
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.record import read_record
from qin_zoo.files import file_digest
from qin_zoo.registry import discover

_LEFT_OUT = {"feature_cols", "label_col", "gpu", "verbose", "num_workers", "model_id"}
_VERSIONS = ("qin_zoo", "python", "torch", "fuxictr", "numpy")


def make_manifest(prepared: Prepared, described: dict, checkpoint: Path, data: dict) -> dict:
    """The manifest, JSON values, a calibration step beside the weights among them.

    Args:
        described: what a scorer needs to know of the model.
        data: fingerprints of the data files.
    """
    calibrator, entry = read_calibrator(checkpoint), discover(prepared.plugins).get(prepared.params["model"])
    return {
        "name": prepared.expid,
        "model": prepared.params["model"],
        "task": prepared.params.get("task", "binary_classification"),
        "dataset_id": prepared.params["dataset_id"],
        "model_card": {"summary": entry.summary, **entry.card} if entry else {},
        **described,
        "calibration": None if calibrator is None else calibrator_to_dict(calibrator),
        "run": _run(prepared, checkpoint),
        "data": data,
        "exported_by": f"qin-zoo {__version__}",
    }


def _run(prepared: Prepared, checkpoint: Path) -> dict:
    """What was trained, and with what result where its record is at hand. Paths of this machine are left out."""
    parameters = {
        key: value
        for key, value in prepared.params.items()
        if key not in _LEFT_OUT and not (isinstance(value, (str, Path)) and "/" in str(value))
    }
    found = {
        "expid": prepared.expid,
        "parameters": json.loads(json.dumps(parameters, default=str)),
        "checkpoint_sha256": file_digest(checkpoint),
    }
    record = read_record(Path(checkpoint).with_suffix(".json"))
    if record is not None:
        found["valid"] = record["valid"]
        found["environment"] = {key: record["environment"].get(key) for key in _VERSIONS}
    return found
