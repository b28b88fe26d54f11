"""Delimited text as typed columns; a line that cannot be read is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.errors import DataError, first_line, suggest


def folder_of(path: str | Path, expected: str) -> Path:
    """``path`` as a folder, or DataError saying what the folder should hold."""
    path = Path(path).expanduser()
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise DataError(f"{path}: expected a folder with {expected}, found {what}. Give the folder of the data set.")
    return path


def found_in(folder: Path) -> str:
    """The names in a folder, for messages."""
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "an empty folder"


def only(folder: Path, pattern: str, expected: str) -> Path:
    """The one file of a folder that fits the pattern."""
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise DataError(
            f"{folder}: expected {expected}: one file {pattern}, found {len(files)} of them "
            f"(the folder holds {found_in(folder)}). Give the folder of one data set."
        )
    return files[0]


def read_header(path: Path, separator: str) -> list[str]:
    """The names in the first line."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        line = file.readline().rstrip("\r\n")
    if not line:
        raise DataError(f"{path}: expected a header line, found an empty file or line. Fetch the file again.")
    return line.split(separator)


def read_text(
    path: Path,
    separator: str,
    names: Sequence[str] | None = None,
    *,
    keep: Sequence[str] | None = None,
    quoted: bool = False,
    encoding: str = "utf-8",
) -> pl.DataFrame:
    """A delimited file, every value as text, null where empty.

    Args:
        names: the columns of a file without a header; None takes them from its first line.
        keep: the columns wanted. Default: all.
        quoted: whether fields may stand in double quotes.
        encoding: ``utf-8`` or ``latin-1``.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Fetch the data set again, or correct the folder.")
    source = path if encoding == "utf-8" else path.read_bytes().decode(encoding).encode()
    try:
        frame = pl.read_csv(
            source,
            separator=separator,
            has_header=names is None,
            schema=dict.fromkeys(names, pl.String) if names else None,
            columns=list(keep) if keep and not names else None,
            quote_char='"' if quoted else None,
            infer_schema=False,
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: a line cannot be read ({first_line(error)}). Mend or drop it.") from None
    if frame.height == 0:
        raise DataError(f"{path}: expected at least one row, found none. Fetch the file again.")
    return frame.select(keep) if keep else frame


def require(path: Path, names: Sequence[str], wanted: str) -> None:
    """Raises DataError unless the column is there."""
    if wanted not in names:
        raise DataError(
            f"{path}: expected a column '{wanted}', found: {', '.join(names)}.{suggest(wanted, names)} "
            "Rename it in a copy of the file."
        )


def ids(path: Path, frame: pl.DataFrame, name: str, first: int = 2) -> pl.Series:
    """A column of ids: integers where all are, else text. ``first`` is the line of row 0."""
    series = frame[name].str.strip_chars()
    missing = series.is_null() | (series == "").fill_null(True)
    if missing.any():
        row = int(missing.arg_true()[0])
        raise DataError(f"{path}, line {row + first}: expected a value of '{name}', found none. Mend or drop the line.")
    canonical = series.str.contains(r"^(0|[1-9]\d{0,17})$").all()
    return series.cast(pl.Int64) if canonical else series


def numbers(path: Path, frame: pl.DataFrame, name: str, first: int = 2, optional: bool = False) -> np.ndarray:
    """A column of numbers as float64; NaN for nothing where that is ``optional``."""
    text = frame[name].str.strip_chars()
    values = text.cast(pl.Float64, strict=False)
    bad = values.is_null() & (text.is_not_null() & (text != "") if optional else pl.Series([True]))
    if bad.any():
        row = int(bad.arg_true()[0])
        found = "nothing" if text[row] is None else repr(text[row])
        raise DataError(
            f"{path}, line {row + first}: expected a number for '{name}', found {found}. Mend or drop the line."
        )
    return values.fill_null(float("nan")).to_numpy()
