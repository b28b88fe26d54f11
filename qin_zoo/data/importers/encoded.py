"""Checks of columns that a source has already encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.errors import DataError


def labels(path: Path, name: str, values: np.ndarray, first: int = 0) -> np.ndarray:
    """(n,) int8 of a column of 0 and 1; DataError for the first row, counted from ``first``, that is neither."""
    numbers = floats(path, name, values)
    wrong = np.flatnonzero((numbers != 0) & (numbers != 1))
    if wrong.size:
        raise DataError(
            f"{path}, column '{name}', row {first + wrong[0]}: expected a label, 0 or 1, found {numbers[wrong[0]]:g}. "
            "Name the column of the clicks with --label."
        )
    return numbers.astype(np.int8)


def floats(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """(n,) float32 of a column; DataError for the first row that is no number."""
    numbers = pl.Series(values).cast(pl.Float64, strict=False)
    bad = numbers.is_null() | numbers.is_nan().fill_null(True)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(f"{path}, column '{name}', row {row}: expected a number, found {values[row]!r}. Mend it.")
    return numbers.to_numpy().astype(np.float32)


def below(path: Path, name: str, values: np.ndarray, limit: int, what: str, first: int = 0, least: int = 0) -> None:
    """Raises DataError for the first of (n,) or (n, width) values that is not in least…limit - 1."""
    wrong = np.flatnonzero((values < least) | (values >= limit))
    if wrong.size:
        raise DataError(
            f"{path}, column '{name}', row {first + wrong[0]}: expected {least} to {limit - 1}, the {what}, found "
            f"{values.reshape(-1)[wrong[0]]}. Fetch the files of one data set again."
        )


def own(name: str) -> str:
    """A field's name that is not one of the layout's."""
    return f"field_{name}" if name in ("user_id", "item_id", "item_seq", "label") else name


def is_sparse(size: int, values: int) -> bool:
    """Whether of all numbers below ``size`` few are there, so that an embedding table of them would be mostly empty."""
    return size > 1_000_000 and size > 10 * values


def too_sparse(name: str, size: int) -> str:
    """The note for a column of such numbers."""
    return f"'{name}': codes up to {size - 1}, of which few are there; not active in dataset_config.yaml."
