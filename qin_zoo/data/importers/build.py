"""Rows from interactions: histories and popularity that hold only what was known at a row's moment.

A row of user u at time t sees interactions strictly before t: those of the same time are not in each other's
history, whatever their order in the file. Under given splits it sees training rows only; where there are no times,
a validation or test row sees all its user's training rows, a training row those earlier in the order of the file.

``views_level`` and ``likes_level`` are how often the item was met and clicked by anyone strictly before t, as the
number of binary digits of that count, at most 10 (0; 1; 2-3; 4-7; …; 512 and more). Without times there is no
"before" across users, so logs without times get no such columns.

With ``known: all`` there are, besides:

``rate_level``  the share of clicks among the item's interactions strictly before t, drawn towards the share among all
    interactions before t as ten interactions would, in steps of 1/20: 1…20, and 0 for an item not met yet.
``user_views_level``, ``user_rate_level``  the same of the user's own interactions. Those of held-out rows stop where
    the user's rows of their split begin: a mean that goes on to grow while it is tested lowers gAUC by itself, since
    the clicks still to come are the fewer, the more it has counted.
``user``  the user's number, 0 for users without a training row, whose embedding nobody trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from qin_zoo.data.histories import gather_lists
from qin_zoo.data.importers.log import Events
from qin_zoo.data.importers.negatives import sample_negatives
from qin_zoo.data.item_files import column_array

ROWS_PER_CHUNK = 100_000
_TOP_LEVEL = 10
_RATE_STEPS = 20
_PRIOR_WEIGHT = 10


@dataclass(frozen=True)
class Rows:
    """Rows of a split.

    Attributes:
        source: (n,) the interaction that each row is, or was sampled for.
        item: (n,) the target.
        label: (n,) 0 or 1.
    """

    source: np.ndarray
    item: np.ndarray
    label: np.ndarray


def rows_of(events: Events, chosen: np.ndarray, negatives: int, seed: int) -> Rows:
    """The rows of the chosen interactions, (m,), by moment, each click followed by its sampled negatives."""
    source = chosen[np.argsort(events.moment[chosen], kind="stable")]
    item, label = events.item[source], events.click[source].astype(np.int8)
    if not negatives:
        return Rows(source, item, label)
    clicked = np.flatnonzero(label)
    drawn_for, drawn = sample_negatives(events, source[clicked], negatives, seed)
    rank = np.empty(len(events.user), np.int64)
    rank[source] = np.arange(len(source))
    order = np.argsort(np.concatenate([rank[source], rank[drawn_for]]), kind="stable")
    return Rows(
        np.concatenate([source, drawn_for])[order],
        np.concatenate([item, drawn])[order],
        np.concatenate([label, np.zeros(len(drawn), np.int8)])[order],
    )


class PointInTime:
    """What is known at a row's moment.

    Args:
        events: all interactions.
        split: (n,) each one's split.
        history: ``clicks`` or ``all``.
        known: ``levels`` or ``all``.
        beside: None, or the name of a column beside the ids of the history and (n,) its codes.

    Attributes:
        vocabularies: column -> number of its codes, of the columns besides those of every row.
    """

    def __init__(
        self,
        events: Events,
        split: np.ndarray,
        history: str,
        known: str = "levels",
        beside: tuple[str, np.ndarray] | None = None,
    ) -> None:
        given = events.given is not None
        self._events = events
        visible = split == 0 if given else np.ones(len(split), bool)
        place = events.place
        self._span = np.int64(max(events.moments, int(place.max()) + 1) + 1)
        self._now = place
        if given and not events.timed:
            self._now = np.where(split == 0, place, place.max() + 1)  # after every training row
        members = np.flatnonzero(visible & events.click if history == "clicks" else visible)
        self._history_keys, order = self._sorted(events.user[members], place[members])
        self._history = {"item_seq": events.item[members[order]].astype(np.int32)}
        if beside is not None:
            name, codes = beside
            self._history[name] = codes[members[order]]

        self._keys: dict[str, np.ndarray] = {}
        self.vocabularies: dict[str, int] = {}
        views, likes = np.flatnonzero(visible), np.flatnonzero(visible & events.click)
        if events.timed:
            self.vocabularies |= {"likes_level": _TOP_LEVEL + 1, "views_level": _TOP_LEVEL + 1}
            for name, members in (("likes", likes), ("views", views)):
                self._keys[name], _ = self._sorted(events.item[members], events.moment[members])
            counts, clicked = (np.bincount(events.moment[m], minlength=events.moments + 1) for m in (views, likes))
            self._before = np.cumsum(counts) - counts, np.cumsum(clicked) - clicked
        self._all = known == "all"
        if self._all:
            if events.timed:
                self.vocabularies["rate_level"] = _RATE_STEPS + 1
            self.vocabularies |= {"user_views_level": _TOP_LEVEL + 1, "user_rate_level": _RATE_STEPS + 1}
            self.vocabularies["user"] = int(events.user.max()) + 1
            for name, members in (("user_likes", likes), ("user_views", views)):
                self._keys[name], _ = self._sorted(events.user[members], place[members])
            self._trained = np.zeros(int(events.user.max()) + 1, np.int32)
            self._trained[events.user[split == 0]] = events.user[split == 0]
            self._as_of = self._begins(split)

    def _begins(self, split: np.ndarray) -> np.ndarray:
        """(n,) the row before which the user is looked at: itself, or the first of its user's in its held-out split."""
        owner = self._events.user * np.int64(3) + split
        order = np.lexsort((self._now, owner))
        _, first, group = np.unique(owner[order], return_index=True, return_inverse=True)
        begins = np.empty(len(split), np.int64)
        begins[order] = order[first[group]]
        return np.where(split == 0, np.arange(len(split)), begins)

    def _sorted(self, owner: np.ndarray, when: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = owner * self._span + when
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def _bounds(self, keys: np.ndarray, owner: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the owner's entries begin, and where those strictly before now end."""
        start = owner * self._span
        return np.searchsorted(keys, start), np.searchsorted(keys, start + now)

    def histories(self, source: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Columns (rows, length), padded with 0 on the left, newest last."""
        starts, ends = self._bounds(self._history_keys, self._events.user[source], self._now[source])
        return {
            name: gather_lists(values, starts, ends, length, dtype=values.dtype.type)
            for name, values in self._history.items()
        }

    def _count(self, name: str, owner: np.ndarray, now: np.ndarray) -> np.ndarray:
        starts, ends = self._bounds(self._keys[name], owner, now)
        return (ends - starts).astype(np.float64)

    def levels(self, source: np.ndarray, item: np.ndarray) -> dict[str, np.ndarray]:
        """(rows,) columns of :attr:`vocabularies`."""
        user, out = self._events.user[source], {}
        if self._events.timed:
            out = self._levels("", item, self._events.moment[source], self._prior(source))
        if self._all:
            as_of = self._as_of[source]
            out |= self._levels("user_", user, self._now[as_of], self._prior(as_of))
            out["user"] = self._trained[user]
        return out

    def _levels(
        self, whose: str, owner: np.ndarray, now: np.ndarray, prior: np.ndarray | float | None = None
    ) -> dict[str, np.ndarray]:
        """Those of :attr:`vocabularies` that are of items, or of users (``user_``); ``prior`` by default of all."""
        views, likes = (self._count(f"{whose}{name}", owner, now) for name in ("views", "likes"))
        if prior is None:
            prior = likes.sum() / max(views.sum(), 1) if self._events.timed else 0.5
        levels = {"likes": _digits(likes), "views": _digits(views), "rate": _rate(likes, views, prior)}
        named = {f"{whose}{name}_level": values for name, values in levels.items()}
        return {name: values for name, values in named.items() if name in self.vocabularies}

    def item_levels(self, items: int) -> dict[str, np.ndarray]:
        """(items + 1,) what a row after the whole log says of its item; item 0, padding, has zeros.

        That is what the next day's rows begin with, and what a service knows of a candidate.
        """
        item = np.arange(items + 1)
        return self._levels("", item, np.full(len(item), self._span - 1)) if self._events.timed else {}

    def user_state(self, users: int, length: int) -> dict[str, np.ndarray | pl.Series]:
        """(users + 1,) what a row after the whole log says of its user; user 0, nobody, has zeros and empty lists.

        Args:
            users: their number.
            length: entries of a history that are kept, the newest.
        """
        user, now = np.arange(users + 1), np.full(users + 1, self._span - 1)
        starts, ends = self._bounds(self._history_keys, user, now)
        starts = np.maximum(starts, ends - length)
        begins = np.concatenate([[0], np.cumsum(ends - starts)])
        entries = np.repeat(starts - begins[:-1], ends - starts) + np.arange(begins[-1])
        begins = column_array(begins)
        lists = {n: pa.LargeListArray.from_arrays(begins, column_array(v[entries])) for n, v in self._history.items()}
        state = {name: pl.Series(name, values) for name, values in lists.items()}
        if self._all:
            state |= self._levels("user_", user, now)
            state["user"] = np.pad(self._trained, (0, users + 1 - len(self._trained)))
        return state

    def of_new_users(self, rows: np.ndarray) -> float:
        """The share of the chosen (n,) rows whose ``user`` says nobody; 0 where there is no such column."""
        return float((self._trained[self._events.user[rows]] == 0).mean()) if self._all and rows.any() else 0.0

    def _prior(self, source: np.ndarray) -> np.ndarray:
        """(rows,) the share of clicks among all interactions before the rows; a half where that is not known."""
        if not self._events.timed:
            return np.full(len(source), 0.5)
        seen, clicked = (before[self._events.moment[source]] for before in self._before)
        return np.divide(clicked, seen, out=np.full(len(source), 0.5), where=seen > 0)

    def chunks(
        self, rows: Rows, length: int, of_users: Mapping[str, np.ndarray], context: Mapping[str, np.ndarray]
    ) -> Iterator[dict[str, np.ndarray]]:
        """The rows' columns, ``ROWS_PER_CHUNK`` at a time.

        Args:
            rows: of a split.
            length: of the histories.
            of_users: column -> (users + 1,) what a row says of its user.
            context: column -> (n,) what was known of each interaction.
        """
        for begin in range(0, len(rows.source), ROWS_PER_CHUNK):
            part = slice(begin, begin + ROWS_PER_CHUNK)
            source, item = rows.source[part], rows.item[part]
            yield {
                "user_id": self._events.user[source],
                "item_id": item,
                **self.histories(source, length),
                **self.levels(source, item),
                "label": rows.label[part],
                **{name: values[self._events.user[source]] for name, values in of_users.items()},
                **{name: values[source] for name, values in context.items()},
            }


def _digits(count: np.ndarray) -> np.ndarray:
    return np.minimum(np.frexp(count)[1], _TOP_LEVEL).astype(np.int8)


def _rate(clicks: np.ndarray, count: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
    rate = (clicks + _PRIOR_WEIGHT * prior) / (count + _PRIOR_WEIGHT)
    return np.where(count > 0, 1 + np.minimum(rate * _RATE_STEPS, _RATE_STEPS - 1), 0).astype(np.int8)
