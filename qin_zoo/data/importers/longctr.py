"""LongCTR's layout: rows of user_index, item_index, seq_len and a label, and one history per user.

``user_info.parquet`` holds each user's ``full_item_seq``; a row's history is its first seq_len entries, the newest of
them. ``item_info.parquet`` is indexed by item_index.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from qin_zoo.data.histories import gather_lists
from qin_zoo.data.importers.build import ROWS_PER_CHUNK
from qin_zoo.data.importers.encoded import below, is_sparse, labels, too_sparse
from qin_zoo.data.importers.ids import whole
from qin_zoo.data.importers.log import padded
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.tables import read_parquet, require
from qin_zoo.data.importers.write import EMBEDDING_DIM, ImportSummary, Output
from qin_zoo.data.sources import open_source
from qin_zoo.errors import DataError

_KEYS = ("user_index", "item_index", "seq_len")


def convert_users(
    folder: Path, splits: dict[str, Path], out: Output, options: ImportOptions, about: dict, notes: list[str]
) -> ImportSummary:
    """Converts a folder with one history per user; adds to ``notes`` what is left out.

    Raises:
        DataError: a file that is missing, or a value that cannot be used.
    """
    sources = {name: open_source(path) for name, path in splits.items()}
    label = options.label or "label"
    for source in sources.values():
        for wanted in (*_KEYS, label):
            require(source.path, source.names, wanted)
    first = sources["train"]
    others = [n for n in first.names if n not in (*_KEYS, label) and all(n in s.names for s in sources.values())]
    integers = [n for n in others if first.element(n) == (False, "int")]
    notes += [f"column '{n}' ({first.type_name(n)}) left out." for n in others if n not in integers]
    ranges = [_ranges(path, integers) for path in dict.fromkeys(splits.values())]
    for name in [n for n in integers if any(r[n][0] for r in ranges)]:
        integers.remove(name)
        notes.append(f"column '{name}' left out: rows without a value.")
    item_file = folder / "item_info.parquet"
    items = read_parquet(item_file, "item_index")
    size = items.height
    _numbered(item_file, items["item_index"])

    info = folder / "user_info.parquet"
    users_table = read_parquet(info, "full_item_seq")
    if "user_index" in users_table.columns:
        _numbered(info, users_table["user_index"])
    lists = users_table["full_item_seq"]
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    gaps = lists.list.eval(pl.element().is_null()).list.any().fill_null(False)
    if gaps.any():
        raise DataError(
            f"{info}, column 'full_item_seq', row {gaps.arg_true()[0]}: expected items, found a null inside the "
            "list. Fetch it again."
        )
    entries = whole(info, "full_item_seq", lists.explode(empty_as_null=False, keep_nulls=False).to_numpy())
    below(info, "full_item_seq", entries, size, "items")

    # a user 0 is a user: 0 is no padding here, so all move up by one
    shift = int(any(_ranges(path, ["user_index"])["user_index"][1] == 0 for path in splits.values()))
    out.begin()
    out.feature(["user_id", "item_seq"], "meta")
    names = {name: "row_" + name if name in ("user_id", "item_id", "item_seq", "label") else name for name in integers}
    rows = sum(source.num_rows for source in sources.values())
    for old, name in names.items():
        codes = 1 + max(r[old][2] for r in ranges)
        negative, sparse = min(r[old][1] for r in ranges) < 0, is_sparse(codes, rows)
        if negative or sparse:
            notes.append(f"'{name}': codes below 0; not active." if negative else too_sparse(name, codes))
        out.feature(name, "categorical", active=not (negative or sparse))

    def chunks(path: Path) -> Iterator[dict[str, np.ndarray]]:
        row = 0
        for batch in pq.ParquetFile(path).iter_batches(ROWS_PER_CHUNK, columns=[*_KEYS, label, *integers]):
            part = {name: np.asarray(batch.column(name)) for name in batch.schema.names}
            user, item, seen = (whole(path, key, part[key], row) for key in _KEYS)
            below(path, "user_index", user, len(lengths), "users of user_info.parquet", row)
            below(path, "item_index", item, size, "items of item_info.parquet", row, least=1)
            over = np.flatnonzero((seen < 0) | (seen > lengths[user]))
            if over.size:
                raise DataError(
                    f"{path}, column 'seq_len', row {row + over[0]}: expected at most {lengths[user[over[0]]]}, the "
                    f"length of the user's full_item_seq, found {seen[over[0]]}. Fetch both files again."
                )
            starts = ends[user] - lengths[user]
            yield {
                "user_id": user + shift,
                "item_id": item,
                "item_seq": gather_lists(entries, starts, starts + seen, options.max_history, dtype=np.int32),
                **{new: part[old] for old, new in names.items()},
                "label": labels(path, label, part[label], row),
            }
            row += len(user)

    for name, path in splits.items():
        out.write_split(name, chunks(path))
    out.feature("item_id", "categorical", source="item", vocab_size=size)
    columns: dict[str, np.ndarray] = {"item_id": np.arange(size, dtype=np.int32)}
    for name in items.columns:
        if name == "item_index" or (name == "item_id" and (items[name] == items["item_index"]).all()):
            continue
        new = "source_item_id" if name == "item_id" else name
        if (column := _item_column(item_file, items[name], notes)) is None:
            continue
        columns[new], kind = column
        sizes = {}
        if kind == "embedding":
            width = columns[new].shape[1]
            sizes = {"embedding_dim": min(EMBEDDING_DIM, width), "pretrain_dim": width}
        codes = 1 + int(columns[new].max()) if kind == "categorical" else 0
        sparse = is_sparse(codes, size)
        if sparse:
            notes.append(too_sparse(new, codes))
        out.feature(new, kind, active=not sparse, source="item", **sizes)
    out.write_table("item_info.parquet", columns)
    users = np.arange(len(lengths), dtype=np.int32)
    out.write_table("ids_user.parquet", {"user_id": users + shift, "original_id": users})
    out.write_table("ids_item.parquet", {"item_id": columns["item_id"][1:], "original_id": columns["item_id"][1:]})
    return out.finish(about, len(users), size - 1, notes)


def _item_column(path: Path, values: pl.Series, notes: list[str]) -> tuple[np.ndarray, str] | None:
    """The values of a column and its feature type; None where it is left out."""
    inner = getattr(values.dtype, "inner", None)
    if values.null_count():
        notes.append(f"{path.name}: column '{values.name}' left out: {values.null_count()} rows without a value.")
    elif values.dtype.is_integer():
        return values.to_numpy(), "categorical"
    elif values.dtype.is_float():
        return values.to_numpy().astype(np.float32), "numeric"
    elif inner is not None and inner.is_float():
        return padded(values, "left").astype(np.float32), "embedding"
    elif inner is not None and inner.is_integer():
        return padded(values, "left").astype(np.int32), "sequence"
    else:
        notes.append(f"{path.name}: column '{values.name}' ({values.dtype}) left out.")
    return None


def _numbered(path: Path, index: pl.Series) -> None:
    """Raises DataError unless row i is number i."""
    wrong = np.flatnonzero(index.to_numpy() != np.arange(len(index)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"{path}, column '{index.name}', row {row}: expected {row}, found {index[row]}. Row i has to be number i, "
            "item 0 being padding: sort the table and fill its gaps."
        )


def _ranges(path: Path, names: list[str]) -> dict[str, tuple[int, int, int]]:
    """column -> its nulls, its least and its greatest value."""
    wanted = [pl.concat_list(pl.col(n).null_count(), pl.col(n).min(), pl.col(n).max()).alias(n) for n in names]
    ranges = pl.scan_parquet(path, glob=False).select(wanted).collect()
    return {name: tuple(int(v or 0) for v in ranges[name][0]) for name in names}
