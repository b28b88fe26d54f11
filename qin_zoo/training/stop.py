"""Ctrl-C and SIGTERM as a wish that a training meets when it can."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A training was asked to stop, and has saved a checkpoint.

    Args:
        number: of the signal.
        step: of the checkpoint.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by signal {number} after step {step}")
        self.number, self.step = number, step


class StopRequest:
    """What :func:`catch_signals` yields; ``number`` is the signal that came, 0 before."""

    number = 0


@contextmanager
def catch_signals(patience: int = 1) -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; one that comes later acts as it always does.

    Args:
        patience: signals that are taken for one wish: a launcher passes on what its processes have had already.
    """
    request, came = StopRequest(), 0
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame) -> None:
        nonlocal came
        request.number, came = number, came + 1
        if came == patience:
            _restore(before)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        _restore(before)


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
