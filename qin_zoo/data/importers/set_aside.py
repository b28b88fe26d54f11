"""Rows and values of one's own table that cannot be used: counted, listed, and kept apart with their places."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl

from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.errors import DataError

FILE = "set_aside.csv"
HEADER_AGAIN = "the names of the columns again"  # where files were put together
_LISTED = 3  # places that a note names
_KEPT = 100_000  # rows of a reason that are written down


class SetAside:
    """What could not be used, by file and reason."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, str, str]] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lines: dict[tuple[str, str], list[int]] = {}

    def add(self, table: OwnFile, wrong: np.ndarray, reason: str) -> None:
        """Adds the rows of a table where ``wrong`` (n,) is true."""
        for row in np.flatnonzero(wrong)[:_KEPT]:
            self._add(table, table.line(int(row)), reason, table.shown(int(row)))
        self._counts[table.path.name, reason] += max(int(wrong.sum()) - _KEPT, 0)

    def lines(self, table: OwnFile) -> None:
        """Adds the lines that have too many values."""
        for line, text in table.left_out:
            self._add(table, line, f"more than {len(table.names)} values", text[:200])

    def require_most(self, table: OwnFile, wrong: np.ndarray) -> None:
        """Raises DataError where more than half of the rows are ``wrong``, (n,): then it is not the rows that are."""
        if wrong.mean() > 0.5:
            why = "; ".join(self.notes(table.path.name))
            raise DataError(
                f"{table.path}: {int(wrong.sum()):,} of {len(wrong):,} rows cannot be used. {why} Say what the columns "
                "are: --describe FILE."
            )

    def frame(self) -> pl.DataFrame:
        """file, line, reason, row."""
        names = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "row": pl.String}
        return pl.DataFrame(self._rows, schema=names, orient="row")

    def notes(self, file: str | None = None) -> list[str]:
        """One line for each file and reason."""
        return [
            f"{name}: {self._counts[name, reason]:,} × {reason} ({_places(name, lines)})."
            for (name, reason), lines in self._lines.items()
            if file in (None, name)
        ]

    def _add(self, table: OwnFile, line: int, reason: str, text: str) -> None:
        key = (table.path.name, reason)
        self._rows.append((key[0], line, reason, text))
        self._counts[key] += 1
        listed = self._lines.setdefault(key, [])
        if len(listed) <= _LISTED:
            listed.append(line)


def _places(name: str, lines: list[int]) -> str:
    return ", ".join(f"{name}:{line}" for line in lines[:_LISTED]) + (", …" if len(lines) > _LISTED else "")
