"""Picking a layer by the name a configuration gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of ``table`` under ``name``.

    Args:
        table: name -> entry.
        name: the name wanted.
        what: what the table holds, for the message: ``"fusion"``.

    Raises:
        ValueError: there is no such entry; the message lists the names there are.
    """
    if name not in table:
        raise ValueError(f"No {what} '{name}'. Known: {', '.join(table)}.")
    return table[name]
