"""Delimited text as columns of text: one reader for every format that has some; a line that cannot be read is named."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.sources import check_file, each_once, in_utc, readable
from qin_zoo.errors import DataError, first_line, suggest

_LONGEST_HEADER = 1 << 20
_LONGEST_VALUE = 2**31 - 1  # csv takes 128 KiB otherwise
_STAND_IN = "\x1f"  # polars separates by one byte


def folder_of(path: str | Path, expected: str) -> Path:
    """``path`` as a folder, or DataError saying what the folder should hold."""
    path = Path(path).expanduser()
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise DataError(f"{path}: expected a folder with {expected}, found {what}. Give the folder of the data set.")
    return path


def require(path: Path, names: Sequence[str], wanted: str) -> None:
    """Raises DataError unless the column is there."""
    if wanted not in names:
        raise DataError(
            f"{path}: expected a column '{wanted}', found: {', '.join(names)}.{suggest(wanted, names)} "
            "Rename it in a copy of the file."
        )


def read_parquet(path: Path, *columns: str, whole: Sequence[str] = (), unique: str | None = None) -> pl.DataFrame:
    """A parquet file with these columns, those of ``whole`` as int64 without gaps; DataError for any other file.

    Args:
        path: the file.
        columns: whatever they hold.
        whole: columns of whole numbers.
        unique: another one, which holds each number once.
    """
    whole = (*whole, unique) if unique else whole
    check_file(path)
    with readable(path, "Fetch it again."):
        frame = pl.read_parquet(path, glob=False)
        frame = frame.with_columns(in_utc(frame.schema))
    for name in (*whole, *columns):
        require(path, frame.columns, name)
    for name in whole:
        if not frame[name].dtype.is_integer() or frame[name].null_count():
            raise DataError(
                f"{path}, column '{name}': expected a whole number in every row, found {frame[name].dtype} with "
                f"{frame[name].null_count()} gaps. Fetch it again."
            )
    if unique and (again := ~frame[unique].is_first_distinct()).any():
        row = int(again.arg_true()[0])
        where = f"{path}, column '{unique}', row {row}"
        raise DataError(f"{where}: {frame[unique][row]} is there twice. Drop one of the rows.")
    return frame.with_columns(pl.col(*whole).cast(pl.Int64)) if whole else frame


class Table:
    """A delimited file, every value as text, null where empty; blank lines are skipped, as pandas skips them.

    Lines end with a line feed, or carriage return and line feed; what else separates lines elsewhere (0x85, a form
    feed) is text.

    Args:
        path: the file.
        separator: between two values of a line; any text.
        names: the columns of a file without a header; None takes them from its first line.
        quoted: whether values may stand in double quotes.
        encoding: of one byte, for a file that is not UTF-8: ``latin-1``; or ``cp1252``, as Windows has it, and Latin-1
            where that cannot be. Default: such a file is refused.
        lenient: whether lines with too many values are left out.

    Attributes:
        frame: the values, all columns of text.
        notes: what is odd, but was read.
        left_out: number and text of each line that was left out.
        encoding: of the file, UTF-8 or Latin-1.

    Raises:
        DataError: no file, not UTF-8, no row, a column named twice, or a line with too many values.
    """

    def __init__(
        self,
        path: Path,
        separator: str,
        names: Sequence[str] | None = None,
        *,
        quoted: bool = False,
        encoding: str | None = None,
        lenient: bool = False,
    ) -> None:
        check_file(path)
        self.path, self.notes = path, []
        self.left_out: list[tuple[int, str]] = []
        self.encoding, self._lenient = "UTF-8", lenient
        self._quoted, self._separator, self._content = quoted, separator, None
        if encoding or len(separator) > 1:
            self._content = self._decode(encoding)
        self._first, text = self._first_line()
        names = self._header(text) if names is None else list(names)
        self.frame = self._read(names)
        self._rows = self._drop_blank()
        if len(self.left_out) > self.frame.height:
            raise DataError(
                f"{path}, line {self.left_out[0][0]}: expected {len(names)} value{'s' * (len(names) > 1)}, as many as "
                f"the first line names ({', '.join(names)[:80]}), found more, as in {len(self.left_out):,} of "
                f"{len(self.left_out) + self.frame.height:,} rows. Let the first line name every column, and quote "
                "values that hold what separates."
            )
        if self.frame.height == 0:
            raise DataError(f"{path}: expected at least one row, found none. Fetch the file again.")
        if self.frame[names[-1]].null_count():
            self._look_for_short_lines()

    @property
    def names(self) -> list[str]:
        """The columns."""
        return self.frame.columns

    def line(self, row: int) -> int:
        """The number of the line, from 1, where a row begins."""
        inside = int(self._inside[row]) if self._quoted else 0
        return self._first + inside + int(self._rows[row])

    @cached_property
    def _inside(self) -> np.ndarray:
        """(rows + 1,) line ends within the values of the rows before each."""
        ends = self.frame.select(pl.sum_horizontal(pl.all().str.count_matches("\n"))).to_series()
        return np.concatenate([[0], np.cumsum(ends.to_numpy())])

    def at(self, row: int) -> str:
        """The place of a row, for messages."""
        return f"{self.path}, line {self.line(row)}"

    def require(self, *wanted: str) -> None:
        """Raises DataError unless the columns are there."""
        for name in wanted:
            require(self.path, self.names, name)

    def wrong(self, row: int, expected: str, found: str | None) -> DataError:
        """The error for a value of a row."""
        what = "none" if found is None or not found.strip() else repr(found[:80])
        return DataError(f"{self.at(row)}: expected {expected}, found {what}. Mend or drop the line.")

    def numbers(self, name: str) -> np.ndarray:
        """(n,) float64, a column of numbers, or of true and false; NaN for nothing, DataError for text."""
        values = as_numbers(self.frame[name])
        bad = values.is_null() & (self.frame[name].fill_null("").str.strip_chars() != "")
        if bad.any():
            row = int(bad.arg_true()[0])
            raise self.wrong(row, f"a number for '{name}'", self.frame[name][row])
        return values.fill_null(float("nan")).to_numpy()

    def _decode(self, encoding: str | None) -> bytes:
        """The file as UTF-8 with one byte between values."""
        raw = self.path.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            if not encoding:
                raise self._no_utf8() from None
            if others := sum(is_utf8(line) for line in raw.split(b"\n") if not line.isascii()):
                raise self._no_utf8(f"{others:,} other lines are in UTF-8: mend or drop the line.") from None
            text, self.encoding = _of_one_byte(raw, encoding), "Latin-1"
        if len(self._separator) > 1:
            if _STAND_IN in text:
                line = text[: text.index(_STAND_IN)].count("\n") + 1
                raise DataError(f"{self.path}, line {line}: expected text, found a control character. Drop it.")
            text, self._separator = text.replace(self._separator, _STAND_IN), _STAND_IN
        return text.encode()

    def _lines(self) -> Iterator[bytes]:
        if self._content is not None:
            yield from (line + b"\n" for line in self._content.split(b"\n"))
            return
        with open(self.path, "rb") as file:
            while line := file.readline(_LONGEST_HEADER):
                yield line

    def _first_line(self) -> tuple[int, str]:
        """Number and text of the first line that is not blank."""
        for number, line in enumerate(self._lines(), 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise self._no_utf8("Convert the file (iconv -f utf-16 -t utf-8).")
            if line.strip():
                if len(line) >= _LONGEST_HEADER:
                    raise DataError(f"{self.path}, line {number}: expected lines of text, found no end of the line.")
                try:
                    return number, line.decode("utf-8-sig").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise self._no_utf8() from None
        raise DataError(f"{self.path}: expected a line of text, found an empty file. Fetch the file again.")

    def _header(self, text: str) -> list[str]:
        _, end, names = next(self._records(), (0, self._first, [text]))
        self._first = end + 1
        return each_once(self.path, names)

    def _read(self, names: list[str]) -> pl.DataFrame:
        try:
            return pl.read_csv(
                self.path if self._content is None else self._content,
                separator=self._separator,
                has_header=False,
                skip_lines=self._first - 1,
                schema=dict.fromkeys(names, pl.String),
                quote_char='"' if self._quoted else None,
                infer_schema=False,
                glob=False,
            )
        except pl.exceptions.NoDataError:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
            if self._lenient and "utf-8" not in str(error).lower():
                return self._read_leniently(names)
            raise self._unreadable(len(names), first_line(error)) from None

    def _read_leniently(self, names: list[str]) -> pl.DataFrame:
        """The rows as csv reads them, which takes 27" where no quote begins; blank where lines have too many values."""
        width, lines = len(names), list(self._lines())
        rows: list[list[str | None]] = []
        last = self._first - 1
        for begin, end, values in self._records(strict=True):
            if end < self._first:
                continue
            rows += [[None] * width for _ in range(begin - last - 1)]
            if len(values) > width:
                record = b"".join(lines[begin - 1 : end]).decode("utf-8", errors="replace")
                self.left_out.append((begin, record.rstrip("\r\n")))
                rows += [[None] * width for _ in range(end - begin + 1)]
            else:
                rows.append([value or None for value in values] + [None] * (width - len(values)))
            last = end
        return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")

    def _drop_blank(self) -> np.ndarray:
        """(rows,) the places of the rows that stay."""
        first, *others = (pl.col(name) for name in self.names)
        blank = self.frame.select(
            pl.all_horizontal(first.is_null() | (first.str.strip_chars() == ""), *(c.is_null() for c in others))
        ).to_series()
        self.frame = self.frame.filter(~blank)
        if (skipped := int(blank.sum()) - sum(text.count("\n") + 1 for _, text in self.left_out)) > 0:
            self.notes.append(f"{self.path.name}: {skipped} blank lines skipped.")
        return np.flatnonzero(~blank.to_numpy())

    def _counted(self) -> Iterator[tuple[int, int]]:
        """Each line's number and how many values it has; not of blank lines."""
        return ((begin, len(values)) for begin, _, values in self._records())

    def _records(self, strict: bool = False) -> Iterator[tuple[int, int, list[str]]]:
        """First line, last line and values of the rows that are not blank."""
        csv.field_size_limit(_LONGEST_VALUE)
        lines = (line.decode("utf-8", errors="replace").removeprefix("\ufeff") for line in self._lines())
        texts = (line.replace("\r\n", "\n").replace("\r", " ") for line in lines)  # csv ends lines at either
        quoting = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        reader, begin = csv.reader(texts, delimiter=self._separator, strict=strict, quoting=quoting), 1
        try:
            for values in reader:
                if any(value.strip() for value in values):
                    yield begin, reader.line_num, values
                begin = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{self.path}, line {begin}: expected values, and quotes that are closed, found what cannot be read "
                f"({error}). Mend or drop the line; write a quote within quotes twice."
            ) from None

    def _look_for_short_lines(self) -> None:
        """Notes lines with too few values; a file that ends in the middle of one is refused."""
        width, last, short = len(self.names), (0, 0), []
        for last in self._counted():
            if last[1] < width:
                short.append(last)
        if not short:
            return
        number, count = short[0]
        if last in short and not self._ends_with_newline():
            raise DataError(
                f"{self.path}, line {last[0]}: expected {width} values, found {last[1]} and the end of the file, which "
                "seems to be cut off. Fetch it again, or drop the line."
            )
        self.notes.append(
            f"{self.path.name}: {len(short)} lines have fewer than {width} values (line {number} has {count}); what is "
            "not there is taken as unknown."
        )

    def _ends_with_newline(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"

    def _unreadable(self, width: int, reason: str) -> DataError:
        """The error for a file that polars does not read, with the line where one can be named."""
        if "utf-8" in reason.lower():
            return self._no_utf8()
        uneven = [line for line in self._counted() if line[1] != width]
        if uneven:
            number, count = next((line for line in uneven if line[1] > width), uneven[0])
            return DataError(f"{self.path}, line {number}: expected {width} values, found {count}. Mend or drop it.")
        return DataError(f"{self.path}: a line cannot be read ({reason}). Mend or drop it.")

    def _no_utf8(self, mend: str = "Convert the file (iconv -f latin1 -t utf-8).") -> DataError:
        with open(self.path, "rb") as file:
            number = next((n for n, line in enumerate(file, 1) if not is_utf8(line)), 1)
        return DataError(f"{self.path}, line {number}: expected text in UTF-8, found other bytes. {mend}")


def as_numbers(text: pl.Series) -> pl.Series:
    """Text as float64, true and false as 1 and 0; null where it is no number."""
    text = text.str.strip_chars()
    values = text.cast(pl.Float64, strict=False)
    if values.null_count():
        truth = {"true": 1.0, "false": 0.0}
        named = text.str.to_lowercase().replace_strict(truth, default=None, return_dtype=pl.Float64)
        values = values.fill_null(named)
    return values


def _of_one_byte(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def is_utf8(line: bytes) -> bool:
    """Whether the bytes are text in UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
