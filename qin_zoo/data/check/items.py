"""The item table and the users' histories: row i has to describe item i."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qin_zoo.data.check.across import repeated
from qin_zoo.data.check.findings import Findings
from qin_zoo.data.check.splits import has_ids, id_columns
from qin_zoo.data.check.tables import Advance, Lists, ParquetTable, lists, matrices, matrix_hash, scalars
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


def read_items(table: ParquetTable, layout: Layout, vocabulary: int, findings: Findings, advance: Advance) -> Items:
    """Checks the item table.

    Args:
        table: the file.
        layout: which column numbers the items.
        vocabulary: tag ids lie below it; 0: any.
        findings: where they go.
        advance: called with the rows read.

    Raises:
        DataError: a damaged file.
    """
    index = id_columns(layout)[1]
    if table.num_rows == 0:
        findings.add("empty-file", table.name, None, "expected a row for every item, found none")
        return Items(0)
    numbered = has_ids(table, index, findings)
    kinds = {name: table.element(name) for name in table.names}
    vectors = {n: _Vectors(table.name, n, findings) for n, kind in kinds.items() if kind == (True, "float")}
    tags = {n: _Tags(table.name, n, findings, vocabulary) for n, kind in kinds.items() if kind == (True, "int")}
    for name in (name for name, kind in kinds.items() if kind == (True, "other")):
        message = f"expected lists of numbers, found the type {table.type_name(name)}"
        findings.add("wrong-type", table.name, name, message)
    if not vectors:
        message = f"expected an embedding (a list of floats), found {', '.join(table.names)}"
        findings.add("missing-column", table.name, "item_emb_d128", message, severity="warning")
    ids = []
    for row, batch in table.batches([*([index] if numbered else []), *vectors, *tags], rows=8192):
        for name, check in vectors.items():
            check.read(row, lists(batch.column(name), np.float32))
        for name, check in tags.items():
            check.read(row, lists(batch.column(name)))
        if numbered:
            ids.append(scalars(batch.column(index)))
        advance(batch.num_rows)
    padded = not numbered or _numbering(table.name, index, "item", ids, findings)
    items = Items(table.num_rows)
    for name, check in (vectors | tags).items():
        if padded and check.padding:
            findings.add("padding-row-not-zero", table.name, name, f"expected zeros in row 0, found {check.padding}")
    for name, check in vectors.items():
        items.norms[name], items.dims[name] = check.finish()
    return items


def _numbering(file: str, column: str, what: str, pieces: list[tuple[np.ndarray, ...]], findings: Findings) -> bool:
    """Checks that row i is number i; one finding says why it is not. Returns whether there is a number 0."""
    ids, null = (np.concatenate(parts) for parts in zip(*pieces))
    expected = np.arange(len(ids))
    findings.wrong("null-value", file, column, "an id in each row", null)
    zero, ids = bool((ids == 0).any()), np.where(null, expected, ids)
    findings.wrong("negative-id", file, column, "ids from 0 on", ids < 0, ids)
    if what == "item" and (ids != 0).all():
        message = f"expected row 0 to be padding, item 0; found item {ids[0]}"
        findings.add("missing-padding-row", file, column, message)
        expected = expected + 1
    again = repeated(ids)
    findings.wrong("duplicate-item" if what == "item" else "user-order", file, column, f"each {what} once", again, ids)
    if not again.any():  # else the repeated ids push all the others out of place
        wrong = (ids != expected) & (ids >= 0)
        findings.wrong(f"{what}-order", file, column, f"row i to be {what} i", wrong, ids)
    return zero


class _Vectors:
    """One embedding column; ``padding`` says what stands in row 0 instead of zeros."""

    def __init__(self, file: str, column: str, findings: Findings) -> None:
        self._place, self._findings, self.padding = (file, column), findings, ""
        self._pieces: list[tuple[np.ndarray, ...]] = []  # lengths, norms and hashes

    def read(self, row: int, column: Lists) -> None:
        n = len(column.null)
        norms, hashes = np.zeros(n), np.zeros(n, np.uint64)
        for part, matrix in matrices(column.values, column.offsets[:-1], column.offsets[1:]):
            with np.errstate(over="ignore", invalid="ignore"):
                norms[part] = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
            hashes[part] = matrix_hash(np.ascontiguousarray(matrix).view(np.int32))
        missing = column.null | (column.lengths == 0)
        broken = ~np.isfinite(norms) & ~missing
        zero = (norms == 0) & ~missing
        if row == 0:
            zero[0] = False
            self.padding = "" if norms[0] == 0 else f"a vector of norm {norms[0]:.4g}"
        for code, expected, mask, came in (
            ("null-value", "a vector in each row", missing, "null or an empty list"),
            ("broken-embedding", "finite numbers", broken, "NaN or infinite values"),
            ("zero-embedding", "the vector of an item", zero, "a vector of zeros"),
        ):
            self._findings.wrong(code, *self._place, expected, mask, came, row)
        norms[missing | broken] = np.nan
        self._pieces.append((np.where(missing, -1, column.lengths), norms, hashes))

    def finish(self) -> tuple[np.ndarray, int]:
        """(items,) norms, and the length that most vectors have."""
        lengths, norms, hashes = (np.concatenate(parts) for parts in zip(*self._pieces))
        dim = int(np.bincount(lengths[lengths >= 0]).argmax()) if (lengths >= 0).any() else 0
        other = (lengths >= 0) & (lengths != dim)
        self._findings.wrong("embedding-length", *self._place, f"vectors of {dim} numbers", other, lengths)
        real = norms > 0
        real[0] = False
        if real.sum() > 1:
            values, count = np.unique(hashes[real], return_counts=True)
            most = int(count.argmax())
            if count[most] > max(2, REPEATED_SHARE * real.sum()):
                share = count[most] / real.sum()
                message = f"expected a vector of its own for each item, found one vector for {share:.1%} of them"
                self._findings.add("repeated-embedding", *self._place, message, real & (hashes == values[most]))
            middle = float(np.median(norms[real]))
            far = real & ((norms > OUTLIER * middle) | (norms < middle / OUTLIER))
            expected = f"norms between {middle / OUTLIER:.3g} and {OUTLIER * middle:.3g} (the median is {middle:.3g})"
            self._findings.wrong("embedding-norm-outlier", *self._place, expected, far, norms)
        return norms[1:], dim


class _Tags:
    """One column of tag ids, zeros last; ``padding`` says what stands in row 0 instead of zeros."""

    def __init__(self, file: str, column: str, findings: Findings, vocabulary: int) -> None:
        self._place, self._findings, self.padding = (file, column), findings, ""
        self._vocabulary = vocabulary

    def read(self, row: int, column: Lists) -> None:
        values, owner = column.values, column.owner
        beyond = values >= (self._vocabulary or np.inf)
        gap = np.zeros(len(values), bool)
        gap[1:] = (values[:-1] == 0) & (values[1:] != 0) & (owner[:-1] == owner[1:])
        for code, expected, mask, came in (
            ("null-value", "a list in each row", column.null, "null"),
            ("negative-tag", "ids from 0 on", *column.first(values < 0)),
            ("tag-beyond-vocabulary", f"ids below {self._vocabulary:,}", *column.first(beyond)),
            ("tag-padding-inside", "zeros only after the tags", column.first(gap)[0], "a tag after a zero"),
        ):
            self._findings.wrong(code, *self._place, expected, mask, came, row)
        if row == 0 and values[: column.offsets[1]].any():
            self.padding = "tags"


def read_users(table: ParquetTable, items: int | None, findings: Findings, advance: Advance) -> Lists | None:
    """Checks the users' table; returns their histories, or None where they cannot be read.

    Raises:
        DataError: a damaged file.
    """
    index = id_columns(PER_USER)[0]
    if not has_ids(table, USER_HISTORY, findings, listed=True):
        return None
    numbered = index in table.names and has_ids(table, index, findings)
    ids, pieces = [], [(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, bool))]
    for row, batch in table.batches([USER_HISTORY, *([index] if numbered else [])]):
        part = lists(batch.column(USER_HISTORY))
        for code, expected, mask, came in (
            ("null-value", "a list of ids in each row", part.null, "null"),
            ("negative-id", "ids from 0 on", *part.first(part.values < 0)),
            ("unknown-history-item", f"ids below {items or 0:,}", *part.first(part.values >= (items or np.inf))),
        ):
            findings.wrong(code, table.name, USER_HISTORY, expected, mask, came, row)
        values = np.clip(part.values, -1, 2**31 - 1).astype(np.int32)
        pieces.append((values, part.offsets[1:] + pieces[-1][1][-1], part.null))
        if numbered:
            ids.append(scalars(batch.column(index)))
        advance(batch.num_rows)
    if ids:
        _numbering(table.name, index, "user", ids, findings)
    return Lists(*(np.concatenate(parts) for parts in zip(*pieces)))
