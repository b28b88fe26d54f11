"""The item table and the files beside it, from what a source says of its items."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import polars as pl

from qin_zoo.data.histories import gather_lists
from qin_zoo.data.importers.before import Before
from qin_zoo.data.importers.log import ItemSide, Numbering
from qin_zoo.data.importers.words import Words
from qin_zoo.data.importers.write import EMBEDDING_DIM, Output
from qin_zoo.errors import DataError, suggest

_LONGEST_LIST = 20
_OURS = {  # names that an import itself gives
    "item": re.compile(r"item_(id|tags|seq|seq_.*|emb_d\d+)"),
    "user": re.compile(r"user_(id|views_level|rate_level)"),
}


def check_embedding(side: ItemSide, embedding: str | None, before: Before | None = None) -> None:
    """Raises DataError unless the embedding asked for is there."""
    known = [*side.embeddings, *(before.names("item_feature.parquet") if before else ())]
    if embedding is not None and embedding not in known:
        raise DataError(
            f"--embedding: expected one of {', '.join(known) or 'none (the source has no embeddings)'}, "
            f"found '{embedding}'.{suggest(embedding, known)}"
        )


def write_items(
    out: Output, side: ItemSide, number: Numbering, embedding: str | None, words: Words, notes: list[str]
) -> dict[str, str]:
    """Writes the item files and adds the items' features to the dataset configuration.

    Args:
        out: the folder.
        side: what the source says of its items. Of others, and where it says nothing, an earlier import's word stands.
        number: of the items.
        embedding: the one that enters the item table.
        words: of the folder.
        notes: receives what was left out or decided.

    Returns:
        what a later import has to do alike: the list that became ``item_tags``, the embedding that was chosen.

    Raises:
        DataError: vectors of another length than an earlier import has.
    """
    size, before = len(number) + 1, words.before
    place = number(side.ids) if len(side.ids) else np.empty(0, np.int32)
    merge = Merge(before, place, size)
    columns = {"item_id": np.arange(size, dtype=np.int32), **merge.kept("item_info.parquet")}
    tags = (before.summary.get("item_tags") if before else None) or next(iter(side.lists), None)
    own = own_names([*(n for n in side.lists if n != tags), *side.categories, *side.numbers])
    for original, values in side.lists.items():
        name = "item_tags" if original == tags else own[original]
        columns[name] = merge.over(columns.get(name), _codes(values, words, name, notes))
    for original, values in side.categories.items():
        name = own[original]
        columns[name] = merge.over(columns.get(name), words.codes(name, values))
        if before is None and words.size(name) - 1 > len(number) / 2:
            notes.append(f"{name}: nearly as many values as items; not active in dataset_config.yaml.")
    for original, values in side.numbers.items():
        name = own[original]
        columns[name] = merge.over(columns.get(name), words.scaled(name, values), ~np.isnan(values))
    columns.setdefault("item_tags", np.zeros((size, 1), np.int32))
    for name, values in columns.items():
        if name == "item_id" or name in words.vocabularies or name in words.scales:
            _feature(out, name, values, words, size)

    embeddings = merge.kept("item_feature.parquet")
    for name, values in side.embeddings.items():
        if name in embeddings and embeddings[name].shape[1] != values.shape[1]:
            raise DataError(
                f"'{name}': expected vectors of {embeddings[name].shape[1]} numbers, as in {before.path}, found "
                f"{values.shape[1]}. Make them as those were made."
            )
        embeddings[name] = merge.over(embeddings.get(name), values.astype(np.float32))
    if embeddings:
        chosen = embedding or next((name for name in embeddings if "image" in name), next(iter(embeddings)))
        width = embeddings[chosen].shape[1]
        columns[f"item_emb_d{width}"] = embeddings[chosen]
        dim = min(EMBEDDING_DIM, width)
        out.feature(f"item_emb_d{width}", "embedding", source="item", embedding_dim=dim, pretrain_dim=width)
        notes.append(f"item_emb_d{width} is {chosen}; item_feature.parquet holds {', '.join(embeddings)}.")
        out.write_table("item_feature.parquet", {"item_id": columns["item_id"], **embeddings})
    out.write_table("item_info.parquet", columns)
    _write_texts(out, side, place, before)
    _write_graph(out, side, number, before)
    return {"item_tags": tags, "embedding": chosen if embeddings else embedding}


class Merge:
    """What is known of items now, over what an earlier import knew."""

    def __init__(self, before: Before | None, place: np.ndarray, size: int) -> None:
        self._before, self._place, self._size = before, place, size

    def kept(self, file: str) -> dict[str, np.ndarray]:
        """The columns (items + 1, …) of an earlier file, but the item table's embedding, which is put there anew."""
        names = self._before.names(file) if self._before else []
        return {n: self._before.column(file, n, self._size) for n in names if not n.startswith("item_emb_d")}

    def over(self, base: np.ndarray | None, values: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """(items + 1, …) ``values`` in the rows of their items, where they are known; by default where any is not 0."""
        if known is None:
            known = values != 0 if values.ndim == 1 else values.any(axis=1)
        width = values.shape[1:]
        if base is not None and values.ndim == 2:
            width = (max(base.shape[1], values.shape[1]),)
        out = np.zeros((self._size, *width), values.dtype)
        if base is not None:
            out[(slice(None), *(slice(n) for n in base.shape[1:]))] = base
        rows = self._place[known]
        out[rows] = 0
        out[(rows, *(slice(n) for n in values.shape[1:]))] = values[known]
        return out


def _feature(out: Output, name: str, values: np.ndarray, words: Words, size: int) -> None:
    if name == "item_id":
        out.feature(name, "categorical", source="item", vocab_size=size)
    elif name in words.scales:
        out.feature(name, "numeric", source="item")
    elif values.ndim == 2:
        out.feature(name, "sequence", source="item", vocab_size=words.size(name), max_len=values.shape[1])
    else:
        many = words.size(name) - 1 > (size - 1) / 2
        out.feature(name, "categorical", active=not many, source="item", vocab_size=words.size(name))


def prefixed(name: str, prefix: str = "item") -> str:
    """A column's name among ours: letters, digits and "_", beginning with what it belongs to."""
    name = re.sub(r"\W+", "_", name)
    name = name if name.startswith(f"{prefix}_") else f"{prefix}_{name}"
    return f"{prefix}_{name}" if prefix in _OURS and _OURS[prefix].fullmatch(name) else name


def own_names(originals: Iterable[str], prefix: str = "item") -> dict[str, str]:
    """Columns and their names among ours.

    Raises:
        DataError: two of them would have one name.
    """
    own: dict[str, str] = {}
    for original in originals:
        name = prefixed(original, prefix)
        if name in own.values():
            other = next(other for other, taken in own.items() if taken == name)
            raise DataError(
                f"Columns '{other}' and '{original}': expected names that differ in letters or digits, found that both "
                f"would be {name}. Rename one in a copy of the file, or leave it out."
            )
        own[original] = name
    return own


def _codes(values: pl.Series, words: Words, name: str, notes: list[str]) -> np.ndarray:
    """(items, longest) codes, padded with 0 at the end."""
    lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    codes = words.codes(name, values.explode(empty_as_null=False, keep_nulls=False))
    width = int(np.clip(lengths.max(initial=1), 1, _LONGEST_LIST))
    if lengths.max(initial=0) > width:
        notes.append(f"{name}: lists cut to their first {width} entries (the longest has {lengths.max()}).")
    ends = np.cumsum(lengths)
    return gather_lists(codes, ends - lengths, ends, width, align="left", dtype=np.int32)


def _write_texts(out: Output, side: ItemSide, place: np.ndarray, before: Before | None) -> None:
    """item_id, item_title and text: all texts and tags in one."""
    texts = before.frame("item_text.parquet") if before else None
    if side.texts:
        frame = pl.DataFrame(
            {f"text{n}": values.cast(pl.String).fill_null("") for n, values in enumerate(side.texts.values())}
        )
        words = [values.list.join(", ").fill_null("").alias(f"list{n}") for n, values in enumerate(side.lists.values())]
        frame = frame.with_columns(*words)
        parts = [pl.when(pl.col(c) != "").then(pl.col(c)) for c in frame.columns]
        now = frame.select(
            pl.Series("item_id", place),
            pl.col("text0").alias("item_title"),
            pl.concat_str(parts, separator=". ", ignore_nulls=True).fill_null("").alias("text"),
        )
        texts = _rows_over(texts, now, pl.col("text") != "")
    if texts is not None:
        out.write_table("item_text.parquet", texts.sort("item_id"))


def _write_graph(out: Output, side: ItemSide, number: Numbering, before: Before | None) -> None:
    facts = before.frame("item_kg.parquet") if before else None
    if side.graph is not None:
        known = side.graph.filter(pl.col("id").cast(number.ids.dtype, strict=False).is_in(number.ids.implode()))
        now = known.select(pl.Series("item_id", number(known["id"])), pl.col("fact").alias("facts"))
        facts = _rows_over(facts, now.group_by("item_id").agg("facts"), pl.lit(True))
    if facts is not None:
        out.write_table("item_kg.parquet", facts.sort("item_id"))


def _rows_over(before: pl.DataFrame | None, now: pl.DataFrame, known: pl.Expr) -> pl.DataFrame:
    """The rows of now, and those of before whose items have none that is known."""
    return now if before is None else pl.concat([now.filter(known), before.join(now.filter(known), "item_id", "anti")])
