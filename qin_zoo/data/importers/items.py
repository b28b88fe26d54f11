"""The item table and the files beside it, from what a source says of its items."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from qin_zoo.data.importers.log import ItemSide, Numbering, categories
from qin_zoo.data.importers.write import EMBEDDING_DIM, Output
from qin_zoo.errors import DataError, suggest

_LONGEST_LIST = 20


def check_embedding(side: ItemSide, embedding: str | None) -> None:
    """Raises DataError unless the embedding asked for is there."""
    if embedding is not None and embedding not in side.embeddings:
        raise DataError(
            f"--embedding: expected one of {', '.join(side.embeddings) or 'none (the source has no embeddings)'}, "
            f"found '{embedding}'.{suggest(embedding, side.embeddings)}"
        )


def write_items(out: Output, side: ItemSide, number: Numbering, embedding: str | None, notes: list[str]) -> None:
    """Writes the item files and adds the items' features to the dataset configuration."""
    size = len(number) + 1
    place = number(side.ids) if len(side.ids) else np.empty(0, np.int32)
    columns: dict[str, np.ndarray] = {"item_id": np.arange(size, dtype=np.int32)}
    vocabularies: dict[str, list[str]] = {}
    item = {"source": "item"}
    out.feature("item_id", "categorical", **item, vocab_size=size)

    lists = {("item_tags" if n == 0 else prefixed(name)): v for n, (name, v) in enumerate(side.lists.items())}
    if not lists:
        columns["item_tags"] = np.zeros((size, 1), np.int32)
    for name, values in lists.items():
        columns[name], vocabularies[name] = _tags(values, place, size, name, notes)
        out.feature(name, "sequence", **item, vocab_size=len(vocabularies[name]) + 1, max_len=columns[name].shape[1])
    for original, values in side.categories.items():
        name = prefixed(original)
        codes, vocabularies[name] = categories(values)
        columns[name] = np.zeros(size, np.int32)
        columns[name][place] = codes
        many = len(vocabularies[name]) > len(number) / 2
        if many:
            notes.append(f"{name}: nearly as many values as items; not active in dataset_config.yaml.")
        out.feature(name, "categorical", active=not many, **item, vocab_size=len(vocabularies[name]) + 1)

    embeddings = {name: _scatter(values, place, size) for name, values in side.embeddings.items()}
    if embeddings:
        chosen = embedding or next((name for name in embeddings if "image" in name), next(iter(embeddings)))
        width = embeddings[chosen].shape[1]
        columns[f"item_emb_d{width}"] = embeddings[chosen]
        dim = min(EMBEDDING_DIM, width)
        out.feature(f"item_emb_d{width}", "embedding", **item, embedding_dim=dim, pretrain_dim=width)
        notes.append(f"item_emb_d{width} is {chosen}; item_feature.parquet holds {', '.join(embeddings)}.")
        out.write_table("item_feature.parquet", {"item_id": columns["item_id"], **embeddings})
    out.write_table("item_info.parquet", columns)
    if vocabularies:
        out.write_json("vocabularies.json", vocabularies)
    if side.texts:
        out.write_table("item_text.parquet", _texts(side, place))
    if side.graph is not None:
        known = side.graph.filter(pl.col("id").cast(number.ids.dtype, strict=False).is_in(number.ids.implode()))
        facts = known.select(pl.Series("item_id", number(known["id"])), pl.col("fact").alias("facts"))
        out.write_table("item_kg.parquet", facts.group_by("item_id").agg("facts").sort("item_id"))


def prefixed(name: str, prefix: str = "item") -> str:
    """A column's name among ours: letters, digits and "_", beginning with what it belongs to."""
    name = re.sub(r"\W+", "_", name)
    return name if name.startswith(f"{prefix}_") and name != f"{prefix}_id" else f"{prefix}_{name}"


def _tags(values: pl.Series, place: np.ndarray, size: int, name: str, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """(size, longest) codes, padded with 0 at the end, and the vocabulary."""
    lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    codes, vocabulary = categories(values.explode(empty_as_null=False, keep_nulls=False))
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    width = int(np.clip(lengths.max(initial=1), 1, _LONGEST_LIST))
    if lengths.max(initial=0) > width:
        notes.append(f"{name}: lists cut to their first {width} entries (the longest has {lengths.max()}).")
    out = np.zeros((size, width), np.int32)
    inside = column < width
    out[place[row[inside]], column[inside]] = codes[inside]
    return out, vocabulary


def _scatter(values: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, values.shape[1]), np.float32)
    out[place] = values
    return out


def _texts(side: ItemSide, place: np.ndarray) -> pl.DataFrame:
    """item_id, item_title and text: all texts and tags in one."""
    frame = pl.DataFrame(
        {f"text{n}": values.cast(pl.String).fill_null("") for n, values in enumerate(side.texts.values())}
    )
    words = [values.list.join(", ").fill_null("").alias(f"list{n}") for n, values in enumerate(side.lists.values())]
    frame = frame.with_columns(*words)
    parts = [pl.when(pl.col(c) != "").then(pl.col(c)) for c in frame.columns]
    return frame.select(
        pl.Series("item_id", place),
        pl.col("text0").alias("item_title"),
        pl.concat_str(parts, separator=". ", ignore_nulls=True).fill_null("").alias("text"),
    ).sort("item_id")
