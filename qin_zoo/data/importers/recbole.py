"""RecBole's atomic files: ``NAME.inter``, and where they are there ``.item``, ``.user``, ``.kg`` and ``.link``.

Of an item's columns, ``token`` becomes a category, ``token_seq`` a list (the first of them ``item_tags``), except
for those whose name says title, name or text: these go to ``item_text.parquet``. ``float`` and ``float_seq`` are
left out. ``NAME.train.inter``, ``.valid.inter`` and ``.test.inter`` instead of one ``.inter`` are given splits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.importers.log import InteractionLog, ItemSide
from qin_zoo.data.importers.tables import folder_of, found_in, ids, numbers, read_header, read_text
from qin_zoo.errors import DataError

EXPECTED = "RecBole's atomic files: NAME.inter, and perhaps NAME.item, NAME.user, NAME.kg, NAME.link"
_TEXT = ("title", "name", "text", "description", "abstract", "summary", "plot", "body")
_TYPES = ("token", "token_seq", "float", "float_seq")


def read(path: str | Path) -> InteractionLog:
    """The log of a folder of atomic files."""
    folder = folder_of(path, EXPECTED)
    inter, stem = _inter_files(folder)
    frames = [_Atomic(file) for file in inter]
    first = frames[0]
    user_name, item_name = first.id_column("user"), first.id_column("item")
    log = InteractionLog(
        first.path,
        pl.concat(_same_type([frame.ids(user_name) for frame in frames])),
        pl.concat(_same_type([frame.ids(item_name) for frame in frames])),
    )
    floats = [name for name, kind in first.types.items() if kind == "float"]
    columns = {name: np.concatenate([numbers(f.path, f.frame, name, optional=True) for f in frames]) for name in floats}
    time = "timestamp" if "timestamp" in floats else next((name for name in floats if "time" in name.lower()), None)
    log.time = columns.pop(time) if time else None
    log.columns = columns
    if len(frames) == 3:
        log.given = np.repeat(np.arange(3, dtype=np.int8), [f.frame.height for f in frames])
    log.default_label = "label" if "label" in columns else "rating>=4" if "rating" in columns else "implicit"
    if (file := folder / f"{stem}.item").exists():
        log.items = _items(_Atomic(file), item_name, log.notes)
    if (file := folder / f"{stem}.user").exists():
        users = _Atomic(file)
        log.user_ids = users.unique_ids(users.id_column("user"))
        log.user_columns = {
            n: users.frame[n] for n, kind in users.types.items() if kind == "token" and n != users.id_column("user")
        }
    graph, link = folder / f"{stem}.kg", folder / f"{stem}.link"
    if graph.exists() and link.exists():
        log.items.graph = _graph(_Atomic(graph), _Atomic(link))
    return log


def _inter_files(folder: Path) -> tuple[list[Path], str]:
    files = sorted(folder.glob("*.inter"))
    by_stem = {file.stem: file for file in files}
    whole = [stem for stem in by_stem if not stem.endswith((".train", ".valid", ".test"))]
    if len(whole) == 1:
        return [by_stem[whole[0]]], whole[0]
    stems = {stem.removesuffix(".train") for stem in by_stem if stem.endswith(".train")}
    for stem in sorted(stems):
        parts = [by_stem.get(f"{stem}.{split}") for split in ("train", "valid", "test")]
        if not whole and len(stems) == 1 and all(parts):
            return [part for part in parts if part], stem
    raise DataError(
        f"{folder}: expected {EXPECTED}; found {len(files)} files *.inter (the folder holds {found_in(folder)}). "
        "Give the folder of one data set with one .inter file, or one each for .train, .valid and .test."
    )


class _Atomic:
    """A file whose header says ``name:type``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types: dict[str, str] = {}
        header = read_header(path, "\t")
        for column in header:
            name, _, kind = column.partition(":")
            if kind not in _TYPES:
                raise DataError(
                    f"{path}: expected a header of NAME:TYPE with types {', '.join(_TYPES)}, tab-separated, found "
                    f"'{column}'. This is no atomic file of RecBole; see recbole.io/docs for their form."
                )
            self.types[name] = kind
        self.frame = read_text(path, "\t").rename(dict(zip(header, self.types)))

    def id_column(self, which: str) -> str:
        """The column of user or item ids."""
        tokens = [name for name, kind in self.types.items() if kind == "token"]
        for wanted in (f"{which}_id", which):
            if wanted in tokens:
                return wanted
        near = [name for name in tokens if which in name.lower()]
        if len(near) == 1:
            return near[0]
        raise DataError(
            f"{self.path}: expected a column '{which}_id:token', found {', '.join(self.types)}. Rename it in a copy."
        )

    def ids(self, name: str) -> pl.Series:
        return ids(self.path, self.frame, name)

    def unique_ids(self, name: str) -> pl.Series:
        series = self.ids(name)
        repeated = series.is_first_distinct().not_()
        if repeated.any():
            row = int(repeated.arg_true()[0])
            raise DataError(f"{self.path}, line {row + 2}: '{series[row]}' is there twice. Drop one of the lines.")
        return series


def _items(file: _Atomic, id_name: str, notes: list[str]) -> ItemSide:
    id_name = id_name if id_name in file.types else file.id_column("item")
    side = ItemSide(file.unique_ids(id_name))
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


def _graph(graph: _Atomic, link: _Atomic) -> pl.DataFrame:
    """Facts of the items that are linked to an entity, from both ends of a relation."""
    head, relation, tail = list(graph.types)[:3]
    item, entity = list(link.types)[:2]
    facts = graph.frame.select(pl.col(head).alias("h"), pl.col(relation).alias("r"), pl.col(tail).alias("t"))
    links = link.frame.select(link.ids(item).alias("id"), pl.col(entity).alias("e"))
    there = links.join(facts, left_on="e", right_on="h", maintain_order="left_right").select(
        "id", (pl.col("r") + ":" + pl.col("t")).alias("fact")
    )
    back = links.join(facts, left_on="e", right_on="t", maintain_order="left_right").select(
        "id", ("~" + pl.col("r") + ":" + pl.col("h")).alias("fact")
    )
    return pl.concat([there, back])


def _same_type(parts: list[pl.Series]) -> list[pl.Series]:
    if len({part.dtype for part in parts}) > 1:
        parts = [part.cast(pl.String) for part in parts]
    return parts
