"""What is said of one's own files: what columns hold, and rows and values that cannot be used, with their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from qin_zoo.data.importers.description import LEFT_OUT, Column, Entry
from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.errors import DataError, listed

HEADER_AGAIN = "the names of the columns again"  # where files were put together
_LISTED = 3  # places that a note names
_KEPT = 100_000  # rows of a reason that are written down

Values = pl.Series | np.ndarray


class Account:
    """What was found in files.

    Args:
        notes: what is to be said already.

    Attributes:
        taken: file, column, what it was taken for, what it holds.
        notes: for people; those of rows that were set aside are :meth:`counts`.
    """

    def __init__(self, notes: Sequence[str] = ()) -> None:
        self.taken: list[tuple[str, str, str, str]] = []
        self.notes = list(notes)
        self._rows: list[tuple[str, int, str, str]] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lines: dict[tuple[str, str], list[int]] = {}

    def open(self, table: OwnFile, entry: Entry) -> None:
        """Begins with a table, which has to have the columns that are used; lines of too many values are set aside."""
        table.require(entry.used)
        self.notes += table.notes
        for line, text in table.left_out:
            self._add(table, line, f"more than {len(table.names)} values", text[:200])

    def add(self, table: OwnFile, wrong: np.ndarray, reason: str) -> None:
        """Sets the rows of a table aside where ``wrong`` (n,) is true."""
        for row in np.flatnonzero(wrong)[:_KEPT]:
            self._add(table, table.line(int(row)), reason, table.shown(int(row)))
        self._counts[table.path.name, reason] += max(int(wrong.sum()) - _KEPT, 0)

    def require_most(self, table: OwnFile, wrong: np.ndarray) -> None:
        """Raises DataError where more than half of the rows are ``wrong``, (n,): then it is not the rows that are."""
        if wrong.mean() > 0.5:
            why = "; ".join(self.counts(table.path.name))
            raise DataError(
                f"{table.path}: {int(wrong.sum()):,} of {len(wrong):,} rows cannot be used. {why} Say what the columns "
                "are: --describe FILE."
            )

    def columns(self, table: OwnFile, entry: Entry, values: Mapping[str, Values]) -> None:
        """Adds what the columns of a table were taken for; ``values``: of those that were read."""
        described = [name for name in entry.columns if name in table.names]
        for name in dict.fromkeys([*described, *table.names]):
            column = entry.columns.get(name, Column(LEFT_OUT, because="not described"))
            holds = _holds(column.role, values[name]) if name in values else column.because
            self.taken.append((table.path.name, name, str(column), holds))

    def frame(self) -> pl.DataFrame:
        """The rows that were set aside: file, line, reason, row."""
        names = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "row": pl.String}
        return pl.DataFrame(self._rows, schema=names, orient="row")

    def counts(self, file: str | None = None) -> list[str]:
        """One line for each file and reason."""
        lines = []
        for (name, reason), places in self._lines.items():
            where = listed([f"{name}:{line}" for line in places], _LISTED)
            lines += [f"{name}: {self._counts[name, reason]:,} × {reason} ({where})."] if file in (None, name) else []
        return lines

    def _add(self, table: OwnFile, line: int, reason: str, text: str) -> None:
        key = (table.path.name, reason)
        self._rows.append((key[0], line, reason, text))
        self._counts[key] += 1
        places = self._lines.setdefault(key, [])
        if len(places) <= _LISTED:
            places.append(line)


def _holds(role: str, values: Values) -> str:
    """What a column holds, in a few words."""
    if role == "vector":
        return f"{int(values.any(axis=1).sum()):,} of {values.shape[1]} numbers"
    if role == "time":
        first, last = (str(np.datetime64(int(t), "ns"))[:16].replace("T", " ") for t in (values.min(), values.max()))
        return f"{first} to {last}" if values.min() > 10**17 else f"{values.min() // 10**9} to {values.max() // 10**9}"
    known = pl.Series(values).drop_nulls()
    if role in ("number", "label"):
        known = known.drop_nans()
        said = f"{known.min():g} to {known.max():g}, mean {known.mean():.4g}" if len(known) else "none"
    elif role == "list":
        words = known.explode(empty_as_null=False, keep_nulls=False)
        said = f"{words.n_unique():,} different entries, at most {known.list.len().max() or 0} in a row"
    elif role in ("title", "text"):
        said = f"{len(known):,} texts"
    else:
        said = f"{known.n_unique():,} different"
    unknown = len(values) - len(known)
    return said + (f"; {unknown:,} unknown" if unknown else "")
