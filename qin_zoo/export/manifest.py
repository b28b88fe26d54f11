"""What an exported model says of itself: its inputs, where it comes from, and how good it was."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from qin_zoo import __version__
from qin_zoo.calibration import calibrator_to_dict, read_calibrator
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.record import read_record
from qin_zoo.export.request import ItemTableModel
from qin_zoo.feature_types import type_of
from qin_zoo.files import file_digest
from qin_zoo.registry import discover

_LEFT_OUT = {"feature_cols", "label_col", "gpu", "verbose", "num_workers", "model_id"}
_VERSIONS = ("qin_zoo", "python", "torch", "fuxictr", "numpy")


def make_manifest(prepared: Prepared, described: dict, checkpoint: Path, data: dict) -> dict:
    """The manifest, JSON values.

    Args:
        prepared: the experiment.
        described: what a scorer needs to know of the model.
        checkpoint: file of the weights; a calibration step beside it goes into the manifest.
        data: fingerprints of the data files.
    """
    calibrator = read_calibrator(checkpoint)
    return {
        "name": prepared.expid,
        "model": prepared.params["model"],
        "task": prepared.params.get("task", "binary_classification"),
        "dataset_id": prepared.params["dataset_id"],
        "model_card": _card(prepared),
        **described,
        "calibration": None if calibrator is None else calibrator_to_dict(calibrator),
        "run": _run(prepared, checkpoint),
        "data": data,
        "exported_by": f"qin-zoo {__version__}",
    }


def describe(model: ItemTableModel, items: dict[str, Tensor], max_len: int) -> dict:
    """What a scorer needs to know: ``inputs``, ``feature_order`` and ``items``."""
    inputs = model.inputs(items)
    padded = any(getattr(module, "sees_padding", False) for module in model.modules())
    return {
        "inputs": {
            "history": {"max_len": max_len, "padded": padded, "beside": inputs["beside"]},
            "context": [{**d, "default": [] if type_of(d).form == "ids" else None} for d in inputs["context"]],
            "new": inputs["new"],
        },
        "feature_order": {"context": list(model.context), "item": list(items)},
        "items": {"count": model.table.shape[0], "dim": model.table.shape[1]},
    }


def _card(prepared: Prepared) -> dict:
    entry = discover(prepared.plugins).get(prepared.params["model"])
    return {"summary": entry.summary, **entry.card} if entry else {}


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
