"""Raw data files, csv or parquet, read lazily, a wrong value being found with its row; and files of vectors."""

from __future__ import annotations

import csv
import logging
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data.preprocess import Made, Wrong, prepare
from qin_zoo.data.sources import ParquetSource, at, check_file, each_once, in_utc, require_exact
from qin_zoo.errors import ConfigError, DataError, first_line, suggest

_log = logging.getLogger(__name__)
_QUOTE = b'"'
_NO_SEPARATOR = "\x1f"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04", b"\xfd7zXZ")  # gzip, zstd, bzip2, zip, xz
_ARRAYS = ("key", "value")


def raw_files(path: Path, kind: str) -> list[Path]:
    """The files of a split: one, named with or without its suffix, or all of a folder; DataError without any."""
    suffix = f".{kind}"
    if not path.exists() and path.suffix != suffix:
        path = path.with_name(path.name + suffix)
    files = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
    if not files:
        raise DataError(
            f"{path}: expected *{suffix} files in this folder, found none. Correct its name in the configuration."
        )
    for file in files:
        check_file(file)
    return files


@dataclass(frozen=True, eq=False)
class RawFile:
    """A raw file, or some of its rows, read lazily; with the columns that ``preprocess`` makes.

    Attributes:
        path: the file.
        params: ``sep`` (","), ``n_rows``, and what :func:`~qin_zoo.data.preprocess.prepare` reads.
        kind: csv or parquet.
        rows: the rows it stands for, ascending; None for all.
        copy: a parquet file of what it holds, made by :meth:`parsed`.
    """

    path: Path
    kind: str
    params: Mapping[str, Any] = field(repr=False)
    rows: pl.Series | None = field(default=None, repr=False)
    copy: Path | None = None

    @cached_property
    def frame(self) -> pl.LazyFrame:
        """Its rows, with the columns that ``preprocess`` makes."""
        return pl.scan_parquet(self.copy, glob=False) if self.copy else self._prepared[0]

    @property
    def made(self) -> dict[str, Made]:
        """Of each column that ``preprocess`` makes, how."""
        return self._prepared[2]

    @cached_property
    def schema(self) -> pl.Schema:
        """Column -> its type."""
        return self.read(self.frame.collect_schema)

    @cached_property
    def num_rows(self) -> int:
        """Of the whole file."""
        return self.collect(self._scan.select(pl.len())).item()

    def read(self, query: Callable[[], Any]) -> Any:
        """What a query on it returns; DataError, naming the line where it can, where it cannot be read."""
        try:
            return reading(self.path, query)
        except DataError as error:
            if self.kind == "csv" and self.copy is None:
                _check_lines(self.path, self._separator)
            if self.kind == "parquet" and "invalid utf8" in str(error):
                found = [name for name, stored in self._scan.collect_schema().items() if stored == pl.Binary]
                raise DataError(
                    f"{self.path}: expected UTF-8, found other bytes in a column of bytes ({', '.join(found)}). "
                    "Write text, for a uuid or a hash for example its hex digits."
                ) from None
            raise

    def collect(self, query: pl.LazyFrame) -> pl.DataFrame:
        """The rows of a query on it; DataError as of :meth:`read`."""
        return self.read(lambda: query.collect(engine="streaming"))

    @property
    def _separator(self) -> str:
        return str(self.params.get("sep") or ",")

    def short_lines(self) -> str | None:
        """What is to be said of lines of a csv file that have too few fields; DataError where its end is missing."""
        if self.kind != "csv":
            return None
        return self.read(lambda: _short_lines(self.path, self._separator, self.params.get("n_rows")))

    def parsed(self, copy: Path, names: Iterable[str]) -> RawFile:
        """The same columns, read from a parquet file that this writes: text is parsed once, not for every column."""
        if self.kind == "parquet" and self.rows is None and self.frame is self._scan:
            return self
        columns = self.frame.select(n for n in names if n in self.schema)
        self.read(lambda: columns.sink_parquet(copy, compression="lz4"))
        return replace(self, copy=copy)

    def require(self, name: str) -> None:
        """Raises DataError unless the file has the column."""
        if name not in self.schema:
            mend = "Rename it in the file or in the dataset configuration."
            if self.kind == "csv" and len(self._names) == 1:
                mend = f"If other text than {self._separator!r} is between its columns, say which: sep in that dataset."
            raise DataError(
                f"{self.path}: expected a column '{name}', found only: {', '.join(self._names)}."
                f"{suggest(name, self._names)} {mend}"
            )

    def check(self, wrong: Iterable[Wrong]) -> int:
        """The number of rows; raises DataError for the first row of a column that holds something wrong."""
        wrong = [*self._prepared[1], *wrong]
        counts = [w.bad.sum().alias(f"-{n}") for n, w in enumerate(wrong)]
        found = self.collect(self.frame.select(pl.len().alias("-rows"), *counts))
        if found["-rows"][0] == 0:
            raise DataError(f"{self.path}: expected at least one row, found none: the split is empty. Write it again.")
        for n, (name, bad, expected, shown, missing) in enumerate(wrong):
            if found[f"-{n}"][0]:
                numbered, *_ = self._prepare(self._scan.with_row_index("-row"))
                fills = pl.lit(False) if missing is None else missing
                rows = numbered.select("-row", pl.col(shown).alias("-shown"), bad.alias("-bad"), fills.alias("-fills"))
                row = self.collect(rows.filter("-bad").head(1)).row(0, named=True)
                text = "nothing" if row["-shown"] in (None, "", []) else repr(row["-shown"])
                great = "whole" in expected and len(text.strip("'-+")) > 18 and text.strip("'-+").isdigit()
                mend = ": it is beyond 2^63 - 1, use dtype: str" if great else ""
                mend = ", or set fill_na" if row["-fills"] else mend
                raise DataError(
                    f"{at(self.path, name, row['-row'])}: expected {expected}, found {text[:80]}. Correct the "
                    f"value{mend} (rows count from 0, behind the header)."
                )
        return int(found["-rows"][0])

    @cached_property
    def _scan(self) -> pl.LazyFrame:
        limit = self.params.get("n_rows")
        if self.kind == "csv":
            each_once(self.path, _header(self.path, self._separator))
            frame = pl.scan_csv(self.path, separator=self._separator, infer_schema=False, n_rows=limit, glob=False)
            return _without_blank_lines(frame, self.path, self._separator)
        ParquetSource(self.path)  # says what is wrong with a file that cannot be opened
        frame = pl.scan_parquet(self.path, n_rows=limit, glob=False)
        stored = self.read(frame.collect_schema)
        texts = [name for name, kind in stored.items() if isinstance(kind, (pl.Categorical, pl.Enum))]
        lists = [name for name, kind in stored.items() if isinstance(getattr(kind, "inner", None), pl.Categorical)]
        changed = [pl.col(texts).cast(pl.String), pl.col(lists).cast(pl.List(pl.String)), *in_utc(stored)]
        return frame.with_columns(changed) if texts or lists or len(changed) > 2 else frame

    @cached_property
    def _names(self) -> list[str]:
        return self.read(self._scan.collect_schema).names()

    @cached_property
    def _prepared(self) -> tuple[pl.LazyFrame, list[Wrong], dict[str, Made]]:
        return self._prepare(self._scan if self.rows is None else self._scan.with_row_index("-row"))

    def _prepare(self, frame: pl.LazyFrame) -> tuple[pl.LazyFrame, list[Wrong], dict[str, Made]]:
        if self.rows is not None:
            first, count = self.rows[0], len(self.rows)
            together = self.rows[-1] - first + 1 == count
            frame = frame.slice(first, count) if together else frame.filter(pl.col("-row").is_in(self.rows.implode()))
        return prepare(frame, self._names, self.params, self.path)


def split_off(files: Mapping[str, list[RawFile]], params: Mapping[str, Any]) -> dict[str, list[RawFile]]:
    """The splits, rows of the training files being those of the validation and test split where a size is given.

    Args:
        files: split -> files.
        params: ``valid_size`` and ``test_size``: a number of rows, or below 1 a share; ``split_type``: the last rows
            (``sequential``), or ``random`` ones, which follow from ``seed`` as in FuxiCTR. Rows stay in their order.

    Raises:
        ConfigError: sizes that leave no row to train on, or take none.
    """
    sizes = {name: float(params.get(f"{name}_size") or 0) for name in ("test", "valid")}
    if not any(sizes.values()):
        return dict(files)
    whole = files["train"]
    starts = np.cumsum([0, *(file.num_rows for file in whole)])
    order = np.arange(starts[-1])
    if params.get("split_type") == "random":
        np.random.RandomState(params.get("seed") or 0).shuffle(order)
    out, left = {}, len(order)
    for name, size in sizes.items():
        if size:
            rows = int(len(order) * size) if size < 1 else int(size)
            if not 0 < rows < left:
                raise ConfigError(
                    f"{name}_size: expected it to take at least one of the {left} rows of train_data and leave others, "
                    f"found {params[f'{name}_size']}."
                )
            out[name] = order[left - rows : left]
            left -= rows
            _log.info("%s_size: %d rows of %s are the %s split", name, rows, params["train_data"], name)
    parts = {name: np.sort(rows) for name, rows in {"train": order[:left], **out}.items()}
    return {name: _taken(whole, starts, parts[name]) if name in parts else files[name] for name in ("train", *files)}


def _taken(files: list[RawFile], starts: np.ndarray, rows: np.ndarray) -> list[RawFile]:
    cuts = np.searchsorted(rows, starts)
    return [
        replace(file, rows=pl.Series(rows[first:last] - start, dtype=pl.UInt32))
        for file, start, first, last in zip(files, starts, cuts, cuts[1:])
        if last > first
    ]


def reading(path: object, query: Callable[[], Any]) -> Any:
    """What a query returns; DataError in place of what polars raises."""
    try:
        return query()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read. {first_line(error)}") from None


def collected(path: object, query: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a query; DataError in place of what polars raises."""
    return reading(path, lambda: query.collect(engine="streaming"))


# ---- files of pretrained vectors (pretrained_emb): keys, the values of a feature, and one vector for each


def read_vectors(path: Path, dtype: str = "str") -> tuple[pl.Series, np.ndarray]:
    """The keys and vectors of a file.

    Args:
        path: .h5, .npz or .parquet with the arrays (columns) ``key``, (N,), and ``value``, (N, dim).
        dtype: of the feature: ``str``, ``int`` or ``float``.

    Returns:
        the keys as a vocabulary of that dtype writes its words, (N,) text; the vectors, (N, dim) float32.

    Raises:
        DataError: no such file, or one of other contents.
    """
    check_file(path)
    try:
        keys, values = _arrays(path)
        if dtype != "float":
            require_exact(f"{path}, key", keys)
        keys = _as_text(keys, dtype)
        values = np.stack([np.asarray(v) for v in values]) if values.dtype == object else values
        values = values.astype(np.float32)
    except KeyError as error:
        raise DataError(
            f"{path}: expected {' and '.join(_ARRAYS)}, found no {error.args[0]!r:.80}. Rename what holds the "
            "values of the feature to key, their vectors to value."
        ) from None
    except (OSError, ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read as pretrained vectors. {first_line(error)}") from None
    if values.ndim != 2 or len(keys) != len(values) or not values.size:
        raise DataError(
            f"{path}: expected a vector for each key, found {len(keys)} keys and values of the shape {values.shape}. "
            "Write it again."
        )
    if wrong := np.flatnonzero(~np.isfinite(values).all(1)).tolist():
        raise DataError(f"{path}, row {wrong[0]}: expected finite numbers. Replace NaN and infinite ones.")
    return keys, values


def write_vectors(path: Path, keys: pl.Series, values: np.ndarray) -> None:
    """Writes a file that FuxiCTR's ``PretrainedEmbedding`` reads: keys (N,), values (N, dim)."""
    np.savez(path, key=np.asarray(keys.to_list(), dtype=np.str_), value=values)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as file:
            arrays = {name: file[name][:] for name in _ARRAYS if name in file}
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS if name in file}
    else:
        table = pl.read_parquet(path, glob=False)
        arrays = {name: table[name].to_numpy() for name in _ARRAYS if name in table.columns}
    return arrays["key"], arrays["value"]


def _as_text(keys: np.ndarray, dtype: str) -> pl.Series:
    if keys.dtype.kind in "OS":
        keys = np.asarray([k.decode() if isinstance(k, bytes) else k for k in keys.tolist()])
    if dtype == "str":
        return pl.Series(keys.astype(np.str_).tolist(), dtype=pl.String)
    return pl.Series(keys.astype(np.int64 if dtype == "int" else np.float64)).cast(pl.String)


# ---- lines of csv files: which of them is wrong, where polars does not say, and which are blank


def _header(path: Path, separator: str) -> list[str]:
    """The names in the first line; raises DataError where it is not UTF-8."""
    _, record = next(_records(path), (1, b""))
    try:
        return next(csv.reader([_text(path, 1, record)], delimiter=separator), [])
    except csv.Error as error:
        mend = "Write a quote within quotes twice, and close each."
        if re.search(rb"\r[^\n]", record):
            mend = f"Its lines end with a carriage return alone: tr '\\r' '\\n' < {path.name} > new.csv"
        raise DataError(f"{path}, line 1: expected the names of columns, cannot be read ({error}). {mend}") from None


def _check_lines(path: Path, separator: str) -> None:
    """Raises DataError for the first line that is not UTF-8 or has more fields than the header."""
    fields = None
    for row, (line, record) in enumerate(_records(path), -1):
        _text(path, line, record)
        _check_quotes(path, line, record, separator)
        count = _fields(record, separator)
        fields = fields or count
        if count > fields:
            raise DataError(
                f"{path}, line {line} (row {row}): expected {fields} fields as in the header, found {count}. Put a "
                f"field that has a {separator!r} of its own in double quotes, or correct the line (rows count from 0)."
            )


def _short_lines(path: Path, separator: str, limit: int | None) -> str | None:
    """What is to be said of lines with fewer fields than the header; None where there are none.

    Raises:
        DataError: the last line is one, has no end, and others are complete: the file was cut off; or a quote stands
            alone within a field.
    """
    width, short, complete, line, count = 0, [], False, 0, 0
    if not _may_have_short_lines(path, separator, limit):
        return None
    for line, record in islice(_records(path), limit and limit + 1):
        if record.strip():
            _check_quotes(path, line, record, separator)
            count = _fields(record, separator)
            width, complete = width or count, complete or (width == count)
            short += [(line, count)] if count < width else []
    if not short:
        return None
    if complete and short[-1] == (line, count) and limit is None and not _ends_a_line(path):
        raise DataError(
            f"{path}, line {line}: expected {width} fields as in the header, found {count} and the end of the file, "
            "which seems to be cut off. Fetch it again, or drop the line."
        )
    return (
        f"{path}: {len(short)} lines have fewer fields than the header, which has {width} (line {short[0][0]} has "
        f"{short[0][1]}); what is not there is taken as missing"
    )


def _may_have_short_lines(path: Path, separator: str, limit: int | None) -> bool:
    """Whether a line has fewer fields than the first, or an odd number of quotes; quotes over lines are not heeded."""
    lines = pl.scan_csv(
        path, separator=_NO_SEPARATOR, quote_char=None, has_header=False, new_columns=["line"], infer_schema=False,
        n_rows=limit and limit + 1, truncate_ragged_lines=True, glob=False,
    )  # fmt: skip
    fields = pl.col("line").str.replace_all('"[^"]*"', "").str.count_matches(separator, literal=True)
    odd = pl.col("line").str.count_matches('"', literal=True) % 2 == 1
    doubtful = ((fields < fields.first()) | odd).any()
    return reading(path, lambda: lines.select(doubtful).collect(engine="streaming").item())


def _check_quotes(path: Path, line: int, record: bytes, separator: str) -> None:
    """Raises DataError for a field with one quote within (27" tv): polars leaves out rows up to the next such field."""
    if _QUOTE not in record:
        return
    end = re.escape(separator.encode())
    rest = re.sub(rb'(?:^|(?<=%b))[ ]*"(?:[^"]|"")*"(?=\s*(?:%b|\Z))' % (end, end), b"", record)
    if b"\n" in rest or rest.count(_QUOTE) % 2:
        raise DataError(
            f"{path}, line {line}: expected quotes around whole fields alone, found {rest.splitlines()[0][:80]!r}. "
            "Close them; put a field that has quotes of its own in double quotes, and write its own twice."
        )


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def _without_blank_lines(frame: pl.LazyFrame, path: Path, separator: str) -> pl.LazyFrame:
    """The rows but for blank lines, of which polars makes rows without a value, but for spaces; pandas leaves them out.

    Raises:
        DataError: beside blank lines there is a row that has only separators: it could not be told from them.
    """
    blanks = b" \t".replace(separator.encode(), b"")
    if not _may_have_blank_lines(path, blanks):
        return frame
    for line, record in _records(path):
        if record and not record.strip(separator.encode() + b" \t") and separator.encode() in record:
            raise DataError(
                f"{path}, line {line}: expected a value, found a row without any, in a file with blank lines. Remove "
                "the blank lines, or the row."
            )
    first, *others = reading(path, frame.collect_schema)
    empty = pl.col(first).is_null() | (pl.col(first).str.strip_chars() == "")
    return frame.filter(~pl.all_horizontal(empty, *(pl.col(name).is_null() for name in others)))


def _may_have_blank_lines(path: Path, blanks: bytes) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return re.search(rb"\n([%b]*\r?\n|[%b]+\r?\Z)" % (blanks, blanks), data) is not None


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
        encoding = "utf-16" if line == 1 and record.startswith(_UTF_16) else "latin1"
        if line == 1 and record.startswith(_PACKED):
            raise DataError(f"{path}: expected text, found a compressed file. Unpack it.") from None
        raise DataError(
            f"{path}, line {line}: expected UTF-8, found the byte 0x{record[error.start]:02x}. Convert the file, for "
            f"example with: iconv -f {encoding} -t utf-8 {path.name} > new.csv"
        ) from None
