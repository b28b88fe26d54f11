"""Processes that train for another one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

from tqdm import tqdm


def begin_child() -> None:
    """Makes this process end as soon as its parent has, even by SIGKILL: nobody would take the result."""
    threading.Thread(target=_wait_and_end, daemon=True, name="qin-zoo parent watch").start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed would leave behind


def _wait_and_end() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
