"""One's own csv and parquet files, taken for what a description says, as an interaction log.

Rows without a user, an item, a time or a label that can be read are set aside; so are later rows of an item or a user
that is described already, and values that are none. Of rows that are the same in every column, time included, one is
taken. Of an earlier import that is extended, the interactions come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from qin_zoo.data.importers.before import Before
from qin_zoo.data.importers.description import Description, Entry
from qin_zoo.data.importers.ids import Ids, aligned, is_missing, look_up
from qin_zoo.data.importers.labels import rule_column
from qin_zoo.data.importers.log import InteractionLog
from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.data.importers.set_aside import HEADER_AGAIN, Account
from qin_zoo.data.importers.sides import SideTable, joined, read_side, read_vector_files
from qin_zoo.data.importers.units import nanoseconds
from qin_zoo.data.importers.values import numbers
from qin_zoo.errors import DataError

_KINDS = ("label", "category", "number")


def read(description: Description, before: Before | None = None, label: str | None = None) -> InteractionLog:
    """Reads the files.

    Args:
        description: what they are.
        before: the import that they extend.
        label: the rule of the clicks, instead of the description's.

    Raises:
        DataError: a file or column that is missing or cannot be read, ids of tables that do not meet, or rows most of
            which cannot be used.
    """
    rule, account = label or description.label, Account(description.notes)
    new = _interactions(description, rule, account)
    old = before.frame("log.parquet") if before else None
    if before and old is None:
        raise DataError(f"--extend {before.path}: expected the log.parquet of `data import table`. Import again.")
    if old is None and new is None:
        raise DataError(f"{description.folder}: expected a file about interactions, found none of those described.")
    items = [read_side(entry, description.folder, "item", account) for entry in description.about("items")]
    users = [read_side(entry, description.folder, "user", account) for entry in description.about("users")]
    vectors = read_vector_files(description, account)
    rows, notes = _joined(old, new), account.notes
    item, known_items = _aligned("item", rows, [*items, *vectors], before, notes)
    user, known_users = _aligned("user", rows, users, before, notes)
    frame = rows.frame.with_columns(user=user, item=item)
    once = frame.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    if "time" in frame.columns and not once.all():
        _say_repeated(frame, rows.old, once, notes)
        frame = frame.filter(once)
    if "time" in frame.columns:
        other = frame.height - frame.select(pl.struct("user", "item", "time").n_unique()).item()
        if other:
            notes.append(f"{other:,} rows have user, item and time of another row, but not its label: all are taken.")
    first = description.about("interactions")
    log = InteractionLog(
        description.folder / (first[0].files[0] if first else ""),
        frame["user"],
        frame["item"],
        frame["time"].to_numpy() if "time" in frame.columns else None,
        {n: (lambda v=v: v) for n, v in _of(frame, "label").items()},
        default_label=rule,
        items=joined(items, notes, vectors, pl.concat([frame["item"], *known_items])),
        users=joined(users, notes),
        context={name: frame[f"category:{name}"] for name in _names(frame, "category")},
        context_numbers=_of(frame, "number"),
        new=np.arange(frame.height) >= rows.old,
        kept=frame,
        set_aside=account.frame(),
        taken=account.taken,
        notes=notes,
    )
    if items:
        look_up("item", log.item, items[0].path, pl.concat([log.items.ids, *known_items]), notes)
    if users:
        look_up("user", log.user, users[0].path, pl.concat([log.users.ids, *known_users]), notes)
    notes[:0] = account.counts()
    return log


class _Rows(NamedTuple):
    """Interactions: user, item, time, and "label:NAME", "category:NAME", "number:NAME".

    Attributes:
        frame: the earlier ones, then those of each file.
        old: how many are earlier ones.
        files: the files, and how many are of each.
    """

    frame: pl.DataFrame
    old: int
    files: dict[str, int]

    def ids(self, owner: str) -> list[Ids]:
        """The ids as each file writes them."""
        begin, parts = 0, []
        for name, size in (("the earlier import", self.old), *self.files.items()):
            parts += [Ids(f"{name}, {owner}", self.frame[owner][begin : begin + size])] if size else []
            begin += size
        return parts


def _joined(old: pl.DataFrame | None, new: _Rows | None) -> _Rows:
    if old is None:
        return new
    old = old.with_columns(pl.col("user", "item").cast(pl.String))
    if new is None:
        return _Rows(old, old.height, {})
    for name in ("time", *(column for column in old.columns if column.startswith("label:"))):
        if (name in old.columns) != (name in new.frame.columns):
            raise DataError(
                f"--extend: expected '{name.removeprefix('label:')}' in the new files as in the old, found it only "
                f"{'before' if name in old.columns else 'now'}. Bring both to one form."
            )
    return _Rows(pl.concat([old, new.frame], how="diagonal_relaxed"), old.height, new.files)


def _interactions(description: Description, rule: str, account: Account) -> _Rows | None:
    parts: dict[str, pl.DataFrame] = {}
    for entry in description.about("interactions"):
        for name in entry.files:
            parts[name] = _part(OwnFile(description.folder / name), entry, rule, account)
    if len({"time" in part.columns for part in parts.values()}) > 1:
        raise DataError("Some files of interactions have a time, others have none. Describe one for each, or for none.")
    sizes = {name: part.height for name, part in parts.items()}
    return _Rows(pl.concat([*parts.values()], how="diagonal_relaxed"), 0, sizes) if parts else None


def _part(table: OwnFile, entry: Entry, rule: str, account: Account) -> pl.DataFrame:
    """The rows of a file that can be used."""
    account.open(table, entry)
    wrong = np.zeros(table.frame.height, bool)

    def leave(mask: np.ndarray, reason: str) -> None:
        account.add(table, mask & ~wrong, reason)
        wrong[mask] = True

    columns: dict[str, pl.Series] = {}
    names = {entry.of(role): role for role in ("user", "item", "time")}  # of the file -> of the log
    for role in ("user", "item"):
        columns[role] = table.ids(entry.of(role))
        leave((columns[role] == entry.of(role)).fill_null(False).to_numpy(), HEADER_AGAIN)
        leave(is_missing(columns[role]).to_numpy(), f"no {role}")
    if (time := entry.of("time")) is not None:
        values, bad = nanoseconds(table.text(time), entry.columns[time].how)
        leave(bad, f"no time in '{time}' ({entry.columns[time].how})")
        columns["time"] = pl.Series(values)
    for name in (name for kind in _KINDS for name in entry.all_of(kind)):
        kind = entry.columns[name].role
        names[name] = f"{kind}:{name}"
        if kind == "category":
            columns[names[name]] = table.text(name)
            continue
        found, bad = numbers(table, name, entry.columns[name].how)
        if kind == "number":
            account.add(table, bad & ~wrong, f"'{name}' is no number; taken as unknown")
        elif name == rule_column(rule):
            leave(np.isnan(found), f"no label in '{name}'")
            _require_clicks(table, name, rule, found, wrong)
        columns[names[name]] = pl.Series(found)
    account.require_most(table, wrong)
    frame = pl.DataFrame(columns).filter(~wrong)
    account.columns(table, entry, {name: frame[key] for name, key in names.items() if key in frame.columns})
    return frame


def _require_clicks(table: OwnFile, name: str, rule: str, values: np.ndarray, wrong: np.ndarray) -> None:
    """Raises DataError where a rule that names a column finds there what is neither 0 nor 1."""
    other = np.flatnonzero(~wrong & (values != 0) & (values != 1))
    if rule.strip() == name and other.size:
        raise DataError(
            f"{table.path}, line {table.line(int(other[0]))}, column '{name}': expected a label, 0 or 1, found "
            f"{values[other[0]]:g}. Say which values are clicks, for example --label '{name}>0'."
        )


def _aligned(
    owner: str, rows: _Rows, sides: Sequence[SideTable], before: Before | None, notes: list[str]
) -> tuple[pl.Series, list[pl.Series]]:
    """The ids of the log, and those that an earlier import knows, in one form, to which those of the tables come."""
    known = [Ids(f"{before.path.name}/ids_{owner}.parquet", before.ids[owner].cast(pl.String))] if before else []
    logs = rows.ids(owner)
    found = aligned([*known, *logs, *(side.ids for side in sides)], notes)
    log, tables = found[len(known) :][: len(logs)], found[len(known) + len(logs) :]
    for side, ids in zip(sides, tables):
        side.ids = side.ids._replace(values=ids)
    return pl.concat(log), found[: len(known)]


def _say_repeated(frame: pl.DataFrame, old: int, once: pl.Series, notes: list[str]) -> None:
    added = frame[old:]
    repeated = added.height - added.n_unique()
    again = int((~once).sum()) - repeated
    if repeated:
        notes.append(f"{repeated:,} rows are the same as another in every column, time included; each is taken once.")
    if again:
        notes.append(f"{again:,} rows are in the earlier import already; each is taken once.")


def _names(frame: pl.DataFrame, kind: str) -> list[str]:
    return [name.partition(":")[2] for name in frame.columns if name.startswith(f"{kind}:")]


def _of(frame: pl.DataFrame, kind: str) -> dict[str, np.ndarray]:
    return {n: frame[f"{kind}:{n}"].fill_null(float("nan")).to_numpy().astype(float) for n in _names(frame, kind)}
