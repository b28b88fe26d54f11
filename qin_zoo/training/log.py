"""Where log messages go: warnings to the terminal, everything to a run's own file."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path


def silent(line: str) -> None:
    """What a run says when nobody listens."""


def warnings_on_terminal() -> None:
    """Shows warnings of this process, and no more of FuxiCTR's log and ours."""
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    logging.getLogger().addHandler(terminal)


@contextmanager
def log_to(path: Path, append: bool = False):
    """Sends this process's log, FuxiCTR's included, to a file."""
    root = logging.getLogger()
    handler = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s P%(process)d %(levelname)s %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
