"""The tables of items and users beside one's own log, and files of vectors, joined by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.importers.description import LEFT_OUT, Column, Description, Entry
from qin_zoo.data.importers.ids import Ids, is_missing
from qin_zoo.data.importers.log import Side
from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.data.importers.set_aside import HEADER_AGAIN, Account, Values
from qin_zoo.data.importers.values import lists, numbers, vectors
from qin_zoo.data.importers.vectors import read_vectors
from qin_zoo.errors import DataError


@dataclass
class SideTable:
    """A table of items or users, or a file of vectors: a row for each id, none twice.

    Attributes:
        path: the file.
        ids: of its rows; at first as the file writes them.
        columns: name -> what it was taken for, and its values.
    """

    path: Path
    ids: Ids
    columns: dict[str, tuple[str, Values]]


def read_side(entry: Entry, folder: Path, owner: str, account: Account) -> SideTable:
    """The rows of a table of items or users that can be used."""
    parts = [_read(OwnFile(folder / name), entry, owner, account) for name in entry.files]
    first, *others = parts
    if not others:
        return first
    joined = Ids(first.ids.where, pl.concat([part.ids.values for part in parts]))
    if again := int((~joined.values.is_first_distinct()).sum()):
        account.notes.append(f"{', '.join(entry.files)}: {again:,} {owner}s are in several; the first row is taken.")
    columns = {name: (kind, _concat(parts, name)) for name, (kind, _) in first.columns.items()}
    return SideTable(first.path, joined, columns)


def _concat(parts: list[SideTable], name: str) -> Values:
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


def _read(table: OwnFile, entry: Entry, owner: str, account: Account) -> SideTable:
    account.open(table, entry)
    key = entry.of(owner)
    ids = table.ids(key)
    none = is_missing(ids).to_numpy()
    account.add(table, none, f"no {owner}")
    head = (ids == key).fill_null(False).to_numpy()
    account.add(table, head, HEADER_AGAIN)
    none |= head
    again = ~ids.is_first_distinct().to_numpy() & ~none
    same = table.frame.select(pl.struct(entry.used).is_first_distinct()).to_series().to_numpy()
    account.add(table, again & same, f"'{key}' is described before; the first row is taken")
    if twice := int((again & ~same).sum()):
        account.notes.append(f"{table.path.name}: {twice:,} rows are there twice; one is taken.")
    good = ~(none | again)
    account.require_most(table, none)
    columns: dict[str, tuple[str, Values]] = {}
    for name, column in entry.columns.items():
        if column.role not in (LEFT_OUT, owner):
            values, bad = _values(table, name, column)
            account.add(table, bad & good, f"'{name}' is no {column.role}; taken as unknown")
            columns[name] = (column.role, values.filter(good) if isinstance(values, pl.Series) else values[good])
    account.columns(table, entry, {key: ids, **{name: values for name, (_, values) in columns.items()}})
    return SideTable(table.path, Ids(f"{table.path.name}, column '{key}'", ids.filter(good)), columns)


def _values(table: OwnFile, name: str, column: Column) -> tuple[Values, np.ndarray]:
    if column.role == "list":
        return lists(table, name, column)
    if column.role == "vector":
        return vectors(table, name, column)
    if column.role == "number":
        return numbers(table, name, column.how)
    return table.text(name), np.zeros(table.frame.height, bool)


def read_vector_files(description: Description, account: Account) -> list[SideTable]:
    """The files of vectors, npy or HDF5."""
    out = []
    for entry in description.about("vectors"):
        name, values, ids, where = read_vectors(entry, description.folder, description.about("items"))
        path = description.folder / entry.files[0]
        finite = np.isfinite(values).all(axis=1)
        first = ids.is_first_distinct().to_numpy() & ~is_missing(ids).to_numpy()
        for wrong, what in (
            (~finite, "with NaN or infinite numbers"),
            (~first, "without an id, or of one that is there before"),
        ):
            if wrong.any():
                count, row = int(wrong.sum()), np.flatnonzero(wrong)[0]
                account.notes.append(f"{entry.files[0]}: {count:,} vectors {what} left out (row {row}).")
        good = finite & first
        out.append(SideTable(path, Ids(where, ids.filter(good)), {name: ("vector", values[good])}))
        holds = f"{int(good.sum()):,} of {values.shape[1]} numbers, ids: {where}"
        account.taken.append((path.name, name, "vector", holds))
    return out


def joined(
    tables: Sequence[SideTable], notes: list[str], vectors: Sequence[SideTable] = (), known: pl.Series | None = None
) -> Side:
    """All tables of items or users as one; where there is no table, an item is what has a vector.

    Args:
        tables: their ids in one form.
        notes: receives what is left out.
        vectors: files of vectors, their ids in this form, too.
        known: items of the log.
    """
    ids, of_vectors = [table.ids.values for table in tables], [table.ids.values for table in vectors]
    if ids:
        of_vectors = [part.filter(part.is_in(pl.concat([known, *ids]).implode())) for part in of_vectors]
    if not ids + of_vectors:
        return Side()
    side = Side(pl.concat(ids + of_vectors).unique(maintain_order=True))
    kinds = {"category": side.categories, "number": side.numbers, "list": side.lists, "vector": side.embeddings}
    for table in (*tables, *vectors):
        own = table.ids.values
        if strange := len(own) - int(own.is_in(side.ids.implode()).sum()):
            notes.append(f"{table.path.name}: {strange:,} of {len(own):,} ids are no items of the tables; left out.")
        for name, (role, values) in table.columns.items():
            into = kinds.get(role, side.texts)
            if name in into:
                raise DataError(f"{table.path}: '{name}' is a column of another table, too. Leave out or rename one.")
            into[name] = _gathered(side.ids, own, values)
    titles = [name for table in tables for name, (role, _) in table.columns.items() if role == "title"]
    side.texts = dict(sorted(side.texts.items(), key=lambda pair: pair[0] not in titles))
    return side


def _gathered(ids: pl.Series, own: pl.Series, values: Values) -> Values:
    """The values of a table in the order of all ids; null, NaN or zeros where it has none."""
    rows = pl.DataFrame({"id": own, "row": np.arange(len(own))}).unique("id", keep="first")
    place = pl.DataFrame({"id": ids}).join(rows, on="id", how="left", maintain_order="left")["row"]
    if isinstance(values, pl.Series):
        return values.gather(place)
    out = np.full((len(ids), *values.shape[1:]), np.nan if values.ndim == 1 else 0, values.dtype)
    out[place.is_not_null().to_numpy()] = values[place.drop_nulls().to_numpy()]
    return out
