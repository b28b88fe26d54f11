"""What one's own files may be: guessed from names and values, with reasons for guesses and questions for doubts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from qin_zoo.data.importers.description import LEFT_OUT, Column, Description, Entry, for_files
from qin_zoo.data.importers.guess_column import guess_column, tokens
from qin_zoo.data.importers.own_files import SUFFIXES, VECTORS, OwnFile
from qin_zoo.data.importers.tables import as_numbers, found_in
from qin_zoo.data.importers.units import guess_unit
from qin_zoo.data.importers.vectors import guess_ids
from qin_zoo.errors import DataError

_USERS = {
    "user", "users", "member", "customer", "client", "visitor", "account", "uid", "userid", "buyer", "reader",
    "viewer", "listener", "person",
}  # fmt: skip
_ITEMS = {
    "item", "items", "iid", "itemid", "product", "products", "productid", "sku", "article", "articleid", "movie",
    "movieid", "video", "videos", "track", "song", "asin", "goods", "news", "book", "books", "content", "document",
    "page", "poi", "business", "listing", "offer", "ad", "photo", "recipe", "game", "app",
}  # fmt: skip
_ID = {"id", "ids", "no", "nr", "number", "key", "code", "hash", "uuid", "index"}
_TIMES = {
    "time", "timestamp", "ts", "date", "datetime", "created", "at", "when", "day", "unixtime", "moment",
}  # fmt: skip
_CLICKS = {
    "label", "click", "clicks", "clicked", "like", "liked", "purchase", "purchased", "bought", "converted",
    "conversion", "target",
}  # fmt: skip
_RATINGS = {"rating", "ratings", "score", "stars", "rate"}
_CLICK_VALUES = ({"0", "1"}, {"-1", "1"}, {"false", "true"}, {"0"}, {"1"})
_HEAD = 200_000  # rows that guesses are made from


def describe(sources: Sequence[Path]) -> Description:
    """What the files are taken for.

    Args:
        sources: a folder, or files.

    Raises:
        DataError: no files, files that cannot be read, or none that could hold interactions.
    """
    folder, paths = files_of(sources)
    tables = {path: OwnFile(path) for path in paths if path.suffix.lower() in SUFFIXES}
    kinds = _kinds(tables)
    doubts: list[str] = []
    notes: list[str] = []
    if "interactions" not in [about for about, _ in kinds.values()]:
        columns = "; ".join(f"{path.name}: {', '.join(table.names)[:200]}" for path, table in tables.items())
        raise DataError(
            f"{folder}: expected a csv or parquet file with a column of users and one of items, found "
            f"{columns or 'none'}. Rename them, for example to user_id and item_id."
        )
    entries, label, because = [], "implicit", "no column of 0 and 1: every row is a click"
    for (about, why), group in _groups(tables, kinds):
        table = tables[group[0]]
        names = tuple(path.name for path in group)
        if about == "interactions":
            columns, label, because = _interactions(table, doubts)
        else:
            columns = _side(table, about)
        entries.append(Entry(names, about, columns, because=f"{table.form}; {why}"))
    items = [entry for entry in entries if entry.about == "items"]
    used = set()
    for path in paths:
        if path.suffix.lower() in VECTORS:
            entry = guess_ids(path, folder, items, tables, doubts)
            entries += [entry] if entry else []
            used |= {entry.ids} if entry else set()
    # a file that holds nothing but the ids of vectors is no table of items
    entries = [e for e in entries if e.about != "items" or len(e.columns) > 1 or not used & set(e.files)]
    logs = [e.files[0] for e in entries if e.about == "interactions"]
    if len(logs) > 1:
        doubts.append(f"{', '.join(logs)}: which are the interactions? Their columns differ; leave out the others.")
    for path, (about, why) in kinds.items():
        if about == "" and path.name not in used:
            notes.append(f"{path.name} is left out: {why}.")
    return Description(folder, tuple(entries), label, because, tuple(doubts), tuple(notes))


def extension(sources: Sequence[Path], before: Description) -> Description:
    """What new files are taken for: what the earlier ones with the same columns were."""
    folder, paths = files_of(sources)
    return for_files(before, folder, paths, {p: OwnFile(p) for p in paths if p.suffix.lower() in SUFFIXES})


def files_of(sources: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files, by name."""
    if len(sources) == 1 and sources[0].is_dir():
        folder = sources[0]
        found = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in (*SUFFIXES, *VECTORS))
        if not found:
            raise DataError(
                f"{folder}: expected files {', '.join((*SUFFIXES, *VECTORS))}, found {found_in(folder)}. Unpack them, "
                "or write them as csv or parquet."
            )
        return folder, found
    for path in sources:
        if path.suffix.lower() not in (*SUFFIXES, *VECTORS):
            what = "a folder" if path.is_dir() else f"'{path.suffix}'"
            raise DataError(f"{path}: expected one folder, or files {', '.join((*SUFFIXES, *VECTORS))}, found {what}.")
    parents = {path.resolve().parent for path in sources}
    if len(parents) > 1:
        raise DataError(f"{sources[0]}: expected files of one folder, found {len(parents)} folders. Put them together.")
    folder = sources[0].parent
    return folder, sorted(folder / path.name for path in sources)


def _id_column(names: Iterable[str], words: set[str]) -> str | None:
    """The column that names ids of users or items: an id's name before a bare one."""
    near = [name for name in names if (found := tokens(name)) & words and found <= words | _ID]
    near.sort(key=lambda name: (not tokens(name) & _ID, len(name)))
    return near[0] if near else None


def _kinds(tables: dict[Path, OwnFile]) -> dict[Path, tuple[str, str]]:
    """Of each table what it is about, and why."""
    found = {}
    for path, table in tables.items():
        user, item = _id_column(table.names, _USERS), _id_column(table.names, _ITEMS)
        if user and item and table.is_single(user) and table.is_single(item):
            found[path] = ("interactions", f"'{user}' and '{item}' are there")
        elif item:
            found[path] = ("items", f"'{item}' is there, and no user")
        elif user:
            found[path] = ("users", f"'{user}' is there, and no item")
        else:
            of_file = tokens(path.stem)
            about = "items" if of_file & _ITEMS else "users" if of_file & _USERS else ""
            named = next((name for name in table.names if tokens(name) <= _ID), None)
            about = about if named else ""
            found[path] = (
                about,
                f"the file's name, and '{named}'" if about else "no column is called like users or items",
            )
    logs = [path for path, (about, _) in found.items() if about == "interactions"]
    for path in logs if len(logs) > 1 else ():
        item = _id_column(tables[path].names, _ITEMS)
        if tables[path].text(item).is_unique().all() and tables[path].frame.height > 1:
            others = [
                p for p in logs if p != path and found[p][0] == "interactions" and tables[p].names != tables[path].names
            ]
            if others:
                found[path] = ("items", f"every '{item}' is there once")
    return found


def _groups(
    tables: dict[Path, OwnFile], kinds: dict[Path, tuple[str, str]]
) -> list[tuple[tuple[str, str], list[Path]]]:
    """Files with the same columns belong together; interactions first."""
    groups: dict[tuple, list[Path]] = {}
    for path, (about, _) in kinds.items():
        if about:
            groups.setdefault((about, tuple(tables[path].names)), []).append(path)
    order = ("interactions", "items", "users")
    ranked = sorted(groups.items(), key=lambda pair: order.index(pair[0][0]))
    return [(kinds[group[0]], group) for _, group in ranked]


def _interactions(table: OwnFile, doubts: list[str]) -> tuple[dict[str, Column], str, str]:
    """The columns of a log, the rule of the clicks, and why it is that one."""
    user, item = _id_column(table.names, _USERS), _id_column(table.names, _ITEMS)
    columns = {}
    for name, role in ((user, "user"), (item, "item")):
        columns[name] = Column(role, because=f"its name; {table.text(name).n_unique():,} different ones")
    rest = [name for name in table.names if name not in columns]
    time, what = _time(table, rest, doubts)
    if time is not None:
        columns[time] = what
    flags, ratings = [], []
    for name in rest:
        if name == time:
            continue
        if not table.is_single(name):
            columns[name] = Column(LEFT_OUT, because="lists of a row are not read")
            continue
        text = table.text(name).head(_HEAD)
        values = _values(text)
        if values in _CLICK_VALUES and len(values) + bool(tokens(name) & _CLICKS) > 1:
            flags.append(name)
            columns[name] = Column("label", because=f"its values are {' and '.join(sorted(values))}")
        elif tokens(name) & _CLICKS:
            number = as_numbers(text.drop_nulls()).null_count() == 0
            columns[name] = Column("label" if number else LEFT_OUT, because="its name")
            ratings += [name] if number else []
            if not number:
                doubts.append(
                    f"label: '{name}' sounds like clicks and holds {', '.join(sorted(values)) or 'texts'}. Write 0, 1."
                )
        elif tokens(name) & _RATINGS and as_numbers(text.drop_nulls()).null_count() == 0:
            ratings.append(name)
            columns[name] = Column("label", because="a rating")
        else:
            columns[name] = Column(
                LEFT_OUT, because="it may be known only after the click; category or number where it is known before"
            )
    columns = {name: columns[name] for name in table.names}
    return columns, *_label(table, flags, ratings, doubts)


def _values(text: pl.Series) -> set[str]:
    """The values of a column of few, 1.0 being 1; empty where there are many."""
    values = text.drop_nulls().unique()
    if not 0 < len(values) <= 8:
        return set()
    return {re.sub(r"^(-?\d+)\.0+$", r"\1", value.lower()) for value in values}


def _label(table: OwnFile, flags: list[str], ratings: list[str], doubts: list[str]) -> tuple[str, str]:
    named = [name for name in flags if tokens(name) & _CLICKS] or flags
    if len(named) > 1:
        doubts.append(f"label: which are the clicks, {', '.join(named)}? '{named[0]}' is taken.")
    if named:
        negative = "-1" in _values(table.text(named[0]).head(_HEAD))
        if not tokens(named[0]) & _CLICKS:
            doubts.append(f"label: is '{named[0]}' the click? It holds 0 and 1; implicit would make every row one.")
        return (f"{named[0]}>0", "1 is a click, -1 none") if negative else (named[0], "1 is a click, 0 none")
    if ratings:
        top = as_numbers(table.text(ratings[0]).drop_nulls()).max()
        counted = bool(tokens(ratings[0]) & _CLICKS)
        rule = f"{ratings[0]}>0" if counted else f"{ratings[0]}>={max(round(0.8 * top), 1)}"
        doubts.append(f"label: from which '{ratings[0]}' on is it a click? '{rule}' is taken; the greatest is {top:g}.")
        return rule, "a count" if counted else "a rating"
    return "implicit", "no column of 0 and 1: every row is a click"


def _time(table: OwnFile, names: list[str], doubts: list[str]) -> tuple[str | None, Column]:
    """The column of times."""
    found = []
    for name in names:
        kind = table.frame[name].dtype
        if not table.is_single(name) or not (kind.is_temporal() or tokens(name) & _TIMES):
            continue
        unit = guess_unit(table.text(name).head(_HEAD))
        if unit is not None:
            found.append((name, unit))
    if not found:
        return None, Column(LEFT_OUT)
    rank = ("timestamp", "time", "datetime", "ts", "unixtime")
    found.sort(
        key=lambda pair: (
            next((n for n, word in enumerate(rank) if word in tokens(pair[0])), 9),
            pair[1].name == "order",
        )
    )
    name, unit = found[0]
    if len(found) > 1:
        doubts.append(f"time: is it {', '.join(other for other, _ in found)}? '{name}' is taken.")
    if unit.others:
        doubts.append(f"time: is '{name}' written as {unit.name} or {', '.join(unit.others)}? {unit.name} is taken.")
    return name, Column("time", unit.name, unit.because)


def _side(table: OwnFile, about: str) -> dict[str, Column]:
    """The columns of items or users."""
    words = _ITEMS if about == "items" else _USERS
    key = _id_column(table.names, words) or next(name for name in table.names if tokens(name) <= _ID)
    columns = {}
    for name in table.names:
        if name == key:
            role = "item" if about == "items" else "user"
            columns[name] = Column(role, because=f"its name; {table.text(name).n_unique():,} different ones")
        else:
            columns[name] = guess_column(table, name, about)
    titles = [name for name, column in columns.items() if column.role == "title"]
    for name in titles[1:]:
        columns[name] = Column("text", because=columns[name].because)
    return columns
