"""What one's own files may be: guessed from names and values, with reasons for guesses and questions for doubts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from qin_zoo.data.importers.description import ABOUT, LEFT_OUT, Column, Description, Entry, for_files
from qin_zoo.data.importers.guess_column import guess_column, tokens
from qin_zoo.data.importers.guess_log import guess_log
from qin_zoo.data.importers.own_files import SUFFIXES, VECTORS, OwnFile
from qin_zoo.data.importers.vectors import guess_ids
from qin_zoo.errors import DataError, listed
from qin_zoo.files import found_in

_USERS = {
    "user", "users", "member", "customer", "customers", "client", "visitor", "account", "uid", "buyer", "reader",
    "viewer", "listener", "person", "session",
}  # fmt: skip
_ITEMS = {
    "item", "items", "iid", "product", "products", "sku", "article", "articles", "movie", "movies", "video", "videos",
    "track", "song", "asin", "goods", "news", "book", "books", "content", "document", "page", "poi", "business",
    "listing", "offer", "ad", "photo", "recipe", "game", "app",
}  # fmt: skip
_PLAIN = {"user", "users", "uid", "item", "items", "iid"}  # what wins where several columns may be it
_ID = {"id", "ids", "no", "nr", "number", "key", "code", "hash", "uuid", "index"}
_IDS_THEMSELVES = {"uid", "iid", "sku", "asin"}
_KNOWN = 0.5  # of the log's ids that a column has to hold before it is taken for ids


class _Kind(NamedTuple):
    """What a table is about, why, its columns of ids (``user``, ``item``), and whether others may be them."""

    about: str
    why: str
    ids: Mapping[str, str] = MappingProxyType({})
    doubts: tuple[str, ...] = ()


def describe(sources: Sequence[Path]) -> Description:
    """What the files are taken for.

    Args:
        sources: a folder, or files.

    Raises:
        DataError: no files, or files that cannot be read.
    """
    folder, paths = files_of(sources)
    tables = {path: OwnFile(path) for path in paths if path.suffix.lower() in SUFFIXES}
    if not tables:
        raise DataError(f"{folder}: expected a csv or parquet file of interactions, found {found_in(folder)}.")
    kinds = _kinds(tables)
    doubts: list[str] = []
    entries, label, because = [], "implicit", "no column of 0 and 1: every row is a click"
    for kind, group in _groups(tables, kinds):
        table = tables[group[0]]
        if kind.about == "interactions":
            columns, label, because = guess_log(table, kind.ids["user"], kind.ids["item"], doubts)
        else:
            columns = _side(table, kind)
        names = tuple(path.name for path in group)
        entries.append(Entry(names, kind.about, columns, because=f"{table.form}; {kind.why}"))
    if not any(entry.about == "interactions" for entry in entries):
        entries = [_unknown_log(tables, kinds, doubts), *entries]
    doubts += [doubt for kind in kinds.values() for doubt in kind.doubts if kind.about == "interactions"]
    items = [entry for entry in entries if entry.about == "items"]
    found = (guess_ids(p, folder, items, tables, doubts) for p in paths if p.suffix.lower() in VECTORS)
    vectors = [entry for entry in found if entry]
    used = {entry.ids for entry in vectors}
    # a file that holds nothing but the ids of vectors is no table of items
    entries = [e for e in entries if e.about != "items" or len(e.columns) > 1 or not used & set(e.files)] + vectors
    logs = [entry.files[0] for entry in entries if entry.about == "interactions"]
    if len(logs) > 1:
        doubts.append(f"{', '.join(logs)}: which are the interactions? Their columns differ; leave out the others.")
    described = {name for entry in entries for name in entry.files} | used
    notes = [f"{path.name} is left out: {kinds[path].why}." for path in tables if path.name not in described]
    notes += [
        f"{path.name} is left out: it holds no vectors (items, width), and no ids of any."
        for path in paths
        if path not in tables and path.name not in described and not any(d.startswith(path.name) for d in doubts)
    ]
    notes += _not_read(sources, paths)
    return Description(folder, tuple(entries), label, because, tuple(doubts), tuple(notes))


def _unknown_log(tables: Mapping[Path, OwnFile], kinds: dict[Path, _Kind], doubts: list[str]) -> Entry:
    """The largest table that is about nothing known, or at all, as interactions whose columns nobody knows."""
    path = max(tables, key=lambda path: (not kinds[path].about, tables[path].frame.height))
    doubts.append(
        f"which file holds the interactions, and which of its columns are user and item? It may be {path.name}, with "
        f"{', '.join(tables[path].names)[:200]}. The first line of a csv file has to name the columns, with commas, "
        "semicolons, tabs or bars between them."
    )
    columns = dict.fromkeys(tables[path].names, Column(LEFT_OUT, because="a user, an item, a time?"))
    return Entry((path.name,), "interactions", columns, because="no column is called like users, and one like items")


def extension(sources: Sequence[Path], before: Description) -> Description:
    """What new files are taken for: what the earlier ones with the same columns were."""
    folder, paths = files_of(sources)
    tables = {p: OwnFile(p) for p in paths if p.suffix.lower() in SUFFIXES}
    new = for_files(before, folder, paths, tables)
    return replace(new, notes=(*new.notes, *_not_read(sources, paths)))


def _not_read(sources: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """What else a folder holds."""
    if not sources[0].is_dir():
        return []
    names = sorted({p.name for p in sources[0].iterdir() if not p.name.startswith(".")} - {p.name for p in paths})
    return [f"Not read, since they are no files {', '.join((*SUFFIXES, *VECTORS))}: {listed(names)}."] if names else []


def files_of(sources: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files, by name; DataError for what cannot be read."""
    if len(sources) == 1 and sources[0].is_dir():
        folder = sources[0]
        files = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in (*SUFFIXES, *VECTORS)]
        if not files:
            raise DataError(
                f"{folder}: expected files {', '.join((*SUFFIXES, *VECTORS))}, found {found_in(folder)}. Unpack them, "
                "or write them as csv or parquet."
            )
        return folder, sorted(files, key=_place)
    for path in sources:
        if path.suffix.lower() not in (*SUFFIXES, *VECTORS):
            what = "a folder" if path.is_dir() else f"'{path.suffix}'" if path.exists() else "nothing there"
            raise DataError(f"{path}: expected one folder, or files {', '.join((*SUFFIXES, *VECTORS))}, found {what}.")
    parents = {path.resolve().parent for path in sources}
    if len(parents) > 1:
        raise DataError(f"{sources[0]}: expected files of one folder, found {len(parents)} folders. Put them together.")
    folder = sources[0].parent
    return folder, sorted((folder / path.name for path in sources), key=_place)


def _place(path: Path) -> list:
    """Sorts part-2 before part-10: where there is no time, the order of the files is that of the rows."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _id_columns(names: Iterable[str], words: set[str]) -> list[str]:
    """The columns whose names say, equally well, that they hold ids of users or items; the likeliest first."""
    named = [(name, {part for word in tokens(name) for part in _parts(word, words)}) for name in names]
    near = [(name, t) for name, t in named if t & words and (t <= words | _ID or t & (_ID | _IDS_THEMSELVES))]
    rank = {name: (not t <= words | _ID, not t & _ID, not t <= (_PLAIN & words) | _ID) for name, t in near}
    return sorted((name for name in rank if rank[name] == min(rank.values())), key=len)


def _parts(word: str, words: set[str]) -> set[str]:
    """visitorid is visitor and id."""
    stem = word.removesuffix("id")
    return {stem, "id"} if stem != word and stem in words else {word}


def _kinds(tables: Mapping[Path, OwnFile]) -> dict[Path, _Kind]:
    """Of each table what it is about."""
    kinds = {}
    for path, table in tables.items():
        single = [name for name in table.names if table.is_single(name)]
        users = _id_columns(single, _USERS)
        items = _id_columns([name for name in single if name not in users], _ITEMS)
        named = {owner: names for owner, names in (("user", users), ("item", items)) if names}
        ids = {owner: names[0] for owner, names in named.items()}
        if len(ids) == 2:
            several = {owner: names for owner, names in named.items() if len(names) > 1}
            doubts = [f"{owner}: is it {', '.join(n)}? '{n[0]}' is taken." for owner, n in several.items()]
            kinds[path] = _Kind("interactions", f"'{ids['user']}' and '{ids['item']}' are there", ids, tuple(doubts))
        elif ids:
            ((owner, name),) = ids.items()
            kinds[path] = _Kind(f"{owner}s", f"'{name}' is there, and no {'item' if users else 'user'}", ids)
        else:
            kinds[path] = _by_file_name(path, single)
    logs = [path for path in kinds if kinds[path].about == "interactions"]
    for path in logs:
        item = kinds[path].ids["item"]
        others = [p for p in logs if {*tables[p].names} != {*tables[path].names} and kinds[p].about == "interactions"]
        if others and tables[path].frame.height > 1 and tables[path].text(item).is_unique().all():
            kinds[path] = _Kind("items", f"every '{item}' is there once", {"item": item})
    log = next((path for path in logs if kinds[path].about == "interactions"), None)
    for path, kind in kinds.items():
        if not kind.about and log is not None:
            kinds[path] = _by_values(tables[path], tables[log], kinds[log]) or kind
    return kinds


def _by_file_name(path: Path, names: Sequence[str]) -> _Kind:
    key = next((name for name in names if tokens(name) <= _ID), None)
    for owner, words in (("item", _ITEMS), ("user", _USERS)):
        if key and tokens(path.stem) & words:
            return _Kind(f"{owner}s", f"the file's name, and '{key}'", {owner: key})
    return _Kind("", "no column is called like users or items, or holds their ids")


def _by_values(table: OwnFile, log: OwnFile, kind: _Kind) -> _Kind | None:
    """A table of which a column holds ids of the log, each once."""
    for role in ("item", "user"):
        wanted = log.text(kind.ids[role]).drop_nulls().unique()
        for name in table.names:
            if not table.is_single(name):
                continue
            values = table.text(name).drop_nulls()
            share = float(wanted.is_in(values.implode()).mean() or 0)
            if share >= _KNOWN and values.n_unique() > 0.9 * len(values):
                return _Kind(f"{role}s", f"'{name}' holds {share:.0%} of the log's {role}s", {role: name})
    return None


def _groups(tables: Mapping[Path, OwnFile], kinds: dict[Path, _Kind]) -> list[tuple[_Kind, list[Path]]]:
    """Files with the same columns belong together; interactions first."""
    groups: dict[tuple, list[Path]] = {}
    for path, kind in kinds.items():
        if kind.about:
            groups.setdefault((kind.about, frozenset(tables[path].names)), []).append(path)
    ranked = sorted(groups, key=lambda key: ABOUT.index(key[0]))
    return [(kinds[groups[key][0]], groups[key]) for key in ranked]


def _side(table: OwnFile, kind: _Kind) -> dict[str, Column]:
    """The columns of items or users."""
    ((owner, key),) = kind.ids.items()
    columns = {key: Column(owner, because=f"{table.text(key).n_unique():,} different ones")}
    columns = {name: columns.get(name) or guess_column(table, name, kind.about) for name in table.names}
    titles = [name for name, column in columns.items() if column.role == "title"]
    return columns | {name: replace(columns[name], role="text") for name in titles[1:]}
