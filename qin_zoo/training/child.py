"""Processes that train for another one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, even by SIGKILL: nobody would take the result."""
    threading.Thread(target=_wait_and_end, daemon=True, name="qin-zoo parent watch").start()


def _wait_and_end() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
