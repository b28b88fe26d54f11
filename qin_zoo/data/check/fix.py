"""A mended copy of a dataset: the filters, and what takes the place of broken embeddings."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.check.across import contradictions, duplicates, extremes
from qin_zoo.data.check.findings import FIX
from qin_zoo.data.check.folder import Report, tag_limit
from qin_zoo.data.check.items import USER_FILE
from qin_zoo.data.check.splits import LEVELS, TOP_LEVEL, Rules, Split, id_columns
from qin_zoo.data.check.tables import BATCH_ROWS, Advance, Lists, ParquetTable, lists, matrices, scalars
from qin_zoo.data.item_files import ITEM_FILE
from qin_zoo.data.item_layout import HISTORY, PER_ROW, PER_USER, USER_HISTORY
from qin_zoo.errors import DataError
from qin_zoo.files import replace_file
from qin_zoo.progress import Progress


@dataclass
class Mended:
    """What was done.

    Attributes:
        path: the folder written.
        changes: (file, what, how many), in the order of the files.
        limit: the most rows a user of the training split may have.
    """

    path: Path
    changes: list[tuple[str, str, int]] = field(default_factory=list)
    limit: int = 0


def fix_folder(report: Report, out: str | Path, tags: int | None = None, progress: bool = False) -> Mended:
    """Writes a mended copy of a checked folder.

    Left out of train and valid, in this order: rows with a value they must not hold (null, negative or unknown
    ids, the padding item as target, labels other than 0 and 1, levels out of range); all rows whose user, item
    and history occur with both labels; repetitions of a row, the first being kept. Left out of train besides:
    users of more than 100 rows and more than 25 times the median user's. Rows with empty histories count neither
    as repetitions nor as contradictory: nothing tells two showings apart.

    The test split keeps every row, since a submission has one line for each: wrong ids become 0, levels are
    clipped. Histories are padded on the left. An embedding that is null, of another length, all zeros or not
    finite becomes the mean of the item table's other vectors, the padding row becomes zeros; tags out of range
    are left out. Files beside those of the layout (sample.json, truth/) are not copied: their rows would no
    longer match.

    Args:
        report: of the folder.
        out: a new or empty folder outside of it.
        tags: as in the check.
        progress: whether to show a bar on a terminal.

    Raises:
        DataError: ``out`` is taken or inside the folder, or a fault that no filter mends.
        QinZooError: ``out`` cannot be written.
    """
    out = _new_folder(report.path, Path(out).expanduser())
    structural = [f for f in report.errors if FIX not in f.mend and f.code != "label-one-class"]
    if structural:
        listed = "; ".join(f"{f.file}: {f.message} ({f.code})" for f in structural[:5])
        raise DataError(f"{report.path} cannot be mended by leaving out rows: {listed}. Mend that first.")
    mended = Mended(out)
    rules = Rules(report.items.rows if report.items else None, report.users)
    files = [f"{n}.parquet" for n in report.splits] + [ITEM_FILE] + ([USER_FILE] if report.per_user else [])
    tables = {file: ParquetTable(report.path / file) for file in files}
    total = sum(table.num_rows for table in tables.values())
    with Progress(total=total, desc="fix", shown=progress, unit=" rows", unit_scale=True) as bar:
        for file, table in tables.items():
            touched, counts = {f.code for f in report.findings if f.file == file}, Counter()
            change: Change | None = None
            if table.path.stem in report.splits:
                change = _split_change(report.splits[table.path.stem], report.per_user, rules, touched, counts, mended)
            elif touched and file == ITEM_FILE:
                change = _item_change(table, report.items.dims, tag_limit(tags, report.layout), counts)
            elif touched:
                change = _user_change(rules, counts)
            _write(table, out / file, change, bar.update)
            mended.changes += [(file, what, n) for what, n in counts.items() if n]
    return mended


Change = Callable[[int, pa.RecordBatch], pa.RecordBatch]
_VALUES = {
    "null-value", "negative-id", "unknown-item", "unknown-history-item", "level-out-of-range", "padding-not-left",
    "padding-inside",
}  # fmt: skip


def _new_folder(folder: Path, out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; the mended copy needs a folder. Give a new or an empty one.")
    out = out.resolve()
    if out == folder or folder in out.parents:
        raise DataError(f"{out} lies in the folder that was checked, {folder}, which stays as it is. Give another one.")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; nothing was written. Give a new or an empty folder for the mended copy.")
    return out


def _write(table: ParquetTable, path: Path, change: Change | None, advance: Advance) -> None:
    with replace_file(path) as temporary:
        if change is None:
            shutil.copyfile(table.path, temporary)
            advance(table.num_rows)
            return
        with pq.ParquetWriter(temporary, table.schema_arrow, compression="zstd") as writer:
            for row, batch in table.batches(rows=3 * BATCH_ROWS):
                writer.write_batch(change(row, batch))
                advance(batch.num_rows)


def _split_change(
    split: Split, per_user: bool, rules: Rules, touched: set[str], counts: Counter[str], mended: Mended
) -> Change | None:
    keep = np.ones(split.rows, bool)
    if split.name != "test":
        masks = {"wrong values": split.bad, "contradictory labels": contradictions(split)}
        for rule, mask in (masks | {"duplicates": duplicates(split)}).items():
            counts[f"rows left out: {rule}"] = int((keep & mask).sum())
            keep &= ~mask
    if split.name == "train":
        kept = np.flatnonzero(keep)
        while (found := extremes(split.user[kept]))[0].any():  # with them gone, the median user has fewer rows
            kept = kept[~found[0]]
        mended.limit = found[1]
        counts["rows left out: extreme users"] = int(keep.sum()) - len(kept)
        keep = np.isin(np.arange(split.rows), kept)
    if not keep.any():
        raise DataError(f"{split.file}: no row would be left. Look at the findings and mend the file by hand.")
    if keep.all() and not touched & _VALUES:
        return None

    def change(row: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = batch.filter(pa.array(keep[row : row + batch.num_rows]))
        if batch.num_rows and not per_user:
            batch = _repad(batch, rules, counts)
        return _mend_test(batch, per_user, rules, counts) if split.name == "test" else batch

    return change


def _repad(batch: pa.RecordBatch, rules: Rules, counts: Counter[str]) -> pa.RecordBatch:
    """Puts zeros, and ids that are none, in front of each history."""
    history = lists(batch.column(HISTORY))
    wrong = (history.values < 0) | rules.beyond(history.values)
    values = np.where(wrong, 0, history.values)
    owner = history.owner
    gap = np.zeros(len(values), bool)
    gap[1:] = (values[:-1] != 0) & (values[1:] == 0) & (owner[:-1] == owner[1:])
    moved = np.union1d(owner[gap], owner[wrong])
    if not len(moved) and not batch.column(HISTORY).null_count and not history.null.any():
        return batch
    counts["histories padded on the left"] += len(moved)
    counts["null histories made empty"] += int(history.null.sum())
    values = values[np.lexsort((values != 0, owner))]
    return _set(batch, HISTORY, Lists(values, history.offsets, history.null))


def _mend_test(batch: pa.RecordBatch, per_user: bool, rules: Rules, counts: Counter[str]) -> pa.RecordBatch:
    """Puts 0 for ids that are none and clips levels."""
    user, item = id_columns(PER_USER if per_user else PER_ROW)
    for column in (user, item, *LEVELS):
        if column not in batch.schema.names:
            continue
        values, null = scalars(batch.column(column))
        if column in LEVELS:
            new = np.clip(values, 0, TOP_LEVEL)
        else:
            new = np.where((values < 0) | (rules.beyond(values) if column == item else False), 0, values)
        changed = null | (new != values)
        if changed.any():
            counts[f"{column}: values replaced"] += int(changed.sum())
            batch = _set(batch, column, pa.array(new))
    return batch


def _user_change(rules: Rules, counts: Counter[str]) -> Change:
    def change(row: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        history = lists(batch.column(USER_HISTORY))
        wrong = (history.values < 0) | rules.beyond(history.values)
        counts["history entries set to 0"] += int(wrong.sum())
        counts["null histories made empty"] += int(history.null.sum())
        return _set(batch, USER_HISTORY, history._replace(values=np.where(wrong, 0, history.values)))

    return change


def _item_change(table: ParquetTable, dims: dict[str, int], tags: int, counts: Counter[str]) -> Change:
    kinds = {name: table.element(name) for name in table.names}
    means = {name: _mean(table, name, dim) for name, dim in dims.items()}

    def change(row: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        for name in table.names:
            if dims.get(name):
                batch = _mend_vectors(batch, row, name, means[name], counts)
            elif kinds[name] == (True, "int"):
                batch = _mend_tags(batch, row, name, tags, counts)
        return batch

    return change


def _vectors(column: Lists, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, dim) vectors, and (n,) bool where they can be used."""
    out, good = np.zeros((len(column.null), dim), np.float32), ~column.null & (column.lengths == dim)
    starts, ends = column.offsets[:-1][good], column.offsets[1:][good]
    place = np.flatnonzero(good)
    for part, matrix in matrices(column.values, starts, ends):
        out[place[part]] = matrix
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.einsum("ij,ij->i", out, out, dtype=np.float64)
    return out, good & np.isfinite(norm) & (norm > 0)


def _mean(table: ParquetTable, name: str, dim: int) -> np.ndarray:
    """(dim,) mean of the vectors that can be used, padding left out."""
    total, count = np.zeros(dim), 0
    for row, batch in table.batches([name], rows=8192):
        vectors, good = _vectors(lists(batch.column(0), np.float32), dim)
        good[: 1 if row == 0 else 0] = False
        total += vectors[good].sum(axis=0, dtype=np.float64)
        count += int(good.sum())
    return (total / max(count, 1)).astype(np.float32)


def _mend_vectors(batch: pa.RecordBatch, row: int, name: str, mean: np.ndarray, counts: Counter[str]) -> pa.RecordBatch:
    column = lists(batch.column(name), np.float32)
    vectors, good = _vectors(column, len(mean))
    padding = 0
    if row == 0:
        padding = int(bool(vectors[0].any()) or column.lengths[0] != len(mean))
        vectors[0], good[0] = 0, True
    if good.all() and not padding:
        return batch
    vectors[~good] = mean
    counts[f"{name}: broken embeddings replaced by the mean"] += int((~good).sum())
    counts[f"{name}: padding row set to zeros"] += padding
    offsets = np.arange(len(good) + 1, dtype=np.int64) * len(mean)
    return _set(batch, name, Lists(vectors.ravel(), offsets, np.zeros(len(good), bool)))


def _mend_tags(batch: pa.RecordBatch, row: int, name: str, limit: int, counts: Counter[str]) -> pa.RecordBatch:
    column = lists(batch.column(name))
    values, owner = column.values.copy(), column.owner
    values[(values < 0) | (values >= (limit or np.inf))] = 0
    if row == 0:
        values[owner == 0] = 0
    values = values[np.lexsort((values == 0, owner))]
    changed = np.unique(owner[values != column.values])
    if not len(changed) and not column.null.any():
        return batch
    counts[f"{name}: lists of tags mended"] += len(changed)
    return _set(batch, name, column._replace(values=values))


def _set(batch: pa.RecordBatch, name: str, column: Lists | pa.Array) -> pa.RecordBatch:
    """The batch with a column replaced, of the type it had."""
    place, kind = batch.schema.get_field_index(name), batch.schema.field(name)
    if isinstance(column, Lists):
        column = pa.LargeListArray.from_arrays(pa.array(column.offsets), pa.array(column.values))
    return batch.set_column(place, kind, column.cast(kind.type))
