"""Where log messages go: warnings to the terminal, everything to a run's own file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from qin_zoo.errors import printable


def silent(line: str) -> None:
    """What a run says when nobody listens."""


def above_bars(echo: Callable[[str], None]) -> Callable[[str], None]:
    """The same for lines that come while progress bars are shown: these are cleared first, and drawn again below."""

    def say(line: str) -> None:
        with _bars_cleared():
            echo(line)

    return say


def _bars_cleared():
    if "tqdm" not in sys.modules:  # the service runs without it; then there is no bar
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode()


class _AboveBars(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with _bars_cleared():
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def warnings_on_terminal(least: int = logging.WARNING) -> logging.Handler:
    """Shows warnings of this process, and no more of FuxiCTR's log and ours; the handler that does."""
    terminal = _AboveBars()
    terminal.setLevel(least)
    logging.getLogger().addHandler(terminal)
    return terminal


@contextmanager
def warnings_shown(least: int = logging.WARNING) -> Iterator[None]:
    """The same as long as the block runs, where this process, a notebook say, shows no log of its own.

    Where it does, warnings below ``least`` are left out of that.
    """
    root, dropped = logging.getLogger(), range(logging.WARNING, least)

    def leave_out(record: logging.LogRecord) -> bool:
        return record.levelno not in dropped

    terminal = None if root.handlers else warnings_on_terminal(least)
    if terminal is None:
        root.addFilter(leave_out)
    try:
        yield
    finally:
        root.removeFilter(leave_out)
        if terminal is not None:
            root.removeHandler(terminal)


@contextmanager
def log_to(path: Path, append: bool = False):
    """Sends this process's log, FuxiCTR's included, to a file."""
    root = logging.getLogger()
    handler = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s P%(process)d %(levelname)s %(message)s"))
    level, others = root.level, {other: other.level for other in root.handlers}
    for other in others:  # a notebook's, say: what it did not show before, it does not show now
        other.setLevel(max(other.level, level))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        for other, own in others.items():
            other.setLevel(own)
        handler.close()
