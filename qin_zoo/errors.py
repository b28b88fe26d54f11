"""What goes wrong at the border, said once and clearly.

Every error a user can cause is a :class:`QinZooError`: what was expected, what came, where, how to mend it.
The command line prints its message and exits with a status other than 0; anything else is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from unicodedata import category


class QinZooError(Exception):
    """A mistake in the input; its message is meant for the person who made it."""


class ConfigError(QinZooError):
    """A configuration file, key or value that cannot be used."""


class DataError(QinZooError):
    """A data file that does not keep to its layout."""


class CheckpointError(QinZooError):
    """A checkpoint that cannot be loaded into this model."""


class ModelError(QinZooError):
    """A model that is unknown, doubly defined, or given inputs it cannot take."""


class RequestError(QinZooError):
    """A request to a scorer that cannot be answered."""


_BACKWARDS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    """A text with what would move a terminal's cursor or write backwards shown as its number: names come from files."""
    return "".join(
        f"\\x{ord(c):02x}" if c in _BACKWARDS or (category(c) == "Cc" and c not in "\n\t") else c for c in text
    )


def suggest(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """``" Did you mean 'x'?"`` for the nearest of ``known``, or ``""`` when none is near: as alike as ``cutoff``.

    ``cutoff`` is the share of letters that two names have in common.
    """
    names, name = {str(k).lower(): str(k) for k in known}, str(name)
    if len(name) > (2 / cutoff - 1) * max(map(len, names), default=0):  # found by its length: comparing takes long
        return ""
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
    return f" Did you mean '{names[near[0]]}'?" if near else ""


def install(extra: str, *packages: str) -> str:
    """How missing packages are installed; this project lies on no index, so its extras are those of a checkout.

    Args:
        extra: of ``pyproject.toml``.
        packages: what it means.
    """
    by_hand = " ".join(packages)
    return f"pip install -c constraints.txt -e '.[{extra}]' in a checkout of qin-zoo, or pip install {by_hand}"


def first_line(error: BaseException) -> str:
    """The kind and the first line of an exception's text, for quoting it in a message of ours."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def listed(names: Sequence[object], most: int = 8) -> str:
    """The first ``most`` of some names, for messages."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")
