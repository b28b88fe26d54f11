"""The tables of items and users beside one's own log, joined by their ids; and what every column was found to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.importers.description import LEFT_OUT, Column, Description, Entry
from qin_zoo.data.importers.ids import Ids, is_missing
from qin_zoo.data.importers.log import ItemSide
from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.data.importers.set_aside import HEADER_AGAIN, SetAside
from qin_zoo.data.importers.values import lists, numbers, vectors
from qin_zoo.data.importers.vectors import read_vectors
from qin_zoo.errors import DataError

Values = pl.Series | np.ndarray


@dataclass
class Side:
    """A table of items or users, or a file of vectors: a row for each id, none twice.

    Attributes:
        path: the file.
        ids: of its rows.
        columns: name -> what it was taken for, and its values.
    """

    path: Path
    ids: Ids
    columns: dict[str, tuple[str, Values]]


def read_side(entry: Entry, folder: Path, owner: str, aside: SetAside, seen: Seen) -> Side:
    """The rows of a table of items or users that can be used."""
    parts = [_read(OwnFile(folder / name), entry, owner, aside, seen) for name in entry.files]
    first, *others = parts
    if not others:
        return first
    joined = Ids(first.ids.where, pl.concat([part.ids.values for part in parts]))
    if again := int((~joined.values.is_first_distinct()).sum()):
        seen.notes.append(f"{', '.join(entry.files)}: {again:,} {owner}s are in several; the first row is taken.")
    columns = {name: (kind, _concat(parts, name)) for name, (kind, _) in first.columns.items()}
    return Side(first.path, joined, columns)


def _concat(parts: list[Side], name: str) -> Values:
    values = [part.columns[name][1] for part in parts]
    if isinstance(values[0], pl.Series):
        return pl.concat(values)
    for part, own in zip(parts, values):
        if own.shape[1:] != values[0].shape[1:]:
            raise DataError(
                f"{part.path}, column '{name}': expected vectors of {values[0].shape[1]} numbers, as in "
                f"{parts[0].path.name}, found {own.shape[1]}. Make all in one way, or leave the column out."
            )
    return np.concatenate(values)


def _read(table: OwnFile, entry: Entry, owner: str, aside: SetAside, seen: Seen) -> Side:
    table.require(entry.used)
    aside.lines(table)
    seen.notes += table.notes
    key = entry.of(owner)
    ids = table.text(key)
    none = is_missing(ids).to_numpy()
    aside.add(table, none, f"no {owner}")
    head = (ids == key).fill_null(False).to_numpy()
    aside.add(table, head, HEADER_AGAIN)
    none |= head
    again = ~ids.is_first_distinct().to_numpy() & ~none
    same = table.frame.select(pl.struct(entry.used).is_first_distinct()).to_series().to_numpy()
    aside.add(table, again & same, f"'{key}' is described before; the first row is taken")
    if (again & ~same).any():
        seen.notes.append(f"{table.path.name}: {int((again & ~same).sum()):,} rows are there twice; one is taken.")
    good = ~(none | again)
    aside.require_most(table, none)
    columns: dict[str, tuple[str, Values]] = {}
    for name, column in entry.columns.items():
        if column.role in (LEFT_OUT, owner):
            continue
        values, bad = _values(table, name, column)
        aside.add(table, bad & good, f"'{name}' is no {column.role}; taken as unknown")
        columns[name] = (column.role, values.filter(good) if isinstance(values, pl.Series) else values[good])
    seen.side(table, entry, key, {name: values for name, (_, values) in columns.items()})
    return Side(table.path, Ids(f"{table.path.name}, column '{key}'", ids.filter(good)), columns)


def _values(table: OwnFile, name: str, column: Column) -> tuple[Values, np.ndarray]:
    if column.role == "list":
        return lists(table, name, column)
    if column.role == "vector":
        values, bad, width = vectors(table, name, column)
        if width == 0:
            raise DataError(f"{table.path}, column '{name}': expected vectors, found none. Leave it out.")
        return values, bad
    if column.role == "number":
        return numbers(table, name, column.how)
    return table.text(name), np.zeros(table.frame.height, bool)


def read_vector_files(description: Description, aside: SetAside, seen: Seen) -> list[Side]:
    """The files of vectors, npy or HDF5."""
    out = []
    for entry in description.about("vectors"):
        name, values, ids, where = read_vectors(entry, description.folder, description.about("items"))
        finite = np.isfinite(values).all(axis=1)
        first = ids.is_first_distinct().to_numpy() & ~is_missing(ids).to_numpy()
        for mask, what in (
            (~finite, "with NaN or infinite numbers"),
            (~first, "without an id, or of one that is there before"),
        ):
            if mask.any():
                seen.notes.append(
                    f"{entry.files[0]}: {int(mask.sum()):,} vectors {what} left out (row {np.flatnonzero(mask)[0]})."
                )
        good = finite & first
        path = description.folder / entry.files[0]
        out.append(Side(path, Ids(where, ids.filter(good)), {name: ("vector", values[good])}))
        seen.taken.append(
            (path.name, name, "vector", f"{int(good.sum()):,} of {values.shape[1]} numbers, ids: {where}")
        )
    return out


@dataclass
class Seen:
    """What every column was found to hold.

    Attributes:
        taken: file, column, what it was taken for, what it holds.
        notes: for people.
    """

    taken: list[tuple[str, str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def log(self, table: OwnFile, entry: Entry, frame: pl.DataFrame) -> None:
        """Of interactions, the rows that can be used."""
        for name, column in entry.columns.items():
            key = name if column.role == "time" else f"{column.role}:{name}"
            key = column.role if column.role in ("user", "item", "time") else key
            self._add(table, name, column, frame[key] if key in frame.columns else None)
        self._add_rest(table, entry)

    def side(self, table: OwnFile, entry: Entry, key: str, columns: dict[str, Values]) -> None:
        """Of a table of items or users."""
        for name, column in entry.columns.items():
            self._add(table, name, column, table.text(key) if name == key else columns.get(name))
        self._add_rest(table, entry)

    def _add(self, table: OwnFile, name: str, column: Column, values: Values | None) -> None:
        if name in table.names:
            holds = column.because if values is None else _found(column.role, values)
            self.taken.append((table.path.name, name, str(column), holds))

    def _add_rest(self, table: OwnFile, entry: Entry) -> None:
        for name in table.names:
            if name not in entry.columns:
                self.taken.append((table.path.name, name, LEFT_OUT, "not described"))

    def items(
        self,
        tables: Sequence[Side],
        ids: Sequence[pl.Series],
        vectors: Sequence[Side],
        of: Sequence[pl.Series],
        known: pl.Series,
    ) -> ItemSide:
        """The items of all tables and their vectors; where there is no table, an item is what has a vector."""
        parts = [*ids, *(part.filter(part.is_in(pl.concat([known, *ids]).implode())) for part in of)] if ids else [*of]
        if not parts:
            return ItemSide(pl.Series([], dtype=pl.Int64))
        side = ItemSide(pl.concat(parts).unique(maintain_order=True))
        for table, own in zip([*tables, *vectors], [*ids, *of]):
            strange = len(own) - int(own.is_in(side.ids.implode()).sum())
            if strange:
                self.notes.append(
                    f"{table.path.name}: {strange:,} of {len(own):,} ids are no items of the tables; left out."
                )
            for name, (role, values) in table.columns.items():
                kinds = {
                    "category": side.categories,
                    "number": side.numbers,
                    "list": side.lists,
                    "vector": side.embeddings,
                }
                into = kinds.get(role, side.texts)
                _put(into, name, _gathered(side.ids, own, values), table.path)
        titles = [name for table in tables for name, (role, _) in table.columns.items() if role == "title"]
        side.texts = dict(sorted(side.texts.items(), key=lambda pair: pair[0] not in titles))
        return side

    def users(
        self, tables: Sequence[Side], ids: Sequence[pl.Series]
    ) -> tuple[pl.Series, dict[str, pl.Series], dict[str, np.ndarray]]:
        """Ids, categories and numbers (users,) of the users of all tables."""
        if not ids:
            return pl.Series([], dtype=pl.Int64), {}, {}
        together = pl.concat(ids).unique(maintain_order=True)
        categories: dict[str, Values] = {}
        measures: dict[str, Values] = {}
        for table, own in zip(tables, ids):
            for name, (role, values) in table.columns.items():
                into = categories if role == "category" else measures
                _put(into, name, _gathered(together, own, values), table.path)
        return together, categories, measures


def _put(into: dict[str, Values], name: str, values: Values, path: Path) -> None:
    if name in into:
        raise DataError(f"{path}: a column '{name}' is in another table, too. Leave one of them out, or rename it.")
    into[name] = values


def _gathered(ids: pl.Series, own: pl.Series, values: Values) -> Values:
    """The values of a table in the order of all ids; null, NaN or zeros where it has none."""
    rows = pl.DataFrame({"id": own, "row": np.arange(len(own))}).unique("id", keep="first")
    place = pl.DataFrame({"id": ids}).join(rows, on="id", how="left", maintain_order="left")["row"]
    if isinstance(values, pl.Series):
        return values.gather(place)
    out = np.zeros((len(ids), *values.shape[1:]), values.dtype)
    if values.ndim == 1:
        out[:] = np.nan
    there = place.is_not_null().to_numpy()
    out[there] = values[place.drop_nulls().to_numpy()]
    return out


def _found(role: str, values: Values) -> str:
    """What a column holds, in a few words."""
    if role == "vector":
        return f"{int(values.any(axis=1).sum()):,} of {values.shape[1]} numbers"
    if role in ("number", "label"):
        known = (
            values[~np.isnan(values)] if isinstance(values, np.ndarray) else values.drop_nans().drop_nulls().to_numpy()
        )
        unknown = len(values) - len(known)
        said = f"{known.min():g} to {known.max():g}, mean {known.mean():.4g}" if len(known) else "none"
        return said + (f"; {unknown:,} unknown" if unknown else "")
    if role == "time":
        first, last = (str(np.datetime64(int(t), "ns"))[:16].replace("T", " ") for t in (values.min(), values.max()))
        return f"{first} to {last}" if values.min() > 10**17 else f"{values.min() // 10**9} to {values.max() // 10**9}"
    unknown = values.null_count()
    if role == "list":
        words = values.explode(empty_as_null=False, keep_nulls=False)
        longest = values.list.len().max() or 0
        said = f"{words.n_unique():,} different entries, at most {longest} in a row"
    elif role in ("title", "text"):
        said = f"{len(values) - unknown:,} texts"
    else:
        said = f"{values.drop_nulls().n_unique():,} different"
    return said + (f"; {unknown:,} unknown" if unknown else "")
