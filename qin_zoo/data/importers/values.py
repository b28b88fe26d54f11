"""Values of one's own table: numbers, lists and vectors out of text or parquet; what cannot be read is pointed out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from qin_zoo.data.importers.description import Column
from qin_zoo.data.importers.own_files import NO_TEXT, OwnFile
from qin_zoo.data.importers.tables import as_numbers
from qin_zoo.errors import DataError
from qin_zoo.files import parse_json

_NOTHING = ("nan", "null", "none", "<na>", "n/a", "na", "#n/a", "-", "?", "\\n")  # as programs and people write it

COMMAS = {  # how numbers with commas are written: form, what stands between thousands, and before the fraction
    "decimal comma": (r"^-?(\d*|\d{1,3}(\.\d{3})+)(,\d+)?$", ".", ","),
    "thousands comma": (r"^-?(\d*|\d{1,3}(,\d{3})+)(\.\d+)?$", ",", "."),
}


def numbers(table: OwnFile, name: str, how: str = "") -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64, NaN where there is none; and (n,) bool where there is something, but no finite number."""
    text = table.text(name)
    values = as_numbers(with_point(text, how) if how else text)
    nothing = is_nothing(text).to_numpy()
    found = values.fill_null(float("nan")).to_numpy().copy()
    bad = ~np.isfinite(found) & ~nothing
    found[~np.isfinite(found)] = np.nan
    return found, bad


def is_nothing(text: pl.Series) -> pl.Series:
    """(n,) bool: which texts say that there is no number."""
    return text.is_null() | text.str.to_lowercase().is_in(_NOTHING).fill_null(True)


def with_point(text: pl.Series, how: str) -> pl.Series:
    """1.234,5 (decimal comma) or 1,234.5 (thousands comma) as 1234.5; null for what is not written so."""
    form, apart, point = COMMAS[how]
    plain = text.str.replace_all(apart, "", literal=True).str.replace(point, ".", literal=True)
    return plain.set(~text.str.contains(form).fill_null(True), None)


def json_lists(text: pl.Series) -> tuple[list[list | None], np.ndarray]:
    """The lists in JSON texts, None where there is nothing; and (n,) bool where there is something else."""
    out: list[list | None] = []
    bad = np.zeros(len(text), bool)
    for row, value in enumerate(text):
        entry = None
        if value is not None:
            try:
                entry = parse_json(value)
            except ValueError:
                entry = _of_python(value)
            if not isinstance(entry, list) or any(isinstance(x, (list, dict)) for x in entry):
                entry, bad[row] = None, True
        out.append(entry)
    return out, bad


def _of_python(value: str) -> object:
    """['a', 'b'], as pandas writes lists into csv files, where that can be told: without a quote in a word."""
    try:
        return parse_json(value.replace("'", '"')) if '"' not in value else None
    except ValueError:
        return None


def lists(table: OwnFile, name: str, column: Column) -> tuple[pl.Series, np.ndarray]:
    """Lists of text, null where there is nothing; and (n,) bool where there is something else."""
    values = table.frame[name]
    bad = np.zeros(len(values), bool)
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if isinstance(values.dtype, pl.List):
        if isinstance(values.dtype.inner, NO_TEXT):
            raise DataError(
                f"{table.path}, column '{name}': expected lists of numbers or text, found {values.dtype}. Leave it out."
            )
        inner = values.cast(pl.List(pl.String))
    elif column.how == "json":
        found, bad = json_lists(table.text(name))
        words = [None if e is None else [str(x) for x in e if x is not None] for e in found]
        inner = pl.Series(name, words, dtype=pl.List(pl.String))
    else:
        inner = table.text(name).str.split(column.how or "|")
    stripped = pl.element().str.strip_chars()
    return inner.list.eval(stripped.filter(stripped != "")), bad


def vectors(table: OwnFile, name: str, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """(n, width) float32, zeros where there is none; and (n,) bool where there is something else.

    The width is what most have; vectors of another length, or with NaN, are something else. DataError for none at all.
    """
    values, bad = table.frame[name], np.zeros(table.frame.height, bool)
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    elif not isinstance(values.dtype, pl.List):
        values, bad = lists(table, name, replace(column, how=column.how or "json"))
    lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    known = lengths[lengths > 0]
    if not known.size:
        raise DataError(f"{table.path}, column '{name}': expected vectors, found none. Leave it out.")
    width = int(np.bincount(known).argmax())
    right = lengths == width
    flat = values.filter(pl.Series(right)).explode(empty_as_null=False, keep_nulls=False)
    rows = flat.cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy().reshape(-1, width)
    finite = np.isfinite(rows).all(axis=1)
    place = np.flatnonzero(right)
    out = np.zeros((len(lengths), width), np.float32)
    out[place[finite]] = rows[finite]
    bad |= (lengths > 0) & ~right
    bad[place[~finite]] = True
    return out, bad
