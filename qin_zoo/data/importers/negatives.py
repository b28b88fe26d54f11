"""Negatives for logs that record clicks only.

For each click of a user, N items are drawn, with replacement and equally likely, from those of the catalogue that
the user had not touched up to and including the click's moment. What the user does later is not looked at: an item
clicked next week may be a negative today, as it may where real impressions are logged. Never drawing it would mark
the future clicks by their absence. Under given splits, the splits are the moments: a training negative is none of
the user's training items, and may be a test click. A click of a user who knows the whole catalogue gets no negatives.

The draws are a hash of the seed, the row and the draw's number, so no row's negatives depend on other rows.
"""

from __future__ import annotations

import numpy as np

from qin_zoo.data.importers.log import Events, hashed

_ROUNDS = 40  # enough unless a user knows most of the catalogue; the few rows left are then drawn exactly


def sample_negatives(events: Events, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws ``count`` items for each of ``rows``, (n,).

    Returns:
        the rows they belong to and the items, two arrays of one length, in the order of ``rows``.
    """
    touched = _Touched(events)
    source = np.repeat(rows, count)
    number = np.tile(np.arange(count), len(rows))
    when = events.moment[source] if events.given is None else 0  # held-out rows must not shift the others' draws
    noise = hashed(seed, events.user[source], events.item[source], when, number)
    item = np.zeros(len(source), np.int32)
    open_ = np.arange(len(source))
    for turn in range(_ROUNDS):
        if not open_.size:
            break
        drawn = (hashed(turn, noise[open_]) % np.uint64(events.items)).astype(np.int32) + 1
        good = ~touched.by(source[open_], drawn)
        item[open_[good]] = drawn[good]
        open_ = open_[~good]
    for place in open_:
        free = touched.untouched(source[place])
        if free.size:
            item[place] = free[int(noise[place] % np.uint64(free.size))]
    kept = item > 0
    return source[kept], item[kept]


class _Touched:
    """When each user first touched an item."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._when = events.moment if events.given is None else events.given.astype(np.int64)
        key = self._key(events.user, events.item)
        order = np.lexsort((self._when, key))
        self._pairs, first = np.unique(key[order], return_index=True)
        self._first = self._when[order][first]

    def _key(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return user * np.int64(self._events.items + 1) + item

    def by(self, rows: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether the rows' users had touched the items by the rows' moments."""
        key = self._key(self._events.user[rows], item)
        place = np.minimum(np.searchsorted(self._pairs, key), len(self._pairs) - 1)
        return (self._pairs[place] == key) & (self._first[place] <= self._when[rows])

    def untouched(self, row: int) -> np.ndarray:
        """The items that the row's user had not touched by its moment."""
        user = np.int64(self._events.user[row])
        begin, end = np.searchsorted(self._pairs, self._key(np.array([user, user + 1]), np.int64(0)))
        known = self._pairs[begin:end][self._first[begin:end] <= self._when[row]] - self._key(user, np.int64(0))
        return np.setdiff1d(np.arange(1, self._events.items + 1), known)
