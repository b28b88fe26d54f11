"""An earlier import that a new one extends: its numbers stay, its words, and what it knows of ids that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data.importers.ids import Ids, aligned
from qin_zoo.data.importers.log import codes_of
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.write import SUMMARY_FILE, Output, is_import
from qin_zoo.data.sources import digits_lost, readable
from qin_zoo.data.vocabulary import whole
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
            frame = self.frame(f"ids_{owner}.parquet")
            number = frame[f"{owner}_id"] if f"{owner}_id" in frame.columns else pl.Series([0])
            if "original_id" not in frame.columns or number.to_list() != list(range(1, len(number) + 1)):
                raise DataError(f"{self.path / f'ids_{owner}.parquet'}: expected {owner}_id from 1, and original_id.")
            originals[owner] = frame["original_id"]
        return originals

    def names(self, file: str) -> list[str]:
        """The columns of a table, but for the one that numbers its rows; none where there is no such table."""
        frame = self.frame(file)
        return [] if frame is None else frame.columns[1:]

    def columns(self, file: str, rows: int) -> dict[str, np.ndarray]:
        """(rows, …) those columns, row i being number i, zeros behind their end."""
        columns, frame = {}, self.frame(file)
        for values in [] if frame is None else frame.get_columns()[1:]:
            if isinstance(values.dtype, pl.List):
                values = values.list.to_array(len(values[0]))
            array = values.to_numpy()
            columns[values.name] = np.zeros((rows, *array.shape[1:]), array.dtype)
            columns[values.name][: len(array)] = array
        return columns

    def frame(self, file: str) -> pl.DataFrame | None:
        """A table; None where there is none."""
        if not (self.path / file).is_file():
            return None
        with readable(self.path / file, "Import again."):
            return pl.read_parquet(self.path / file, glob=False)

    def options(self, given: Iterable[str], options: ImportOptions) -> ImportOptions:
        """The options of the earlier import, but for those that are given now."""
        then = self.summary.get("options", {})
        taken_over = {field.name for field in fields(options)} & then.keys() - {*given, *_OF_THE_CALL}
        return replace(options, **{name: then[name] for name in taken_over})

    def json(self, file: str) -> dict[str, Any]:
        """What a file holds by names; nothing where there is none."""
        with readable(self.path / file, "Import again."):
            content = read_json(self.path / file) if (self.path / file).is_file() else {}
        if not isinstance(content, dict):
            raise DataError(f"{self.path / file}: expected names and what they stand for, found others. Import again.")
        return content


class Words:
    """Vocabularies and scales of a folder: those of an earlier import stay, new words come behind.

    Args:
        before: the earlier import, or None.
        notes: receives which words are written in several ways, or may be several.

    Attributes:
        vocabularies: column -> words; word i has the code i + 1.
        scales: column -> ``mean``, which is subtracted from its numbers or vectors, and ``deviation``, by which they
            are divided.
    """

    def __init__(self, before: Before | None, notes: list[str]) -> None:
        self.before, self._notes = before, notes
        self.vocabularies = before.json("vocabularies.json") if before else {}
        self.scales = before.json("scales.json") if before else {}

    def codes(self, name: str, values: pl.Series) -> np.ndarray:
        """(n,) int32 codes of text, one for what :func:`aligned` takes for one word; 0 for null or empty text."""
        text = values.cast(pl.String).str.strip_chars()
        text = text.set(text == "", None)
        words = self.vocabularies.setdefault(name, [])
        written, known = text.drop_nulls().unique().sort(), pl.Series(words, dtype=pl.String)
        of_known, of_written = (form.cast(pl.String) for form in aligned([Ids("", known), Ids("", written)], []))
        codes: dict[str, int] = {}
        by_form: dict[str, int] = {}
        others = []
        for code, (word, form) in enumerate(zip(words, of_known), 1):
            codes[word] = code
            by_form.setdefault(form, code)
        for word, form in zip(written, of_written):
            if word not in codes and form in by_form:
                others.append(f"'{word}' is taken as {words[by_form[form] - 1]}")
                codes[word] = by_form[form]
            elif word not in codes:
                words.append(word)
                codes[word] = by_form[form] = len(words)
        if others:
            self._notes.append(f"{name}: {len(others)} words are written in another way, too: {others[0]}.")
        great = written.cast(pl.Float64, strict=False).abs() > 2**53
        if len(lost := written.filter(great & written.str.contains(r"\.|\+"))):
            self._notes.append(str(digits_lost(name, lost[0])))
        numbers = pl.Series(words, dtype=pl.String).to_frame("word").with_columns(number=whole(pl.col("word")))
        if len(twice := numbers.filter(pl.col("number").is_duplicated()).sort("number", "word")["word"]):
            self._notes.append(
                f"{name}: '{twice[0]}' and '{twice[1]}' are two words, since there are fractions or an earlier import "
                "has both. Write them in one form if they are one."
            )
        return np.array([0, *(codes[word] for word in written)], np.int32)[codes_of(text, written)]

    def scaled(self, name: str, values: np.ndarray) -> np.ndarray:
        """(n,) float32 of mean 0 and deviation 1 among the numbers that the first import knew; 0 for NaN."""
        known = values[~np.isnan(values)]
        # of the whole, as scikit-learn's StandardScaler has it; 1 for a constant
        mean, deviation = (float(known.mean()), float(known.std()) or 1.0) if known.size else (0.0, 1.0)
        scale = self.scales.setdefault(name, {"mean": mean, "deviation": deviation})
        return np.nan_to_num((values - scale["mean"]) / scale["deviation"]).astype(np.float32)

    def centred(self, name: str, vectors: np.ndarray) -> np.ndarray:
        """(n, D) float32 of mean 0 and, all numbers together, deviation 1 among the vectors that the first import knew.

        Rows of zeros, which are no vectors, stay, and so do those of an earlier import that left them as they were.
        """
        known = vectors.any(axis=1)
        if name not in self.scales:
            if not known.any() or (self.before and name in self.before.names("item_info.parquet")):
                return vectors
            mean = vectors[known].mean(axis=0, dtype=np.float64)
            deviation = float(np.sqrt(np.square(vectors[known] - mean).mean())) or 1.0
            self.scales[name] = {"mean": mean.tolist(), "deviation": deviation}
        scale = self.scales[name]
        return np.where(known[:, None], (vectors - scale["mean"]) / scale["deviation"], 0).astype(np.float32)

    def __contains__(self, name: str) -> bool:
        return name in self.vocabularies or name in self.scales

    def size(self, name: str) -> int:
        """One more than the greatest code of a column."""
        return len(self.vocabularies[name]) + 1

    def write(self, out: Output) -> None:
        """Writes the files that a later import reads."""
        if self.vocabularies:
            out.write_json("vocabularies.json", self.vocabularies)
        if self.scales:
            out.write_json("scales.json", self.scales)
