"""An earlier import that a new one extends: its numbers stay, and what it knows of ids that are gone stays, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.write import SUMMARY_FILE, is_import
from qin_zoo.data.sources import readable
from qin_zoo.errors import DataError
from qin_zoo.files import read_json

_OWNERS = ("user", "item")
_OF_THE_CALL = ("force", "extend", "only_new")  # options that an extension does not take over


@dataclass(frozen=True)
class Before:
    """A folder that an import has written.

    Args:
        path: the folder.
        summary: its ``import.json``.
    """

    path: Path
    summary: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Before:
        """Raises DataError unless it is the folder of an import whose ids are kept."""
        path = Path(path).expanduser().resolve()
        if not is_import(path / SUMMARY_FILE) or not all((path / f"ids_{n}.parquet").is_file() for n in _OWNERS):
            raise DataError(
                f"--extend {path}: expected the folder of an import, with {SUMMARY_FILE}, ids_user.parquet and "
                "ids_item.parquet. Give the OUT of an earlier `qin-zoo data import`."
            )
        return cls(path, read_json(path / SUMMARY_FILE))

    @cached_property
    def ids(self) -> dict[str, pl.Series]:
        """``user`` and ``item`` -> original ids by number, from 1; DataError where the files do not hold them."""
        originals = {}
        for owner in _OWNERS:
            frame = self._read(f"ids_{owner}.parquet")
            number = frame[f"{owner}_id"] if f"{owner}_id" in frame.columns else pl.Series([0])
            if "original_id" not in frame.columns or number.to_list() != list(range(1, len(number) + 1)):
                raise DataError(
                    f"{self.path / f'ids_{owner}.parquet'}: expected {owner}_id from 1 on, and original_id."
                )
            originals[owner] = frame["original_id"]
        return originals

    @cached_property
    def vocabularies(self) -> dict[str, list[str]]:
        """Column -> words; word i has the code i + 1."""
        return self._json("vocabularies.json")

    @cached_property
    def scales(self) -> dict[str, dict[str, float]]:
        """Column -> ``mean``, which is subtracted from its numbers, and ``deviation``, by which they are divided."""
        return self._json("scales.json")

    def names(self, file: str) -> list[str]:
        """The columns of a table, but for the one that numbers its rows; none where there is no such table."""
        return self._read(file).columns[1:] if (self.path / file).is_file() else []

    def column(self, file: str, name: str, rows: int) -> np.ndarray:
        """(rows, …) a column of a table whose row i is number i, zeros behind its end."""
        values = self._read(file)[name]
        if isinstance(values.dtype, pl.List):
            values = values.list.to_array(len(values[0]))
        array = values.to_numpy()
        out = np.zeros((rows, *array.shape[1:]), array.dtype)
        out[: len(array)] = array
        return out

    def frame(self, file: str) -> pl.DataFrame | None:
        """A table; None where there is none."""
        return self._read(file) if (self.path / file).is_file() else None

    def options(self, given: Iterable[str], options: ImportOptions) -> ImportOptions:
        """The options of the earlier import, but for those that are given now."""
        kept = set(given) | set(_OF_THE_CALL)
        then = self.summary.get("options", {})
        values = {f.name: getattr(options, f.name) for f in fields(options)}
        return ImportOptions(
            **{name: value if name in kept else then.get(name, value) for name, value in values.items()}
        )

    def _read(self, file: str) -> pl.DataFrame:
        with readable(self.path / file, "Import again."):
            return pl.read_parquet(self.path / file, glob=False)

    def _json(self, file: str) -> dict[str, Any]:
        with readable(self.path / file, "Import again."):
            content = read_json(self.path / file) if (self.path / file).is_file() else {}
        if not isinstance(content, dict):
            raise DataError(f"{self.path / file}: expected names and what they stand for, found others. Import again.")
        return content
