"""Lines of csv files: which of them is wrong, where polars does not say, and which are blank."""

from __future__ import annotations

import csv
import mmap
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from qin_zoo.errors import DataError

_QUOTE = b'"'


def header(path: Path, separator: str) -> list[str]:
    """The names in the first line; raises DataError where it is not UTF-8."""
    _, record = next(_records(path), (1, b""))
    return next(csv.reader([_text(path, 1, record)], delimiter=separator), [])


def check_lines(path: Path, separator: str) -> None:
    """Raises DataError for the first line that is not UTF-8 or has more fields than the header."""
    fields = None
    for row, (line, record) in enumerate(_records(path), -1):
        _text(path, line, record)
        count = _fields(record, separator)
        fields = fields or count
        if count > fields:
            raise DataError(
                f"{path}, line {line} (row {row}): expected {fields} fields as in the header, found {count}. Put a "
                f"field that has a {separator!r} of its own in double quotes, or correct the line (rows count from 0)."
            )


def without_blank_lines(frame: pl.LazyFrame, path: Path, separator: str) -> pl.LazyFrame:
    """The rows but for blank lines, of which polars makes rows without a value; pandas leaves them out, too.

    Raises:
        DataError: beside blank lines there is a row that has only separators: it could not be told from them.
    """
    if not _may_have_blank_lines(path):
        return frame
    for line, record in _records(path):
        if record and not record.strip(separator.encode() + b" \t") and separator.encode() in record:
            raise DataError(
                f"{path}, line {line}: expected a value, found a row without any, in a file with blank lines. Remove "
                "the blank lines, or the row."
            )
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _may_have_blank_lines(path: Path) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(blank) >= 0 for blank in (b"\n\n", b"\n\r\n"))


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number of each record's first line, from 1, and its bytes; what stands in quotes may have several lines."""
    with open(path, "rb") as file:
        begin, held, open_quote = 1, [], False
        for number, line in enumerate(file, 1):
            held.append(line)
            open_quote ^= line.count(_QUOTE) % 2 == 1
            if not open_quote:
                yield begin, b"".join(held).rstrip(b"\r\n")
                begin, held = number + 1, []
        if held:
            yield begin, b"".join(held).rstrip(b"\r\n")


def _fields(record: bytes, separator: str) -> int:
    return 1 + sum(part.count(separator.encode()) for part in record.split(_QUOTE)[::2])


def _text(path: Path, line: int, record: bytes) -> str:
    try:
        return record.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {line}: expected UTF-8, found the byte 0x{record[error.start]:02x}. Convert the file, for "
            f"example with: iconv -f latin1 -t utf-8 {path.name} > new.csv"
        ) from None
