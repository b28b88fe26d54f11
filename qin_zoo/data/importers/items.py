"""The item table and the files beside it, from what a source says of its items."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import polars as pl

from qin_zoo.data.histories import gather_lists
from qin_zoo.data.importers.before import Before, Words
from qin_zoo.data.importers.log import InteractionLog, Numbering, Side
from qin_zoo.data.importers.write import EMBEDDING_DIM, Columns, Output
from qin_zoo.errors import DataError, suggest

_LONGEST_LIST = 20
_OURS = {  # names that an import itself gives
    "item": re.compile(r"item_(id|tags|seq|seq_.*|emb_d\d+)"),
    "user": re.compile(r"user_(id|views_level|rate_level)"),
}


def check_embedding(side: Side, embedding: str | None, before: Before | None = None) -> None:
    """Raises DataError unless the embedding asked for is there."""
    known = [*side.embeddings, *(before.names("item_feature.parquet") if before else ())]
    if embedding is not None and embedding not in known:
        raise DataError(
            f"--embedding: expected one of {', '.join(known) or 'none (the source has no embeddings)'}, "
            f"found '{embedding}'.{suggest(embedding, known)}"
        )


def write_items(
    out: Output, side: Side, number: Numbering, embedding: str | None, words: Words, notes: list[str]
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
    merge = Merge(before, number, side.ids)
    tags = (before.summary.get("item_tags") if before else None) or next(iter(side.lists), None)
    columns = merge.columns("item_info.parquet", side, "item", words, notes, tags)
    columns.setdefault("item_tags", np.zeros((size, 1), np.int32))
    for name, values in columns.items():
        if name == "item_id":
            out.feature(name, "categorical", source="item", vocab_size=size)
        elif values.ndim == 2 and name in words.vocabularies:
            length = values.shape[1]
            out.feature(name, "sequence", source="item", vocab_size=words.size(name), max_len=length)
        elif values.ndim == 1 and name in words:
            single_feature(out, name, words, size - 1, source="item")

    embeddings = merge.kept("item_feature.parquet")
    for name, values in side.embeddings.items():
        if name in embeddings and embeddings[name].shape[1] != values.shape[1]:
            raise DataError(
                f"'{name}': expected vectors of {embeddings[name].shape[1]} numbers, as in {before.path}, found "
                f"{values.shape[1]}. Make them as those were made."
            )
        embeddings[name] = merge.over(embeddings.get(name), values.astype(np.float32))
    if embeddings:
        embedding = embedding or next((name for name in embeddings if "image" in name), next(iter(embeddings)))
        width = embeddings[embedding].shape[1]
        name = f"item_emb_d{width}"
        columns[name] = words.centred(name, embeddings[embedding])
        dim = min(EMBEDDING_DIM, width)
        out.feature(name, "embedding", source="item", embedding_dim=dim, pretrain_dim=width)
        how = ", centred and scaled to deviation 1" if name in words.scales else ""
        notes.append(f"{name} is {embedding}{how}; item_feature.parquet holds {', '.join(embeddings)}.")
        out.write_table("item_feature.parquet", {"item_id": columns["item_id"], **embeddings})
    out.write_table("item_info.parquet", columns)
    _write_texts(out, side, merge.place, before)
    _write_graph(out, side, number, before)
    return {"item_tags": tags, "embedding": embedding}


def user_features(log: InteractionLog, users: Numbering, out: Output, words: Words, notes: list[str]) -> Columns:
    """column -> (users + 1,) codes or scaled numbers; writes them, row i being user i."""
    file = "user_features.parquet"
    columns = Merge(words.before, users, log.users.ids).columns(file, log.users, "user", words, notes)
    features = {name: values for name, values in columns.items() if name != "user_id"}
    for name in features:
        single_feature(out, name, words, len(users))
    if features:
        out.write_table(file, columns)
    return features


def context_features(log: InteractionLog, out: Output, words: Words) -> dict[str, np.ndarray]:
    """Column -> (n,) codes or scaled numbers of what was known of each interaction before its click."""
    own = own_names([*log.context, *log.context_numbers], "context")
    columns = {own[name]: words.codes(own[name], text) for name, text in log.context.items()}
    columns |= {own[name]: words.scaled(own[name], numbers) for name, numbers in log.context_numbers.items()}
    for name in columns:
        single_feature(out, name, words, len(log.user))
    return columns


def single_feature(out: Output, name: str, words: Words, many: int, **more: str) -> None:
    """Adds a scaled number, or a category; one of more than half as many values as ``many`` is not active."""
    if name in words.scales:
        out.feature(name, "numeric", **more)
    else:
        size = words.size(name)
        out.feature(name, "categorical", active=size - 1 <= many / 2, **more, vocab_size=size)


class Merge:
    """What is known of items or users now, over what an earlier import knew.

    Args:
        before: the earlier import.
        number: of all of them.
        ids: of those that are known now.

    Attributes:
        place: (n,) their numbers.
    """

    def __init__(self, before: Before | None, number: Numbering, ids: pl.Series) -> None:
        self._before, self._size = before, len(number) + 1
        self.place = number(ids) if len(ids) else np.empty(0, np.int32)

    def columns(
        self, file: str, side: Side, owner: str, words: Words, notes: list[str], tags: str | None = None
    ) -> dict[str, np.ndarray]:
        """Columns (items + 1, …) of numbers, codes and scaled values over those of an earlier import's file.

        Args:
            file: its name.
            side: what is known now.
            owner: ``item`` or ``user``.
            words: of the folder.
            notes: receives what was left out or decided.
            tags: the list that becomes ``item_tags``.
        """
        columns = {f"{owner}_id": np.arange(self._size, dtype=np.int32), **self.kept(file)}
        own = own_names([*(n for n in side.lists if n != tags), *side.categories, *side.numbers], owner)
        for original, values in side.lists.items():
            name = "item_tags" if original == tags else own[original]
            columns[name] = self.over(columns.get(name), _codes(values, words, name, notes))
        for original, values in side.categories.items():
            name = own[original]
            columns[name] = self.over(columns.get(name), words.codes(name, values))
            if self._before is None and words.size(name) > (self._size + 1) / 2:
                notes.append(f"{name}: nearly as many values as {owner}s; not active in dataset_config.yaml.")
        for original, values in side.numbers.items():
            name = own[original]
            columns[name] = self.over(columns.get(name), words.scaled(name, values), ~np.isnan(values))
        return columns

    def kept(self, file: str) -> dict[str, np.ndarray]:
        """The columns (items + 1, …) of an earlier file, but the item table's embedding, which is put there anew."""
        columns = self._before.columns(file, self._size) if self._before else {}
        return {name: values for name, values in columns.items() if not name.startswith("item_emb_d")}

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
        rows = self.place[known]
        out[rows] = 0
        out[(rows, *(slice(n) for n in values.shape[1:]))] = values[known]
        return out


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


def _write_texts(out: Output, side: Side, place: np.ndarray, before: Before | None) -> None:
    """item_id, item_title and text: all texts and tags in one."""
    texts = before.frame("item_text.parquet") if before else None
    if side.texts:
        frame = pl.DataFrame({f"text{n}": v.cast(pl.String).fill_null("") for n, v in enumerate(side.texts.values())})
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


def _write_graph(out: Output, side: Side, number: Numbering, before: Before | None) -> None:
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
