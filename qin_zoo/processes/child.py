"""Processes that train for another one."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import wait

from tqdm import tqdm

_SECONDS_BETWEEN_LOOKS = 0.5


def begin_child() -> None:
    """Makes this process end as soon as its parent has, even by SIGKILL: nobody would take the result."""
    parent = multiprocessing.parent_process().sentinel

    def watch() -> None:
        wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="qin-zoo parent watch").start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed would leave behind


def end_with_launcher() -> None:
    """The same for a process of ``torchrun``, or of ``--devices``: alone it would wait for the others, and write."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="qin-zoo launcher watch").start()
