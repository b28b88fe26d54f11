"""Which tuners are alive: told by a lock that ends with its processes, or by a beat that other machines see.

By hand: with Optuna's heartbeat a search that was killed would go on only when its grace period is over (measured: 5.9
of 6 s; the lock tells at once), and its callback, which comes when a trial has ended, cannot note that it was lost.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from qin_zoo.files import fcntl
from qin_zoo.processes.worker import hold

BEAT_SECONDS = 20.0
SILENCE_SECONDS = 150.0
"""After so long without a beat, a tuner that no lock tells of is taken for dead."""


class Lock:
    """A file, made here, whose lock is held by a tuner and its workers, and ends when the last of them has ended."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = hold(path, "w")

    def release(self) -> None:
        """Lets go of it, and removes the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def lock_path(folder: Path, tuner: str) -> Path:
    """Where the lock of a tuner of this name lies."""
    return folder / f".{tuner}.lock"


def is_dead(path: Path) -> bool | None:
    """Whether a tuner and all its workers have ended, whose lock is removed then; None where that does not tell."""
    if fcntl is None:  # Windows; beats alone tell there
        return None
    try:
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            path.unlink(missing_ok=True)
            return True
    except OSError:  # no such file: the tuner is on another machine; or a file system without locks
        return None


class Beats:
    """Watches the beats of tuners elsewhere. Clocks of two machines are not compared: a beat must change."""

    def __init__(self):
        self._seen: dict[str, tuple[object, float]] = {}

    def is_silent(self, tuner: str, beat: object) -> bool:
        """Whether this beat has been the same for :data:`SILENCE_SECONDS`."""
        if tuner not in self._seen or self._seen[tuner][0] != beat:
            self._seen[tuner] = beat, time.monotonic()
        return time.monotonic() - self._seen[tuner][1] > SILENCE_SECONDS


def new_tuner() -> str:
    """A name for this process that no other has, here or elsewhere."""
    return f"{os.uname().nodename if hasattr(os, 'uname') else 'host'}-{os.getpid()}-{os.urandom(4).hex()}"
