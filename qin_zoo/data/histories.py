"""Histories as matrices: gathered for any rows at once from the lists of rows or of users.

What a history may be: a list of any length per row, ids with the newest last, zeros being padding wherever
they stand. One longer than the model asks for gives its newest items. Null lists or entries, negative ids,
numbers that are not integers and nested lists are refused when the column is converted (``stored.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from qin_zoo.data.sources import at
from qin_zoo.data.stored import Column, blocks
from qin_zoo.errors import ConfigError, DataError

_WINDOW = 64 << 20  # bytes of a column that are mapped at a time
_BUFFER = 64 << 20  # bytes of histories gathered ahead of their batches


class Histories(ABC):
    """The history of every row of a table, ``max_len`` items of it.

    A column of a gigabyte would end up in the process's memory page by page, since shuffled rows touch all of it.
    So big columns are read window by window, each window given back after use; that pays for many rows at once,
    wherefore loaders gather :meth:`rows_ahead` rows and cut batches from them.

    Args:
        column: the lists.
        max_len: items per history.
    """

    def __init__(self, column: Column, max_len: int) -> None:
        if isinstance(max_len, bool) or not isinstance(max_len, int) or max_len < 0:
            raise ConfigError(f"max_len: expected a whole number of history items, 0 or more, found {max_len!r}.")
        self.column, self.max_len = column, max_len

    @abstractmethod
    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows' histories begin and end among the column's entries, two (B,) int64 arrays."""

    def longest(self, rows: np.ndarray) -> int:
        """Items that FuxiCTR's loaders give rows (B,) of a batch: ``max_len``, unless histories stand once per user."""
        return self.max_len

    @property
    def windowed(self) -> bool:
        """Whether the column is read window by window."""
        return self.max_len > 0 and self.column.values.nbytes > 4 * _WINDOW

    def rows_ahead(self, batch_size: int) -> int:
        """How many rows to gather at once: one batch, or many of a big column."""
        if not self.windowed:
            return batch_size
        row = self.max_len * self.column.values.itemsize
        return max(1, _BUFFER // (row * batch_size)) * batch_size

    def gather(self, rows: np.ndarray, dtype: type[np.generic] | np.dtype = np.int64) -> np.ndarray:
        """(B, max_len) item ids of the rows (B,), padded with 0 on the left, newest last."""
        starts, ends = self.bounds(rows)
        if not self.windowed:
            return self._newest(starts, ends, dtype)
        out = np.empty((len(rows), self.max_len), dtype)
        step = _WINDOW // self.column.values.itemsize
        order = np.argsort(starts)
        cuts = np.searchsorted(starts[order], np.arange(step, self.column.values.size, step))
        for window, part in enumerate(np.split(order, cuts)):
            if part.size:
                out[part] = self._newest(starts[part], ends[part], dtype)
                self.column.release(window * step, (window + 1) * step)
        return out

    def _newest(self, starts: np.ndarray, ends: np.ndarray, dtype: type[np.generic] | np.dtype) -> np.ndarray:
        return gather_lists(self.column.values, starts, ends, self.max_len, dtype=dtype)


class RowHistories(Histories):
    """Histories that stand in the rows themselves.

    Args:
        column: a column of kind ``history``.
        max_len: items per history; 0 for a model that is blind to it. Default: the longest.
    """

    def __init__(self, column: Column, max_len: int | None = None) -> None:
        super().__init__(column, column.longest if max_len is None else max_len)

    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.column.bounds(rows)

    def _newest(self, starts: np.ndarray, ends: np.ndarray, dtype: type[np.generic] | np.dtype) -> np.ndarray:
        width = self.column.width
        if not width or width < self.max_len:
            return super()._newest(starts, ends, dtype)
        matrix = self.column.values.reshape(-1, width)  # whole rows at once: several times faster
        return matrix[starts // width, width - self.max_len :].astype(dtype, copy=False)


class UserHistories(Histories):
    """Histories that stand once per user: a row's is the first ``seq_len`` entries of its user's list.

    Args:
        column: the users' lists, a column of kind ``ids``.
        user_index: each row's user, a column of kind ``id``.
        seq_len: how many entries of the list the row has seen, a column of kind ``id``.
        max_len: as in :class:`RowHistories`. Default: the longest ``seq_len``.
        numbers: the users of the lists, a column of kind ``id``. Default: row i is user i.

    Raises:
        DataError: a user that the users' table has not, or has twice; more entries asked for than the list has.
    """

    def __init__(
        self,
        column: Column,
        user_index: Column,
        seq_len: Column,
        max_len: int | None = None,
        numbers: Column | None = None,
    ) -> None:
        super().__init__(column, int(seq_len.max) if max_len is None else max_len)
        self._user, self._seen = user_index, seq_len
        self._order = self._numbers = None  # the lists' rows by user, and the users in that order
        if numbers is not None and not np.array_equal(numbers.values, np.arange(column.rows)):
            self._order = np.argsort(numbers.values, kind="stable")
            self._numbers = numbers.values[self._order]
            self._check_users(numbers)
        else:
            user_index.check_below(column.rows, f"the rows of {column.path}")
        for rows in blocks(user_index.rows):
            begin, end = column.bounds(self._lists(rows))
            short = np.flatnonzero(end - begin < seq_len.values[rows])
            if short.size:
                row, has = rows[short[0]], (end - begin)[short[0]]
                raise DataError(
                    f"{at(seq_len.path, seq_len.name, row)}: expected at most {has}, the length of "
                    f"'{column.name}' of user {user_index.values[row]} in {column.path}; found "
                    f"{seq_len.values[row]}. Write both files from the same data."
                )

    def _check_users(self, numbers: Column) -> None:
        again = np.flatnonzero(self._numbers[1:] == self._numbers[:-1])
        if again.size:
            row = self._order[again[0] + 1]
            raise DataError(
                f"{at(numbers.path, numbers.name, row)}: expected each user once, found {numbers.values[row]} a second "
                "time. Keep one row for each user."
            )
        for rows in blocks(self._user.rows):
            users = self._user.values[rows]
            nearest = self._numbers.take(np.searchsorted(self._numbers, users), mode="clip")
            unknown = np.flatnonzero(nearest != users)
            if unknown.size:
                row = rows[unknown[0]]
                raise DataError(
                    f"{at(self._user.path, self._user.name, row)}: expected a user of the column '{numbers.name}' of "
                    f"{numbers.path}, found {self._user.values[row]}. Write both files from the same data."
                )

    def _lists(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the users' table with the histories of these rows."""
        users = self._user.values[rows]
        if self._order is not None:
            return self._order[np.searchsorted(self._numbers, users)]
        return users.astype(np.int64)

    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts, _ = self.column.bounds(self._lists(rows))
        return starts, starts + self._seen.values[rows]

    def longest(self, rows: np.ndarray) -> int:
        return min(self.max_len, int(self._seen.values[rows].max(initial=0)))


def gather_lists(
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    length: int,
    align: str = "right",
    dtype: type[np.generic] | np.dtype = np.int64,
) -> np.ndarray:
    """Lists as rows of a matrix.

    Args:
        values: the entries of all lists end to end.
        starts, ends: (B,) int64; list i is ``values[starts[i]:ends[i]]``.
        length: columns of the result.
        align: ``right`` keeps the last ``length`` entries and pads on the left; ``left`` the other way round.
        dtype: of the result.

    Returns:
        (B, length), 0 where a list has no entry.
    """
    if align == "right":
        index = ends[:, None] + np.arange(-length, 0)
        inside = index >= starts[:, None]
    else:
        index = starts[:, None] + np.arange(length)
        inside = index < ends[:, None]
    if values.size == 0:
        return np.zeros(index.shape, dtype)
    out = values.take(index, mode="clip").astype(dtype, copy=False)
    out *= inside
    return out
