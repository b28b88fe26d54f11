"""Original ids of several files, brought to one form: what is one number is one id, however a file writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from qin_zoo.data.importers.tables import Table
from qin_zoo.data.sources import digits_lost, require_exact
from qin_zoo.errors import DataError

_TRUTH = r"^(?i:true|false)$"
_NUMBER = r"^(0|[1-9]\d{0,17})$"
_FLOAT = r"^(-?\d+)\.0*$"
# as R and numpy write large numbers; "12e45" without a sign may be a hash
_EXPONENT = r"^-?\d(\.\d+)?[eE]\+\d{2,3}$"
_MISSING = ("", "nan", "<na>", "none", "null", "n/a", "#n/a", "\\n")  # as pandas and databases write it, in any case
_EXACT = 2**53  # whole numbers up to this one are their own float64


class Ids(NamedTuple):
    """A column of ids.

    Attributes:
        where: the file and the column, for messages.
        values: the ids as text, without spaces around them; null where there is none.
    """

    where: str
    values: pl.Series


def column(table: Table, name: str, *, unique: bool = False) -> Ids:
    """A column of a file in which every row has an id, or DataError for the first that has none.

    Args:
        unique: whether an id may be there only once.
    """
    table.require(name)
    values = table.frame[name].str.strip_chars()
    missing = is_missing(values)
    if missing.any():
        row = int(missing.arg_true()[0])
        raise table.wrong(row, f"a value of '{name}'", values[row])
    if unique and (repeated := ~_by_value(values).is_first_distinct()).any():
        row = int(repeated.arg_true()[0])
        raise DataError(f"{table.at(row)}: '{values[row]}' is there twice. Drop one of the lines.")
    return Ids(f"{table.path.name}, column '{name}'", values)


def is_missing(values: pl.Series) -> pl.Series:
    """(n,) bool: which texts are no ids."""
    return values.is_null() | values.str.to_lowercase().is_in(_MISSING).fill_null(True)


def aligned(columns: Sequence[Ids], notes: list[str]) -> list[pl.Series]:
    """The columns in one form: integers where all of them are numbers, else text.

    "5.0" is 5. Beside a 1.1, and with leading zeros, numbers are so where another column writes them without, unless a
    column holds both forms of one number: they are two ids there. Where all are true or false, "True" is "true".

    Raises:
        DataError: a number beyond 2^53 that has been a floating point number, so that its digits are lost.
    """
    if all(values.str.contains(_TRUTH).all() for _, values in columns):
        return [values.str.to_lowercase() for _, values in columns]
    decimal = any(values.str.contains(r"^-?\d+\.\d*[1-9]\d*$").any() for _, values in columns) and not _meet(columns)
    texts = []
    for where, values in columns:
        text = values if decimal else _by_value(values, where)
        changed = (text != values).fill_null(False)
        if changed.any():
            row = int(changed.arg_true()[0])
            notes.append(f"{where}: ids written as floating point numbers; '{values[row]}' is taken as {text[row]}.")
        texts.append(text)
    plain = [text.str.contains(_NUMBER).all() for text in texts]
    if not all(plain) and any(plain):
        bare = [text.str.replace(r"^0+(\d)", "$1") for text in texts]
        if all(b.str.contains(_NUMBER).all() and b.n_unique() == t.n_unique() for b, t in zip(bare, texts)):
            for (where, _), text, number in zip(columns, texts, bare):
                if (changed := (text != number).fill_null(False)).any():
                    row = int(changed.arg_true()[0])
                    notes.append(f"{where}: '{text[row]}' is taken as {number[row]}, as other columns write it.")
            texts, plain = bare, [True]
    return [text.cast(pl.Int64) for text in texts] if all(plain) else texts


def _meet(columns: Sequence[Ids]) -> bool:
    """Whether columns write a number in two forms, of which each has one."""
    written = [values for _, values in columns]
    short = [_by_value(values) for values in written]
    alike = all(s.n_unique() == w.n_unique() for s, w in zip(short, written))
    return alike and pl.concat(short).n_unique() < pl.concat(written).n_unique()


def _by_value(values: pl.Series, where: str = "") -> pl.Series:
    """Text in which a whole number that is written as a float is written as an integer."""
    written = values.str.contains(r"\.|\+")
    if not written.any():
        return values
    number = values.cast(pl.Float64, strict=False)
    exponent = values.str.contains(_EXPONENT) & (number == number.floor())
    whole = values.str.contains(_FLOAT) | exponent
    lost = written & whole & (number.abs() > _EXACT)
    if lost.any() and where:
        raise digits_lost(where, values[int(lost.arg_true()[0])])
    short = values.str.replace(_FLOAT, "$1")
    return short.zip_with(~(exponent & ~lost).fill_null(False), number.cast(pl.Int64, strict=False).cast(pl.String))


def look_up(what: str, wanted: pl.Series, table: Path, known: pl.Series, notes: list[str]) -> None:
    """Says how many of the ids that a log holds are in a table.

    Raises:
        DataError: none of them is.
    """
    wanted = wanted.unique()
    there = int(wanted.is_in(known.implode()).sum())
    if not there:
        raise DataError(
            f"{table}: expected the {what}s of the log, found none of its {len(wanted)} {what}s there: an id is "
            f"'{wanted.min()}' in the log and '{known.min()}' in the table. Write the ids in one form, or take the "
            "file out of the folder."
        )
    if there < len(wanted):
        notes.append(
            f"{table.name}: {len(wanted) - there} of {len(wanted)} {what}s of the log are not there; what it says of "
            "them is unknown."
        )


def whole(path: Path, name: str, values: np.ndarray, first: int = 0) -> np.ndarray:
    """(n,) or (n, width) int64 of whole numbers, floats by value; DataError for the first that is none or lost."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    require_exact(f"{path}, column '{name}'", values)
    wrong = np.flatnonzero(~((values == np.floor(values)) & np.isfinite(values)).reshape(-1))
    if wrong.size:
        row = wrong[0] // (values.shape[1] if values.ndim == 2 else 1)
        raise DataError(
            f"{path}, column '{name}', row {first + row}: expected a whole number, found "
            f"{values.reshape(-1)[wrong[0]]}. Mend or drop the row."
        )
    return values.astype(np.int64)
