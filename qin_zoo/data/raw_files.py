"""Raw data files, csv or parquet, read lazily; a wrong value is found with its row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from qin_zoo.data.sources import at, check_file
from qin_zoo.errors import DataError, first_line, suggest


def raw_files(path: Path, kind: str) -> list[Path]:
    """The files of a split: one, named with or without its suffix, or all of a folder."""
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


@dataclass(frozen=True)
class RawFile:
    """A raw file, read lazily."""

    path: Path
    kind: str
    sep: str
    n_rows: int | None

    @cached_property
    def frame(self) -> pl.LazyFrame:
        if self.kind == "csv":
            return pl.scan_csv(self.path, separator=self.sep, infer_schema=False, n_rows=self.n_rows)
        return pl.scan_parquet(self.path, n_rows=self.n_rows)

    @cached_property
    def schema(self) -> pl.Schema:
        return self.read(self.frame.collect_schema)

    def read(self, query: Callable[[], Any]) -> Any:
        return reading(self.path, query)

    def require(self, name: str) -> None:
        if name not in self.schema:
            raise DataError(
                f"{self.path}: expected a column '{name}', found only: {', '.join(self.schema)}."
                f"{suggest(name, self.schema)} Rename it in the file or in the dataset configuration."
            )

    def check(self, wrong: Mapping[str, tuple[pl.Expr, str]]) -> int:
        """The number of rows; raises DataError for the first row of a column that holds something wrong."""
        counts = [bad.sum().alias(name) for name, (bad, _) in wrong.items()]
        found = self.read(lambda: self.frame.select(pl.len().alias("-rows"), *counts).collect(engine="streaming"))
        if found["-rows"][0] == 0:
            raise DataError(f"{self.path}: expected at least one row, found none: the split is empty. Write it again.")
        for name, (bad, expected) in wrong.items():
            if found[name][0]:
                rows = self.frame.select(pl.col(name), bad.alias("-bad")).with_row_index("-row").filter("-bad").head(1)
                row = self.read(lambda rows=rows: rows.collect(engine="streaming")).row(0, named=True)
                text = "nothing" if row[name] in (None, "") else repr(row[name])
                raise DataError(
                    f"{at(self.path, name, row['-row'])}: expected {expected}, found {text[:80]}. Correct the value"
                    f"{', or set fill_na' if text == 'nothing' else ''} (rows count from 0, behind the header)."
                )
        return int(found["-rows"][0])


def reading(path: object, query: Callable[[], Any]) -> Any:
    try:
        return query()
    except (pl.exceptions.PolarsError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read. {first_line(error)}") from None
