"""The item table and the users' histories: row i has to describe item i."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qin_zoo.data.check.across import repeated
from qin_zoo.data.check.findings import Findings, Tally, tally_of
from qin_zoo.data.check.splits import has_column, id_columns
from qin_zoo.data.check.tables import Lists, ParquetTable, lists, matrices, matrix_hash, scalars
from qin_zoo.data.item_layout import PER_USER, USER_HISTORY, Layout

USER_FILE = "user_info.parquet"
TAG_VOCABULARY = 11_740
"""The challenge's tags, padding included."""
REPEATED_SHARE = 0.01
"""Share of the items that may have the same embedding before it is worth a warning."""
OUTLIER = 10.0
"""An embedding's norm is an outlier beyond the median times this, or below the median over this."""


@dataclass
class Items:
    """What the item table holds.

    Attributes:
        rows: its rows, padding included.
        norms: embedding column -> (items,) norms, NaN where the vector is broken; padding left out.
        dims: embedding column -> length of its vectors.
    """

    rows: int
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)


def read_items(
    path: Path, layout: Layout, vocabulary: int, findings: Findings, advance: Callable[[int], object]
) -> Items:
    """Checks the item table.

    Args:
        path: the file.
        layout: which column numbers the items.
        vocabulary: tag ids lie below it; 0: any.
        findings: where they go.
        advance: called with the rows read.

    Raises:
        DataError: a damaged file.
    """
    table = ParquetTable(path)
    index = id_columns(layout)[1]
    if table.num_rows == 0:
        findings.add("empty-file", table.name, None, "expected a row for every item, found none")
        return Items(0)
    numbered = has_column(table, index, "int", findings)
    kinds = {name: table.element(name) for name in table.names}
    vectors = [name for name, kind in kinds.items() if kind == (True, "float")]
    tags = [name for name, kind in kinds.items() if kind == (True, "int")]
    for name, (listed, element) in kinds.items():
        if listed and element == "other":
            came = table.type_name(name)
            findings.add("wrong-type", table.name, name, f"expected lists of numbers, found the type {came}")
    if not vectors:
        message = f"expected an embedding (a list of floats), found {', '.join(table.names)}"
        findings.add("missing-column", table.name, "item_emb_d128", message, severity="warning")
    checks = {name: _Vectors() for name in vectors} | {name: _Tags(vocabulary) for name in tags}
    ids, nulls = [], []
    for row, batch in table.batches([*([index] if numbered else []), *checks], rows=8192):
        for name, check in checks.items():
            check.read(row, lists(batch.column(name), check.dtype))
        if numbered:
            values, null = scalars(batch.column(index))
            ids.append(values)
            nulls.append(null)
        advance(batch.num_rows)
    if numbered:
        number = np.concatenate(ids)
        _numbering(table.name, index, "item", number, np.concatenate(nulls), findings)
        if 0 not in number:  # no padding row, which is said already
            for check in checks.values():
                check.padding = 0
    items = Items(table.num_rows)
    for name in vectors:
        items.norms[name], items.dims[name] = checks[name].finish(table.name, name, findings)
    for name in tags:
        checks[name].finish(table.name, name, findings)
    return items


def _numbering(file: str, column: str, what: str, ids: np.ndarray, null: np.ndarray, findings: Findings) -> None:
    """Checks that row i is number i; one finding says why it is not."""
    expected = np.arange(len(ids))
    findings.add_tally("null-value", file, column, "an id in each row", tally_of(null, np.full(len(ids), "null")))
    ids = np.where(null, expected, ids)
    findings.add_tally("negative-id", file, column, "ids from 0 on", tally_of(ids < 0, ids))
    if what == "item" and ids[0] != 0 and (ids != 0).all():
        message = f"expected row 0 to be padding, item 0; found item {ids[0]}"
        findings.add("missing-padding-row", file, column, message)
        expected = expected + 1
    again = repeated(ids)
    if again.any():
        code = "duplicate-item" if what == "item" else "user-order"
        findings.add_tally(code, file, column, f"each {what} once", tally_of(again, ids))
    wrong = (ids != expected) & (ids >= 0)
    if not again.any():  # else the repeated ids push all the others out of place
        findings.add_tally(f"{what}-order", file, column, f"row i to be {what} i", tally_of(wrong, ids))


class _Vectors:
    """One embedding column."""

    dtype = np.float32

    def __init__(self) -> None:
        self.null, self.broken, self.zero = Tally(), Tally(), Tally()
        self.lengths: list[np.ndarray] = []
        self.norms: list[np.ndarray] = []
        self.hashes: list[np.ndarray] = []
        self.padding = 0.0

    def read(self, row: int, column: Lists) -> None:
        n = len(column.null)
        norms, hashes = np.zeros(n), np.zeros(n, np.uint64)
        for part, matrix in matrices(column.values, column.offsets[:-1], column.offsets[1:]):
            with np.errstate(over="ignore", invalid="ignore"):
                norms[part] = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
            hashes[part] = matrix_hash(np.ascontiguousarray(matrix).view(np.int32))
        missing = column.null | (column.lengths == 0)
        self.null.add(row + np.flatnonzero(missing), np.array(["null or an empty list"]))
        broken = ~np.isfinite(norms) & ~missing
        self.broken.add(row + np.flatnonzero(broken), np.array(["NaN or infinite values"]))
        zero = (norms == 0) & ~missing
        if row == 0:
            self.padding, zero[0] = norms[0], False
        self.zero.add(row + np.flatnonzero(zero), np.array(["a vector of zeros"]))
        norms[missing | broken] = np.nan
        self.norms.append(norms)
        self.hashes.append(hashes)
        self.lengths.append(np.where(missing, -1, column.lengths))

    def finish(self, file: str, name: str, findings: Findings) -> tuple[np.ndarray, int]:
        findings.add_tally("null-value", file, name, "a vector in each row", self.null)
        findings.add_tally("broken-embedding", file, name, "finite numbers", self.broken)
        findings.add_tally("zero-embedding", file, name, "the vector of an item", self.zero)
        lengths, norms, hashes = (np.concatenate(parts) for parts in (self.lengths, self.norms, self.hashes))
        dim = int(np.bincount(lengths[lengths >= 0]).argmax()) if (lengths >= 0).any() else 0
        other = (lengths >= 0) & (lengths != dim)
        findings.add_tally("embedding-length", file, name, f"vectors of {dim} numbers", tally_of(other, lengths))
        if self.padding != 0:  # NaN, too
            message = f"expected zeros in row 0, found a vector of norm {self.padding:.4g}"
            findings.add("padding-row-not-zero", file, name, message)
        norms, hashes = norms[1:], hashes[1:]
        real = norms > 0
        if real.sum() > 1:
            values, count = np.unique(hashes[real], return_counts=True)
            most = int(count.argmax())
            if count[most] > max(2, REPEATED_SHARE * real.sum()):
                tally = tally_of(np.concatenate([[False], real & (hashes == values[most])]))
                share = count[most] / real.sum()
                message = f"expected a vector of its own for each item, found one vector for {share:.1%} of them"
                findings.add("repeated-embedding", file, name, message, tally)
            middle = float(np.median(norms[real]))
            far = np.concatenate([[False], real & ((norms > OUTLIER * middle) | (norms < middle / OUTLIER))])
            tally = tally_of(far, np.concatenate([[0.0], norms]))
            expected = f"norms between {middle / OUTLIER:.3g} and {OUTLIER * middle:.3g} (the median is {middle:.3g})"
            findings.add_tally("embedding-norm-outlier", file, name, expected, tally)
        return norms, dim


class _Tags:
    """One column of tag ids, zeros last."""

    dtype = np.int64

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary, self.padding = vocabulary, False
        self.null, self.negative, self.beyond, self.inside = Tally(), Tally(), Tally(), Tally()

    def read(self, row: int, column: Lists) -> None:
        self.null.add(row + np.flatnonzero(column.null), np.array(["null"]))
        values, offsets = column.values, column.offsets
        owner = np.repeat(np.arange(len(column.null)), column.lengths)
        for tally, wrong in (
            (self.negative, values < 0),
            (self.beyond, (values >= self.vocabulary) if self.vocabulary else np.zeros(len(values), bool)),
        ):
            rows, first = np.unique(owner[wrong], return_index=True)
            tally.add(row + rows, values[wrong][first])
        if len(values) > 1:
            gap = (values[:-1] == 0) & (values[1:] != 0) & (owner[:-1] == owner[1:])
            self.inside.add(row + np.unique(owner[1:][gap]), np.array(["a tag after a zero"]))
        if row == 0 and values[: offsets[1]].any():
            self.padding = True

    def finish(self, file: str, name: str, findings: Findings) -> None:
        findings.add_tally("null-value", file, name, "a list in each row", self.null)
        findings.add_tally("negative-tag", file, name, "ids from 0 on", self.negative)
        findings.add_tally("tag-beyond-vocabulary", file, name, f"ids below {self.vocabulary:,}", self.beyond)
        findings.add_tally("tag-padding-inside", file, name, "zeros only after the tags", self.inside)
        if self.padding:
            findings.add("padding-row-not-zero", file, name, "expected zeros in row 0, found tags")


def read_users(path: Path, items: int | None, findings: Findings, advance: Callable[[int], object]) -> Lists | None:
    """Checks the users' table; returns their histories, or None where they cannot be read.

    Raises:
        DataError: a damaged file.
    """
    table, index = ParquetTable(path), id_columns(PER_USER)[0]
    if USER_HISTORY not in table.names:
        message = f"expected a list of item ids, found {', '.join(table.names)}"
        findings.add("missing-column", table.name, USER_HISTORY, message)
        return None
    if table.element(USER_HISTORY) != (True, "int"):
        message = f"expected a list of integers, found the type {table.type_name(USER_HISTORY)}"
        findings.add("history-not-ids", table.name, USER_HISTORY, message)
        return None
    numbered = index in table.names and has_column(table, index, "int", findings)
    null, low, high = Tally(), Tally(), Tally()
    ids, nulls, values, lengths, missing = [], [], [], [], []
    for row, batch in table.batches([USER_HISTORY, *([index] if numbered else [])]):
        part = lists(batch.column(USER_HISTORY))
        null.add(row + np.flatnonzero(part.null), np.array(["null"]))
        owner = np.repeat(np.arange(len(part.null)), part.lengths)
        for tally, wrong in ((low, part.values < 0), (high, part.values >= (items or 2**62))):
            rows, first = np.unique(owner[wrong], return_index=True)
            tally.add(row + rows, part.values[wrong][first])
        values.append(np.clip(part.values, -1, 2**31 - 1).astype(np.int32))
        lengths.append(part.lengths)
        missing.append(part.null)
        if numbered:
            number, none = scalars(batch.column(index))
            ids.append(number)
            nulls.append(none)
        advance(batch.num_rows)
    findings.add_tally("null-value", table.name, USER_HISTORY, "a list of ids in each row", null)
    findings.add_tally("negative-id", table.name, USER_HISTORY, "ids from 0 on", low)
    findings.add_tally("unknown-history-item", table.name, USER_HISTORY, f"ids below {items or 0:,}", high)
    if numbered and ids:
        _numbering(table.name, index, "user", np.concatenate(ids), np.concatenate(nulls), findings)
    if not values:
        return Lists(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, bool))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Lists(np.concatenate(values), offsets, np.concatenate(missing))
