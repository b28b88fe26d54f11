"""The rows of one split: every value checked, and what comparing rows needs kept as a few numbers a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qin_zoo.data.check.findings import Findings
from qin_zoo.data.check.tables import Advance, Lists, ParquetTable, combined, lists, matrices, matrix_hash, scalars
from qin_zoo.data.item_layout import HISTORY, PER_USER, Layout

LEVELS = ("likes_level", "views_level")
TOP_LEVEL = 10
LABELS = ("label", "is_click", "click", "clicked")
HISTORY_LENGTH = 100
"""The challenge's histories."""
SURE = 0.95
"""Click rate from which a target in its own history tells the label."""


@dataclass
class Split:
    """A split's rows, (n,) each.

    Attributes:
        name: train, valid or test.
        file: the file's name.
        label_column: the label's column, or None.
        user, item: ids.
        length: history items.
        key: hash of user, item and history.
        full: hash of all columns.
        repeats: whether the target stands in its history.
        bad: rows with a value they must not hold.
        label: 0, 1, or -1 where it is neither; None without labels.
        level: the first level column, or None.
    """

    name: str
    file: str
    label_column: str | None
    user: np.ndarray
    item: np.ndarray
    length: np.ndarray
    key: np.ndarray
    full: np.ndarray
    repeats: np.ndarray
    bad: np.ndarray
    label: np.ndarray | None = None
    level: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.user)


class Rules(NamedTuple):
    """Where a value of a split is wrong: the same rules for finding such rows and for mending them.

    Attributes:
        items: rows of the item table, or None if unknown.
        users: the users' histories in the layout that has them.
    """

    items: int | None
    users: Lists | None = None

    def beyond(self, ids: np.ndarray) -> np.ndarray:
        """(n,) bool, where ids name no row of the item table."""
        return np.zeros(len(ids), bool) if self.items is None else ids >= self.items


def id_columns(layout: Layout) -> tuple[str, str]:
    """The columns of the user and of the item."""
    return ("user_index", "item_index") if layout is PER_USER else ("user_id", "item_id")


def check_columns(table: ParquetTable, layout: Layout, name: str, findings: Findings) -> bool:
    """Checks the columns' presence and types; returns whether the rows can be read."""
    user, item = id_columns(layout)
    wanted = [user, item, "seq_len"] if layout is PER_USER else [user, item, *LEVELS]
    good = layout is PER_USER or has_ids(table, HISTORY, findings, listed=True)
    for column in wanted:
        good &= has_ids(table, column, findings, fatal=column not in LEVELS)
    label = next((name for name in LABELS if name in table.names), None)
    if label is None and name != "test":
        findings.add("label-missing", table.name, LABELS[0], f"expected a column of labels, found {_names(table)}")
    elif label and name != "test" and table.element(label) not in ((False, "int"), (False, "float"), (False, "bool")):
        message = f"expected labels, 0 or 1, found the type {table.type_name(label)}"
        findings.add("wrong-type", table.name, label, message)
    return good


def has_ids(table: ParquetTable, column: str, findings: Findings, listed: bool = False, fatal: bool = True) -> bool:
    """Checks that a column of integers, or of lists of them, is there; returns whether reading can go on."""
    if column not in table.names:
        message = f"expected a column '{column}', found {_names(table)}"
        findings.add("missing-column", table.name, column, message, severity=None if fatal else "warning")
    elif table.element(column) != (listed, "int"):
        code, expected = ("history-not-ids", "a list of integers") if listed else ("wrong-type", "one int")
        message = f"expected {expected} in each row, found the type {table.type_name(column)}"
        findings.add(code, table.name, column, message)
    else:
        return True
    return not fatal


def read_split(
    table: ParquetTable, name: str, layout: Layout, rules: Rules, findings: Findings, advance: Advance
) -> Split | None:
    """Checks a split's values in one pass; None where its columns do not let it be read.

    Raises:
        DataError: a damaged file.
    """
    if table.num_rows == 0:
        findings.add("empty-file", table.name, None, "expected at least one row, found none")
        return None
    if not check_columns(table, layout, name, findings):
        return None
    reader = _Reader(table, name, layout, rules, findings)
    for row, batch in table.batches():
        reader.read(row, batch)
        advance(batch.num_rows)
    return reader.finish()


class _Reader:
    """The state of one pass over a split."""

    def __init__(self, table: ParquetTable, name: str, layout: Layout, rules: Rules, findings: Findings) -> None:
        self.table, self.name, self.layout, self.rules, self.findings = table, name, layout, rules, findings
        self.user, self.item = id_columns(layout)
        label = next((name for name in LABELS if name in table.names), None)
        readable = label is not None and table.element(label)[1] != "other"
        self.label = label if readable and name != "test" else None
        self.levels = [c for c in LEVELS if c in table.names and table.element(c) == (False, "int")]
        # a test split may lack labels, but not some of them
        self.doubted = label if readable and name == "test" and not table.is_placeholder(label) else None
        known = {self.user, self.item, label, HISTORY, "seq_len", *self.levels}
        self.others = [c for c in table.names if c not in known]
        self.known_items = f"ids below {rules.items:,}, the rows of the item table" if rules.items else ""
        self.parts: dict[str, list[np.ndarray]] = {}
        self.widths = [2**31, 0]

    def read(self, row: int, batch: pa.RecordBatch) -> None:
        self.row, n = row, batch.num_rows
        self.bad = np.zeros(n, bool)
        columns = {c: batch.column(c) for c in batch.schema.names}
        user, item = self._ids(self.user, columns), self._ids(self.item, columns)
        self._wrong("unknown-item", self.item, self.known_items, self.rules.beyond(item), item)
        self._wrong("padding-target", self.item, "the id of an item", (item == 0) & ~self.bad, item)
        label = self._label(columns) if self.label else None
        if self.doubted:
            given, null = scalars(columns[self.doubted], np.float64)
            self._wrong("test-labels", self.doubted, "0 or 1 in each row", null | (given != 0) & (given != 1), given)
        levels = []
        for column in self.levels:
            level, null = scalars(columns[column])
            self._wrong("null-value", column, "a level in each row", null)
            out = ~null & ((level < 0) | (level > TOP_LEVEL))
            self._wrong("level-out-of-range", column, f"a level, 0…{TOP_LEVEL}", out, level)
            levels.append(level)
        length, past, repeats = self._history(columns, user, item)
        key = combined(user, item, past)
        others = [columns[c] for c in self.others if _hashable(columns[c].type)]
        full = combined(key, *([] if label is None else [label]), *levels, *others)
        values = {"user": user, "item": item, "length": length, "key": key, "full": full}
        values |= {"repeats": repeats, "bad": self.bad}
        if label is not None:
            values["label"] = label
        if levels:
            values["level"] = np.clip(levels[0], 0, TOP_LEVEL).astype(np.int8)
        for part, array in values.items():
            self.parts.setdefault(part, []).append(array)

    def _wrong(self, code: str, column: str, expected: str, mask: np.ndarray, came: np.ndarray | str = "null") -> None:
        self.findings.wrong(code, self.table.name, column, expected, mask, came, self.row)
        self.bad |= mask

    def _ids(self, column: str, columns: dict[str, pa.Array]) -> np.ndarray:
        ids, null = scalars(columns[column])
        self._wrong("null-value", column, "an id in each row", null)
        self._wrong("negative-id", column, "ids from 0 on", ids < 0, ids)
        return ids

    def _label(self, columns: dict[str, pa.Array]) -> np.ndarray:
        label, null = scalars(columns[self.label], np.float64)
        self._wrong("null-value", self.label, "a label in each row", null)
        wrong = (label != 0) & (label != 1)
        self._wrong("label-not-binary", self.label, "labels 0 or 1", wrong & ~null, label)
        return np.where(wrong | null, -1, label).astype(np.int8)

    def _history(self, columns: dict[str, pa.Array], user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, ...]:
        """History items, hash of the history and whether the target is in it, (n,) each."""
        if self.layout is PER_USER:
            return self._user_history(columns, user, item)
        history = lists(columns[HISTORY])
        self._wrong("null-value", HISTORY, "a list of ids in each row", history.null)
        widths = history.lengths
        if not history.null.all():
            there = widths[~history.null]
            self.widths = [min(self.widths[0], there.min()), max(self.widths[1], there.max())]
        n = len(widths)
        length, past, repeats = np.zeros(n, np.int32), np.zeros(n, np.uint64), np.zeros(n, bool)
        right, inside = np.zeros(n, bool), np.zeros(n, bool)
        for part, matrix in matrices(history.values, history.offsets[:-1], history.offsets[1:]):
            filled = matrix != 0
            length[part] = np.count_nonzero(filled, axis=1)
            past[part] = matrix_hash(matrix)
            repeats[part] = (matrix == item[part, None]).any(axis=1) & (item[part] > 0)
            if matrix.shape[1]:
                last, falls = filled[:, -1], np.count_nonzero(filled[:, :-1] > filled[:, 1:], axis=1)  # item, then zero
                right[part] = ~last & (length[part] > 0)
                inside[part] = falls + last > 1
        self._wrong("negative-id", HISTORY, "ids from 0 on", *history.first(history.values < 0))
        beyond = history.first(self.rules.beyond(history.values))
        self._wrong("unknown-history-item", HISTORY, self.known_items, *beyond)
        for code, expected, mask in (
            ("padding-not-left", "padding in front of the items, newest last", right),
            ("padding-inside", "zeros only in front of the items", inside),
        ):  # loaders drop zeros wherever they stand: nothing to take out
            self.findings.wrong(code, self.table.name, HISTORY, expected, mask, "others", self.row)
        return length, past, repeats

    def _user_history(self, columns: dict[str, pa.Array], user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, ...]:
        seen = self._ids("seq_len", columns)
        repeats, users = np.zeros(len(user), bool), self.rules.users
        count = 0 if users is None else len(users.null)
        unknown = user >= count
        if users is not None:
            expected = f"users below {count:,}, the rows of user_info.parquet"
            self._wrong("unknown-user", self.user, expected, unknown, user)
        if count:
            safe = np.where((user >= 0) & ~unknown, user, 0)
            starts, has = users.offsets[safe], users.lengths[safe]
            short = ~unknown & (seen > has)
            self._wrong("history-too-short", "seq_len", "at most the length of the user's full_item_seq", short, seen)
            ends = starts + np.where(unknown, 0, np.clip(seen, 0, has))
            for part, matrix in matrices(users.values, starts, ends):
                repeats[part] = (matrix == item[part, None]).any(axis=1) & (item[part] > 0)
        return seen.astype(np.int32), seen.astype(np.uint64), repeats

    def finish(self) -> Split:
        """The findings of the pass and the split."""
        file, findings = self.table.name, self.findings
        data = {part: np.concatenate(arrays) for part, arrays in self.parts.items()}
        split = Split(self.name, file, self.label, **data)
        if split.label is not None and (split.label >= 0).any():
            present = np.unique(split.label[split.label >= 0])
            if len(present) == 1:
                message = f"expected labels 0 and 1, found {present[0]} in every row"
                findings.add("label-one-class", file, self.label, message)
        column = "seq_len" if self.layout is PER_USER else HISTORY
        if not split.length.any():
            findings.add("no-history", file, column, "expected histories, found every one empty")
        low, high = self.widths
        if low < high:
            message = f"expected lists of one length, found {low} to {high} entries"
            findings.add("history-length-varies", file, column, message)
        if high > HISTORY_LENGTH:
            message = f"expected up to {HISTORY_LENGTH} entries, found lists of {high}"
            findings.add("long-history", file, column, message)
        if split.repeats.any():
            told, severity = "", "note"
            if split.label is not None:
                inside, rest = split.label[split.repeats], split.label[~split.repeats]
                rate, other = (float((x == 1).mean()) if x.size else 0.0 for x in (inside, rest))
                told = f"; {rate:.1%} of them are clicks, {other:.1%} of the others"
                if len(inside) >= 20 and rate >= SURE and other < SURE - 0.2:
                    severity, told = "warning", told + ": the history gives the label away"
            message = f"the target stands in its own history in {split.repeats.mean():.2%} of the rows{told}"
            findings.add("target-in-history", file, column, message, split.repeats, severity)
        return split


def _hashable(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_null(kind) or pa.types.is_dictionary(kind))


def _names(table: ParquetTable) -> str:
    return ", ".join(table.names) or "no column"
