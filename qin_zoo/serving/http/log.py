"""Log lines of the service: a sentence, then ``key=value``."""

from __future__ import annotations

import json
import logging
import time

_LOGGER = logging.getLogger("qin_zoo.serving")


def event(level: int, what: str, **values: object) -> None:
    """Logs that something happened."""
    _LOGGER.log(level, " ".join([what, *(f"{key}={_shown(value)}" for key, value in values.items())]))


def log_to_stderr() -> None:
    """Shows the service's lines, and asyncio's errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    handler.formatter.converter = time.gmtime
    for name, level in (("qin_zoo.serving", logging.INFO), ("asyncio", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False


def _shown(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "')
    return text if plain else json.dumps(text, ensure_ascii=False)
