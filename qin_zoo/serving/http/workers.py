"""Several processes that serve on one port: begun, told, replaced when they crash, and ended together."""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from qin_zoo.errors import QinZooError
from qin_zoo.serving.http.log import event

_LOOK = 0.05  # seconds between looks at the workers
_SOON = 1.0  # a worker that ended sooner after its start waits so long for its successor


def supervise(
    workers: int, work: Callable[[int, int], None], begun: Callable[[], None], close: Callable[[], None]
) -> None:
    """Runs workers until SIGTERM or SIGINT. SIGHUP is passed on to each.

    They are forked, so that what this process holds, an item table of gigabytes among it, is there once. One that
    crashes is replaced; its listener stays open here, so that who connects meanwhile waits.

    Args:
        work: called in each with its number, and with a file that ends when this process does.
        begun: called once they are there.
        close: called when they are told to end, before they are; it closes the listeners.

    Raises:
        QinZooError: this system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise QinZooError("--workers: several of them need a system that can fork processes; give 1.")
    ending = False
    handlers = {signal.SIGINT: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
    reads, writes = os.pipe()
    running: dict[int, tuple[int, float]] = {}  # process -> number, since when

    def begin(number: int) -> None:
        # Between the fork and its own handlers a child would take what it is told for its parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
        if pid := os.fork():
            running[pid] = number, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
            return
        status = 1
        try:  # nothing of the parent's is done in the child, whatever happens
            for told, handler in handlers.items():
                signal.signal(told, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
            os.close(writes)
            work(number, reads)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def tell(number: int, *_: object) -> None:
        nonlocal ending
        if number != signal.SIGHUP and not ending:
            ending = True
            close()
        for pid in [*running]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in range(workers):
        begin(number)
    for told in handlers:
        signal.signal(told, tell)
    begun()
    successors: list[tuple[float, int]] = []  # when, number
    while running or not ending:
        for pid in [*running]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            number, since = running.pop(pid)
            if not ending:
                status = os.waitstatus_to_exitcode(status)
                event(logging.ERROR, "a worker ended, another takes its place", worker=number, status=status)
                successors.append((max(since + _SOON, time.monotonic()), number))
        for entry in [one for one in successors if one[0] <= time.monotonic() and not ending]:
            successors.remove(entry)
            begin(entry[1])
        time.sleep(_LOOK)
    os.close(writes)
    os.close(reads)
