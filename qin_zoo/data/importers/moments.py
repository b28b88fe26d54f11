"""Times as a source writes them, in whatever unit, as numbers in the order of the times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from qin_zoo.data.importers.tables import Table
from qin_zoo.errors import DataError

# From 1973 to 2100, dates in these units lie apart from each other; the number is nanoseconds.
UNITS = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
FIRST, END = 10**17, 4_102_444_800 * 10**9  # nanoseconds since 1970
_EXACT = 2**53  # whole numbers up to this one are their own float64


def read_times(tables: Sequence[Table], name: str, notes: list[str]) -> np.ndarray:
    """(n,) times, int64 or float64, of all rows of the files; equal only where the file's are.

    Dates in one unit, and numbers that are none (years, days since a start), are taken as they are. Dates in several
    units are brought to nanoseconds, and ``notes`` says so.

    Raises:
        DataError: a row without a time; dates in several units, and other numbers among them.
    """
    parts = [_exact(table, name, notes) for table in tables]
    if any(part.dtype != pl.Int64 for part in parts):
        parts = [part.cast(pl.Decimal(38, 9)) for part in parts]
    values = pl.concat(parts)
    size = values.cast(pl.Float64).to_numpy()
    inside = {unit: (size >= FIRST / scale) & (size < END / scale) for unit, scale in UNITS.items()}
    counts = {unit: int(mask.sum()) for unit, mask in inside.items() if mask.any()}
    said = ", ".join(f"{count} rows in {unit}" for unit, count in counts.items())
    odd = np.flatnonzero(~np.logical_or.reduce(list(inside.values())))
    if len(counts) > 1:
        if odd.size:
            raise DataError(
                f"{_at(tables, int(odd[0]))}: expected a date, as in the other rows of '{name}' ({said} since 1970), "
                f"found {size[odd[0]]:.15g}. Mend or drop the line, or bring all times to one unit."
            )
        notes.append(f"'{name}': {said} since 1970; all brought to one unit.")
    elif odd.size and sum(counts.values()) > odd.size:
        (unit,) = counts
        notes.append(
            f"'{name}': {odd.size} rows hold no date between 1973 and 2100 in {unit}, as the other {counts[unit]} do "
            f"({_at(tables, int(odd[0]))}: {size[odd[0]]:.15g}); taken as they are."
        )
    if len(counts) == 1 and values.dtype == pl.Int64:
        return values.to_numpy()
    if counts and not odd.size:
        scale = np.select(list(inside.values()), list(UNITS.values())[: len(inside)])
        return (values * pl.Series(scale, dtype=pl.Int64)).cast(pl.Int64).to_numpy()
    return values.to_numpy() if values.dtype == pl.Int64 else size


def _exact(table: Table, name: str, notes: list[str]) -> pl.Series:
    """A column of numbers as Int64, or with nine places as Decimal."""
    table.require(name)
    text = table.frame[name].str.strip_chars()
    values = text.cast(pl.Int64, strict=False)
    if values.null_count():
        # not every polars reads 1e9 as a decimal
        exponent = pl.when(pl.col(name).str.contains(r"\d[eE]")).then(pl.col(name).cast(pl.Float64, strict=False))
        digits = (value.cast(pl.Decimal(38, 9), strict=False) for value in (exponent, pl.col(name)))
        values = text.to_frame().select(pl.coalesce(*digits)).to_series()
        if values.null_count():
            row = int(values.is_null().arg_true()[0])
            raise table.wrong(row, f"a time for '{name}', a number", text[row])
        rounded = text.str.contains("[.eE]") & (values.cast(pl.Float64).abs() >= _EXACT)
    else:
        rounded = _rounded(values)
    if rounded.any():
        row = int(rounded.arg_true()[0])
        notes.append(
            f"'{name}': {int(rounded.sum())} times have been floating point numbers, which cannot hold them (line "
            f"{table.line(row)}: {text[row]}): some that differed are equal now, and none of them before another."
        )
    return values


def _rounded(values: pl.Series) -> pl.Series:
    """Which whole numbers have been float64 before: large, and all of them just the numbers that float64 has."""
    numbers = values.to_numpy()
    large = np.abs(numbers) >= _EXACT
    some = numbers[large]
    exact = len(some) >= 8 and (some.astype(np.float64).astype(np.int64) == some).all() and (some % 1000).any()
    return pl.Series(large & bool(exact))


def _at(tables: Sequence[Table], row: int) -> str:
    """The file and line of a row of all files."""
    for table in tables:
        if row < table.frame.height:
            return table.at(row)
        row -= table.frame.height
    raise IndexError(row)
