"""RecBole's atomic files: ``NAME.inter``, and where they are there ``.item``, ``.user``, ``.kg`` and ``.link``.

Of an item's columns, ``token`` becomes a category, ``token_seq`` a list (the first of them ``item_tags``), except
for those whose name says title, name or text: these go to ``item_text.parquet``. ``float`` and ``float_seq`` are
left out; so is what a row of the log holds besides user, item, time and label. ``NAME.train.inter``,
``.valid.inter`` and ``.test.inter`` instead of one ``.inter`` are given splits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data import SPLITS
from qin_zoo.data.importers.ids import Ids, aligned, column, look_up
from qin_zoo.data.importers.log import InteractionLog, Side
from qin_zoo.data.importers.moments import read_times
from qin_zoo.data.importers.tables import Table, folder_of
from qin_zoo.data.sources import each_once
from qin_zoo.errors import DataError
from qin_zoo.files import found_in

EXPECTED = "RecBole's atomic files: NAME.inter, and perhaps NAME.item, NAME.user, NAME.kg, NAME.link"
_TEXT = ("title", "name", "text", "description", "abstract", "summary", "plot", "body")
_TYPES = ("token", "token_seq", "float", "float_seq")


def read(path: str | Path) -> InteractionLog:
    """The log of a folder of atomic files."""
    folder = folder_of(path, EXPECTED)
    inter, stem = _inter_files(folder)
    frames = [_Atomic(file) for file in inter]
    first, notes = frames[0], []
    user_name, item_name = first.id_column("user"), first.id_column("item")
    users = _Atomic.of(folder / f"{stem}.user")
    items = _Atomic.of(folder / f"{stem}.item")
    graph, link = (_Atomic.of(folder / f"{stem}.{kind}") for kind in ("kg", "link"))
    user_id = users and users.id_column("user")
    item_id = items and (item_name if item_name in items.types else items.id_column("item"))

    user = [column(frame, user_name) for frame in frames]
    user += [column(users, user_id, unique=True)] if users else []
    item = [column(frame, item_name) for frame in frames]
    item += [column(items, item_id, unique=True)] if items else []
    if graph and link:
        linked, entity = link.named(item_name if item_name in link.types else "item_id", "entity_id")
        item.append(column(link, linked))
    user, item = aligned(user, notes), aligned(item, notes)
    log = InteractionLog(first.path, pl.concat(user[: len(frames)]), pl.concat(item[: len(frames)]), notes=notes)
    if len(frames) == 3:
        log.given = np.repeat(np.arange(3, dtype=np.int8), [f.frame.height for f in frames])
    time = first.time_column(notes)
    log.time = read_times(frames, time, notes) if time else None
    taken = (user_name, item_name, time)
    single = [name for name, kind in first.types.items() if kind in ("token", "float") and name not in taken]
    log.columns = {name: partial(_numbers, frames, name) for name in single}
    log.others = [name for name in first.types if name not in (*single, *taken)]
    log.default_label = "label" if "label" in single else "rating>=4" if "rating" in single else "implicit"
    if items:
        ids = item[len(frames)]
        look_up("item", log.item, items.path, ids, notes)
        log.items = _items(items, item_id, ids, notes)
    if users:
        look_up("user", log.user, users.path, user[-1], notes)
        log.users = Side(user[-1], {n: users.frame[n] for n, kind in users.types.items() if kind == "token"})
        log.users.categories.pop(user_id)
        notes += [f"{users.path.name}: column '{n}' ({k}) left out." for n, k in users.types.items() if k != "token"]
    if graph and link:
        look_up("item", log.item, link.path, item[-1], notes)
        log.items.graph = _graph(graph, link, entity, item[-1], notes)
    for file in (*frames, users, items, graph, link):
        notes += file.notes if file else []
    return log


def _inter_files(folder: Path) -> tuple[list[Path], str]:
    files = sorted(folder.glob("*.inter"))
    by_stem = {file.stem: file for file in files}
    whole = [stem for stem in by_stem if not stem.endswith((".train", ".valid", ".test"))]
    if len(whole) == 1:
        return [by_stem[whole[0]]], whole[0]
    stems = {stem.removesuffix(".train") for stem in by_stem if stem.endswith(".train")}
    for stem in sorted(stems):
        parts = [by_stem.get(f"{stem}.{split}") for split in SPLITS]
        if not whole and len(stems) == 1 and all(parts):
            return [part for part in parts if part], stem
    raise DataError(
        f"{folder}: expected {EXPECTED}; found {len(files)} files *.inter (the folder holds {found_in(folder)}). "
        "Give the folder of one data set with one .inter file, or one each for .train, .valid and .test."
    )


class _Atomic(Table):
    """A file whose header says ``name:type``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "\t")
        self.types: dict[str, str] = {}
        for header in self.names:
            name, _, kind = header.partition(":")
            if kind not in _TYPES:
                raise DataError(
                    f"{path}: expected a header of NAME:TYPE with types {', '.join(_TYPES)}, tab-separated, found "
                    f"'{header}'. This is no atomic file of RecBole; see recbole.io/docs for their form."
                )
            self.types[name] = kind
        each_once(path, [header.partition(":")[0] for header in self.names])
        self.frame = self.frame.rename(dict(zip(self.names, self.types)))

    @classmethod
    def of(cls, path: Path) -> _Atomic | None:
        """The file, or None where there is none."""
        return cls(path) if path.exists() else None

    def id_column(self, which: str) -> str:
        """The column of user or item ids."""
        tokens = [name for name, kind in self.types.items() if kind == "token"]
        for wanted in (f"{which}_id", which):
            if wanted in tokens:
                return wanted
        near = [name for name in tokens if which in name.lower()]
        if len(near) == 1:
            return near[0]
        raise DataError(f"{self.path}: expected a column '{which}_id:token', found {', '.join(self.types)}. Rename it.")

    def named(self, *wanted: str) -> list[str]:
        """The columns called so, in any order; the first ones of a file that calls its columns otherwise."""
        if all(name in self.types for name in wanted):
            return [*wanted]
        first = [*self.types][: len(wanted)]
        if len(first) < len(wanted) or any(w in self.types and w != name for w, name in zip(wanted, first)):
            raise DataError(
                f"{self.path}: expected columns {', '.join(wanted)}, found {', '.join(self.types)}. Rename those that "
                "are called otherwise."
            )
        return first

    def time_column(self, notes: list[str]) -> str | None:
        """The column of times: ``timestamp``, else a float column whose name says time."""
        if self.types.get("timestamp") in ("token", "float"):
            return "timestamp"
        named = [name for name, kind in self.types.items() if kind == "float" and "time" in name.lower()]
        named.sort(key=lambda name: (name.lower() != "time", "timestamp" not in name.lower()))
        if not named:
            return None
        notes.append(f"{self.path.name}: '{named[0]}' is taken as the time, there being no 'timestamp'.")
        return named[0]


def _numbers(frames: list[_Atomic], name: str) -> np.ndarray:
    for frame in frames:
        frame.require(name)
    return np.concatenate([frame.numbers(name) for frame in frames])


def _items(file: _Atomic, id_name: str, ids: pl.Series, notes: list[str]) -> Side:
    side = Side(ids)
    for name, kind in file.types.items():
        values = file.frame[name]
        if name == id_name:
            continue
        if kind.startswith("float"):
            notes.append(f"{file.path.name}: column '{name}' ({kind}) left out.")
        elif any(word in name.lower() for word in _TEXT):
            side.texts[name] = values
        elif kind == "token":
            side.categories[name] = values
        else:
            side.lists[name] = values.fill_null("").str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    side.texts = dict(sorted(side.texts.items(), key=lambda pair: "title" not in pair[0].lower()))
    return side


def _graph(graph: _Atomic, link: _Atomic, entity: str, items: pl.Series, notes: list[str]) -> pl.DataFrame:
    """Facts of the items that are linked to an entity, from both ends of a relation."""
    head, relation, tail = graph.named("head_id", "relation_id", "tail_id")
    ends = ((graph, head), (graph, tail), (link, entity))
    columns = [Ids(f"{file.path.name}, column '{name}'", file.frame[name].str.strip_chars()) for file, name in ends]
    h, t, e = (ids.cast(pl.String) for ids in aligned(columns, notes))
    facts = pl.DataFrame([h.alias("h"), graph.frame[relation].alias("r"), t.alias("t")])
    links = pl.DataFrame([items.alias("id"), e.alias("e")])
    found = [
        links.join(facts, left_on="e", right_on=near, maintain_order="left_right").select(
            "id", (sign + pl.col("r") + ":" + pl.col(far)).alias("fact")
        )
        for near, far, sign in (("h", "t", ""), ("t", "h", "~"))
    ]
    if all(part.is_empty() for part in found):
        raise DataError(
            f"{graph.path}: expected the entities of {link.path.name}, found none of them. Write them in one form, or "
            "take the file out of the folder."
        )
    return pl.concat(found)
