"""Interactions in one form, whatever format they came in, and their numbering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.histories import gather_lists


@dataclass
class Side:
    """What a source says of its items, or of its users, one entry for each in the order of ``ids``.

    Attributes:
        ids: original ids, without repetition.
        categories: column -> text values, null where unknown.
        lists: column -> lists of text values.
        numbers: column -> (n,) float64, NaN where unknown.
        texts: column -> text for people, the title first.
        embeddings: modality -> (n, width).
        graph: None, or the columns ``id`` and ``fact`` ("relation:entity", "~relation:entity" where the item is
            the relation's tail).
    """

    ids: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.Int64))
    categories: dict[str, pl.Series] = field(default_factory=dict)
    lists: dict[str, pl.Series] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, pl.Series] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    graph: pl.DataFrame | None = None


@dataclass
class InteractionLog:
    """The interactions of a data set in the order of its file, original ids.

    Attributes:
        path: the file, for messages.
        user, item: original ids, integers or text.
        time: (n,) or None.
        columns: what else a row holds, and a label may be made from: column -> its numbers, read where they are needed,
            since one that is not may hold anything.
        others: columns that are no single values, and left out.
        given: None, or (n,) the split that the source put a row in: 0 train, 1 valid, 2 test.
        cut_in_time: whether the given splits follow each other in time, so that held-out rows see earlier ones.
        order: None, or (n,) each row's place among its user's, where the source is surer of it than of the times.
        default_label: the label rule that suits the source.
        defaults: options that suit the source, where none is asked for.
        items, users: what is known of them; of users categories and numbers alone.
        context, context_numbers: such columns of what was known of each interaction before its click.
        new: None, or (n,) which interactions an earlier import does not hold.
        kept: None, or the interactions as a later import needs them.
        set_aside: None, or the rows that could not be used: file, line, reason, row.
        taken: of one's own files: file, column, what it was taken for, and what it holds.
        notes: what was left out, or decided, while reading.
    """

    path: Path
    user: pl.Series
    item: pl.Series
    time: np.ndarray | None = None
    columns: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    given: np.ndarray | None = None
    cut_in_time: bool = False
    order: np.ndarray | None = None
    default_label: str = "implicit"
    defaults: dict[str, str] = field(default_factory=dict)
    items: Side = field(default_factory=Side)
    users: Side = field(default_factory=Side)
    context: dict[str, pl.Series] = field(default_factory=dict)
    context_numbers: dict[str, np.ndarray] = field(default_factory=dict)
    new: np.ndarray | None = None
    kept: pl.DataFrame | None = None
    set_aside: pl.DataFrame | None = None
    taken: list[tuple[str, str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def at(self, column: str, row: int) -> str:
        """The place of a value, for messages; of one's own table no row, since some were set aside."""
        return f"{self.path}, column '{column}'" + (f", data row {row + 1}" if self.kept is None else "")


@dataclass(frozen=True)
class Events:
    """Numbered interactions in the order of the file.

    Attributes:
        user, item: (n,) int32, from 1.
        click: (n,) bool.
        moment: (n,) int64, from 0. Equal moments are the same time; without times, every row has its own.
        timed: whether the moments are times.
        given: None, or (n,) the source's splits, where the rows are split by them.
        items: size of the catalogue, padding not counted.
        order: None, or (n,) each one's place among its user's, from 0; None: the moment.
    """

    user: np.ndarray
    item: np.ndarray
    click: np.ndarray
    moment: np.ndarray
    timed: bool
    given: np.ndarray | None
    items: int
    order: np.ndarray | None = None

    @property
    def moments(self) -> int:
        """One more than the greatest moment."""
        return int(self.moment.max()) + 1

    @property
    def place(self) -> np.ndarray:
        """(n,) what puts a user's interactions in order."""
        return self.moment if self.order is None else self.order


class Numbering:
    """Original ids -> 1, 2, … in the order of the original ids: an id's number says nothing of when it appeared.

    Args:
        series: columns of ids.
        known: ids that have the numbers from 1 on already; the others come behind.
    """

    def __init__(self, *series: pl.Series, known: pl.Series | None = None) -> None:
        known = pl.Series([], dtype=pl.Int64) if known is None else known
        parts = [s for s in (known, *series) if len(s)]
        dtype = pl.Int64 if all(s.dtype.is_integer() for s in parts) else pl.String
        known = known.cast(dtype)
        ids = pl.concat([s.cast(dtype).unique() for s in parts]).unique().sort()
        self.known = len(known)
        self.ids = pl.concat([known, ids.filter(~ids.is_in(known.implode()))])
        self._order = np.argsort(self.ids.to_numpy(), kind="stable") if dtype == pl.Int64 else np.empty(0)

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, series: pl.Series) -> np.ndarray:
        """(n,) int32; every id must be known."""
        series = series.cast(self.ids.dtype)
        if self.ids.dtype == pl.Int64:
            place = np.searchsorted(self.ids.to_numpy(), series.to_numpy(), sorter=self._order)
            return (self._order[place] + 1).astype(np.int32)
        return codes_of(series, self.ids)

    def written(self, before: pl.Series | None) -> pl.Series:
        """The ids by number, those of an earlier import as it has written them."""
        if before is None:
            return self.ids
        dtype = pl.String if pl.String in (before.dtype, self.ids.dtype) else pl.Int64
        return pl.concat([before.cast(dtype), self.ids[self.known :].cast(dtype)])


def moments(log: InteractionLog) -> np.ndarray:
    """(n,) each row's moment, see :class:`Events`."""
    if log.time is None:
        return np.arange(len(log.user), dtype=np.int64)
    return pl.Series(log.time).rank("dense").to_numpy().astype(np.int64) - 1


def sorted_by_item(user: np.ndarray, item: np.ndarray) -> bool:
    """Whether every user's items (n,) ascend in the file, so that its order says nothing of when they came."""
    if len(user) < 2:
        return False
    order = np.argsort(user, kind="stable")
    same = user[order][1:] == user[order][:-1]
    return bool(same.any()) and bool((item[order][1:] >= item[order][:-1])[same].all())


def hashed(seed: int, *parts: np.ndarray | int) -> np.ndarray:
    """(n,) uint64 noise that depends on the seed and the parts, (n,) each, alone (splitmix64)."""
    state = np.zeros(1, np.uint64)
    for part in (np.uint64(seed % 2**64), *parts):
        with np.errstate(over="ignore"):
            state = state ^ np.asarray(part).astype(np.uint64)
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def codes_of(text: pl.Series, words: pl.Series | Sequence[str]) -> np.ndarray:
    """(n,) int32 codes, from 1 on; 0 for what is none of the words."""
    codes = text.cast(pl.Enum(words), strict=False).to_physical().cast(pl.Int64)
    return (codes.fill_null(-1).to_numpy() + 1).astype(np.int32)


def padded(lists: pl.Series, align: str) -> np.ndarray:
    """(n, longest) the entries of lists, filled up with 0 or empty text; ``align`` as of ``gather_lists``."""
    lists = lists.arr.to_list() if isinstance(lists.dtype, pl.Array) else lists
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    entries = lists.explode(empty_as_null=False, keep_nulls=False).to_numpy()
    ends, width = np.cumsum(lengths), max(int(lengths.max(initial=0)), 1)
    index = gather_lists(np.arange(1, len(entries) + 1), ends - lengths, ends, width, align=align)
    nothing = np.array([""], object) if entries.dtype == object else np.zeros(1, entries.dtype)
    return np.concatenate([nothing, entries])[index]
