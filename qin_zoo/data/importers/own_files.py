"""Files of one's own: csv in whatever separator and encoding, or parquet, whose rows know where they stand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from qin_zoo.data.importers.tables import Table, read_parquet, require
from qin_zoo.data.sources import check_file, each_once, readable, require_exact
from qin_zoo.errors import DataError

TEXT = (".csv", ".tsv", ".txt")
SUFFIXES = (*TEXT, ".parquet")
VECTORS = (".npy", ".h5", ".hdf5")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LONGEST_HEADER = 1 << 20
NO_TEXT = (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary, pl.Duration)
_NO_CSV = {  # how a file begins that is none: what it is, and what to do
    b"\xff\xfe": ("UTF-16", "Convert it (iconv -f utf-16 -t utf-8)"),
    b"\xfe\xff": ("UTF-16", "Convert it (iconv -f utf-16 -t utf-8)"),
    b"PAR1": ("parquet", "Call it .parquet"),
    b"\x1f\x8b": ("gzip", "Unpack it (gunzip)"),
    b"PK\x03\x04": ("a zip archive or an Excel file", "Unpack it, or write it as csv"),
}


class OwnFile:
    """A csv or parquet file.

    Attributes:
        path: the file.
        form: how it is written, for people.
        frame: its columns: text of csv, of parquet as they are; names without spaces around them.
        left_out: line and text of the lines that have too many values.
        notes: what is odd, but was read.

    Raises:
        DataError: no file, an empty or damaged one, or two columns of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.left_out, self.notes = path, [], []
        self._table: Table | None = None
        self._texts: dict[str, pl.Series] = {}
        if path.suffix.lower() == ".parquet":
            self.form = "parquet"
            frame = read_parquet(path)
            with readable(path):
                index = _range_index(path, frame)
            self.frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String), *index)
        else:
            check_file(path)
            separator = _separator(path)
            self._table = Table(path, separator, quoted=True, encoding="cp1252", lenient=True)
            self.form = f"{_SEPARATORS[separator]}, {self._table.encoding}"
            self.frame, self.left_out, self.notes = self._table.frame, self._table.left_out, self._table.notes
            if self._table.encoding != "UTF-8":
                self.notes.append(f"{path.name}: no text in UTF-8; read as {self._table.encoding}.")
        names = [name.strip() or f"column {n}" for n, name in enumerate(self.frame.columns, 1)]
        self.frame = self.frame.rename(dict(zip(self.frame.columns, each_once(path, names))))
        if self.frame.height == 0:
            raise DataError(f"{path}: expected at least one row, found none. Write the file again, or take it out.")

    @property
    def names(self) -> list[str]:
        """The columns."""
        return self.frame.columns

    def line(self, row: int) -> int:
        """The number of the line of a row (csv, from 1), or of the row (parquet, from 1)."""
        return self._table.line(row) if self._table else row + 1

    def require(self, names: Sequence[str]) -> None:
        """Raises DataError unless the columns are there."""
        for name in names:
            require(self.path, self.names, name)

    def is_single(self, name: str) -> bool:
        """Whether a row of the column holds one value, no list."""
        return not isinstance(self.frame[name].dtype, NO_TEXT)

    def text(self, name: str) -> pl.Series:
        """A column of single values as text without spaces around it, null where there is nothing.

        Raises:
            DataError: its values are lists or whatever else has no text.
        """
        if name not in self._texts:
            values = self.frame[name]
            if not self.is_single(name):
                raise DataError(
                    f"{self.path}, column '{name}': expected a number or text in every row, found {values.dtype}. "
                    "Leave it out, or write what matters of it as such."
                )
            if isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone:
                values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            text = values.cast(pl.String).str.strip_chars()
            self._texts[name] = text.set(text == "", None)
        return self._texts[name]

    def ids(self, name: str) -> pl.Series:
        """A column of ids, as :meth:`text`; DataError for floats whose digits are lost, too."""
        if self.frame[name].dtype.is_float():
            require_exact(f"{self.path}, column '{name}'", self.frame[name].to_numpy())
        return self.text(name)

    def shown(self, row: int) -> str:
        """A row as text."""
        values = self.frame.row(row)
        return ",".join("" if value is None else str(value) for value in values)[:200]


def _range_index(path: Path, frame: pl.DataFrame) -> list[pl.Series]:
    """Named indexes of equally spaced numbers, which pandas writes beside the columns: its ids or times may be such."""
    about = pq.read_metadata(path).metadata or {}
    found = json.loads(about.get(b"pandas", b"{}")).get("index_columns", [])
    named = [index for index in found if isinstance(index, dict) and index.get("name") not in (None, *frame.columns)]
    ranges = [(index["name"], range(index["start"], index["stop"], index["step"])) for index in named]
    return [pl.Series(name, values) for name, values in ranges if len(values) == frame.height]


def _separator(path: Path) -> str:
    """What the first line has most of, outside quotes."""
    with open(path, "rb") as file:
        line = b""
        while not line.strip():
            line = file.readline(_LONGEST_HEADER)
            if not line:
                raise DataError(f"{path}: expected a line of column names, found an empty file. Drop or rewrite it.")
    found = next((said for begin, said in _NO_CSV.items() if line.startswith(begin)), None)
    if found is None and b"\0" in line:
        found = ("bytes that are none, or UTF-16", "Convert it (iconv -f utf-16le -t utf-8), or take it out")
    if found is None and b"\r" in line.rstrip(b"\r\n"):
        found = ("lines that end with a carriage return alone", "Convert it (tr '\\r' '\\n')")
    if found is not None:
        raise DataError(f"{path}: expected text in UTF-8 or Latin-1, found {found[0]}. {found[1]}.")
    outside = b"".join(line.split(b'"')[::2])
    counts = {separator: outside.count(separator.encode()) for separator in _SEPARATORS}
    return max(counts, key=lambda separator: counts[separator])
