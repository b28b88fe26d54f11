"""What the process does that tries a file (:mod:`qin_zoo.serving.http.trial`)."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.serving.http.live import identity, load
from qin_zoo.serving.http.settings import Settings


def main(settings: str) -> None:
    """The other process: prints what it found, as JSON."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    values = json.loads(settings)
    try:
        found = identity(load(Settings(**{**values, "path": Path(values["path"])})))
    except Exception as error:
        found = {"problem": str(error) if isinstance(error, QinZooError) else first_line(error)}
    print(json.dumps(found), flush=True)
    os._exit(0)


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)
