"""Columns of other files about the items, joined into the item table by the items' numbers.

item_info.parquet + item_feature.parquet → item_info_enriched.parquet, and a report in JSON beside it
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.item_files import ITEM_FILE, check_output, in_folder, index_column, write_columns, write_report
from qin_zoo.data.raw_files import RawFile, reading
from qin_zoo.data.sources import ParquetSource, at, check_file, open_source, readable
from qin_zoo.errors import DataError, suggest

FEATURE_FILE = "item_feature.parquet"
# How columns are called that are usually counted over a whole log.
_COUNTED = re.compile(
    r"(^|[_\W])(likes?|views?|clicks?|plays?|counts?|cnt|num|number|levels?|popularity|popular|hot|rank|rating|ctr|rate|"
    r"score|sales|comments?|shares?|purchases?|impressions?)($|[_\W\d])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class JoinedColumn:
    """One column that was joined.

    Attributes:
        name: in the item table.
        source: what it is called in the other file.
        kind: ``number``, ``whole number``, ``vector`` or ``list``.
        found, missing: items, padding not counted, that have a value, and that have none: theirs is 0, a vector of
            zeros or an empty list.
        least, greatest: of its numbers; None where no item has any.
        known_before: whether it was said (``--known-before``) that it holds nothing from after the clicks; None where
            its name does not suggest that it was counted over a log.
    """

    name: str
    source: str
    kind: str
    found: int
    missing: int
    least: float | None
    greatest: float | None
    known_before: bool | None

    @property
    def feature(self) -> str:
        """Its entry for ``feature_cols``; whole numbers from 0 on are ids."""
        if self.kind == "vector":
            about = "dtype: float, type: embedding"
        elif self.kind == "number" or (self.least or 0) < 0:
            about = "dtype: float, type: numeric"
        else:
            kind = "categorical" if self.kind == "whole number" else "sequence"
            about = f"dtype: int, type: {kind}, vocab_size: {(self.greatest or 0) + 1:.0f}"
        return f"{{name: {self.name}, active: True, {about}, source: item}}"


@dataclass(frozen=True)
class Enriched:
    """What :func:`enrich` wrote.

    Attributes:
        path: the new item table.
        items: rows of it, padding not counted.
        source: the file that was joined.
        rows: of that file; ``strangers`` of them are about no item of the table and were left out.
        columns: what was joined.
        left_out: columns that hold no numbers, or are of the table already.
    """

    path: str
    items: int
    source: str
    rows: int
    strangers: int
    columns: list[JoinedColumn]
    left_out: list[str]


def enrich(
    folder: str | Path,
    source: str | Path = FEATURE_FILE,
    columns: Iterable[str] = (),
    *,
    known_before: Iterable[str] = (),
    id_column: str | None = None,
    info: str | Path = ITEM_FILE,
    output: str | Path = "item_info_enriched.parquet",
    force: bool = False,
) -> Enriched:
    """Writes the item table with columns of another file.

    Args:
        folder: the dataset's.
        source: a parquet or csv file with a column of item numbers; or an npy file, row i of which is item i. A bare
            name lies in ``folder``.
        columns: names, ``NEW=NAME`` where one is to be called otherwise. Default: those columns of single numbers that
            the table lacks; of an npy file, its own name.
        known_before: columns that hold nothing from after the clicks, as the user says.
        id_column: the column of item numbers. Default: as in the item table.
        info: the item table.
        output: the new one.
        force: replace an output, or columns, that exist.

    Returns:
        what was found; it stands beside the new table, too.

    Raises:
        DataError: a file, column or number that cannot be used, an item given twice, or an output that exists.
    """
    info, output, source = (in_folder(folder, file) for file in (info, output, source))
    check_file(source)
    index, count = index_column(info), open_source(info).num_rows
    known = set(open_source(info).names)
    wanted = {new: name or new for new, _, name in (part.partition("=") for part in columns)}  # new name -> name
    frame, left_out = _read(source, list(dict.fromkeys(wanted.values())), id_column or index, known, count)
    wanted = wanted or {name: name for name in frame.columns[1:]}
    check_output(info, output, wanted, force)
    known_before = set(known_before)
    if unknown := sorted(known_before - wanted.keys()):
        raise DataError(
            f"--known-before {unknown[0]}: no such column is joined.{suggest(unknown[0], wanted)} Joined are "
            f"{', '.join(wanted)}."
        )
    index_name = frame.columns[0]
    ids = frame[index_name]
    inside = frame.filter((ids > 0) & (ids < count))
    again = inside.filter(inside[index_name].is_duplicated())[index_name]
    if len(again):
        raise DataError(f"{at(source, index_name)}: item {again.min()} comes more than once. Keep one row per item.")
    every = pl.DataFrame({index_name: np.arange(count)})
    table = every.join(inside, on=index_name, how="left", maintain_order="left")
    joined, values = [], {}
    for new, name in wanted.items():
        report, values[new] = _filled(table[name], new, source)
        counted = bool(_COUNTED.search(new)) and report["kind"] in ("number", "whole number")
        said = new in known_before if counted or new in known_before else None
        joined.append(JoinedColumn(new, name, known_before=said, **report))
    write_columns(info, output, {new: series.to_arrow() for new, series in values.items()})
    strangers = int(((ids < 0) | (ids >= count)).sum())
    done = Enriched(str(output), count - 1, source.name, len(frame), strangers, joined, left_out)
    write_report(output, {**asdict(done), "path": output.name})
    return done


def _read(path: Path, wanted: list[str], index: str, known: set[str], count: int) -> tuple[pl.DataFrame, list[str]]:
    """The item numbers (int64), first, and the columns; and the names of those that cannot be used."""
    if path.suffix == ".npy":
        return _read_array(path, wanted, count), []
    if path.suffix == ".csv":
        RawFile(path, "csv", {}).short_lines()  # says what would hide rows
        scan = pl.scan_csv(path, glob=False, infer_schema_length=None)
    else:
        ParquetSource(path)  # says what is wrong with a file that cannot be opened
        scan = pl.scan_parquet(path, glob=False)
    schema = reading(path, scan.collect_schema)
    for name in (index, *wanted):
        if name not in schema:
            raise DataError(
                f"{path}: expected a column '{name}', found {', '.join(schema)}.{suggest(name, schema)} "
                + ("Name the column of item numbers with --id." if name == index else "Name another one.")
            )
    single = [name for name, kind in schema.items() if kind.is_numeric() and name not in known and name != index]
    chosen = wanted or single
    if not chosen:
        raise DataError(f"{path}: no column of numbers that the item table lacks. Name columns with --column.")
    frame = reading(path, lambda: scan.select(pl.col(index), *chosen).collect())
    frame = frame.with_columns(pl.col(pl.Decimal).cast(pl.Float64))
    if not frame.height:
        raise DataError(f"{path}: expected at least one row, found none. Write it again.")
    ids = frame[index]
    if not ids.dtype.is_integer() or ids.null_count():
        raise DataError(f"{at(path, index)}: expected whole numbers, found {ids.dtype} or nulls.")
    return frame.with_columns(pl.col(index).cast(pl.Int64)), [n for n in schema if n not in (index, *chosen)]


def _read_array(path: Path, wanted: list[str], count: int) -> pl.DataFrame:
    """The same of an array whose row i is item i; it is called as the file, or as it is wanted."""
    if len(wanted) > 1:
        raise DataError(f"{path}: an npy file is one column, expected one name, found {', '.join(wanted)}.")
    with readable(path, "Write it with numpy.save."):
        values = np.load(path, allow_pickle=False)
    if values.ndim not in (1, 2) or values.dtype.kind not in "iuf" or len(values) != count:
        raise DataError(
            f"{path}: expected {count:,} rows of numbers, or of vectors, one for each row of the item table, padding "
            f"included; found an array of {values.dtype} of the shape {values.shape}. A file with item numbers can "
            "have other rows: write it as parquet."
        )
    name = next(iter(wanted), path.stem)
    column = pl.Series(name, values) if values.ndim == 1 else pl.Series(name, values).arr.to_list()
    return pl.DataFrame([pl.Series("-item", np.arange(count)), column])


def _filled(column: pl.Series, name: str, path: Path) -> tuple[dict, pl.Series]:
    """What there is to say of a column with a row for each item, and the column without nulls."""
    kind, listed = column.dtype, isinstance(column.dtype, (pl.List, pl.Array))
    column = column.arr.to_list() if isinstance(kind, pl.Array) else column
    inner = column.dtype.inner if listed else kind
    if not inner.is_numeric():
        raise DataError(
            f"{at(path, column.name)}: expected numbers or lists of numbers, found {kind}. Encode it first: "
            "`qin-zoo embed` makes vectors of texts."
        )
    whole, missing = inner.is_integer(), column.is_null()
    numbers = column.drop_nulls()
    if listed:
        numbers = pl.Series(numbers.to_arrow().flatten()).drop_nulls()
    if not whole and not numbers.is_finite().all():
        raise DataError(f"{at(path, column.name)}: expected finite numbers, found NaN or infinite ones. Correct them.")
    if not listed:
        kind, filled = "whole number" if whole else "number", column.fill_null(0)
    elif whole:
        kind, filled = "list", column.fill_null([])
    else:
        sizes = column.list.len().drop_nulls().unique()
        if len(sizes) > 1:
            raise DataError(f"{at(path, column.name)}: expected vectors of one length, found {sizes.min()} and others.")
        kind, filled = "vector", column.fill_null([0.0] * int(sizes[0] if len(sizes) else 1))
    least, greatest = (float(numbers.min()), float(numbers.max())) if len(numbers) else (None, None)
    lacking = int(missing.sum()) - 1  # padding has no value
    about = {"kind": kind, "found": len(column) - 1 - lacking, "missing": lacking, "least": least, "greatest": greatest}
    return about, filled.rename(name)
