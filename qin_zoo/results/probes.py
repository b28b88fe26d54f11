"""What a study found out about a run besides its metrics: kept in a file beside the run's record."""

from __future__ import annotations

import json
from pathlib import Path

from qin_zoo.experiment.record import identity
from qin_zoo.files import read_json, replace_text

_VERSION = 1


def read_probe(record_file: Path, record: dict, asked: dict | None = None) -> dict | None:
    """What was found about this very run; None where nothing is known, or of a run with other parameters or data.

    Also None where something else was asked than ``asked``; that itself is None for whatever it was.
    """
    try:
        stored = read_json(_file(record_file))
        same = stored["version"] == _VERSION and stored["of"] == identity(record["params"], record["data"])
        return stored["found"] if same and asked in (None, stored["asked"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_probe(record_file: Path, record: dict, asked: dict, found: dict) -> None:
    """Keeps what was found."""
    data = {"version": _VERSION, "of": identity(record["params"], record["data"]), "asked": asked, "found": found}
    replace_text(_file(record_file), json.dumps(data, indent=2) + "\n")


def _file(record_file: Path) -> Path:
    return record_file.with_suffix(".tests.json")
