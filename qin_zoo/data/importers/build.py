"""Rows from interactions: histories and popularity that hold only what was known at a row's moment.

A row of user u at time t sees interactions strictly before t: those of the same time are not in each other's
history, whatever their order in the file. Under given splits it sees training rows only; where there are no times,
a validation or test row sees all its user's training rows, a training row those earlier in the order of the file.

``views_level`` and ``likes_level`` are how often the item was met and clicked by anyone strictly before t, as the
number of binary digits of that count, at most 10 (0; 1; 2-3; 4-7; …; 512 and more). Without times there is no
"before" across users, so logs without times get no such columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qin_zoo.data.histories import gather_lists
from qin_zoo.data.importers.log import Events
from qin_zoo.data.importers.negatives import sample_negatives

ROWS_PER_CHUNK = 100_000
_TOP_LEVEL = 10


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
    """The rows of the chosen interactions by moment, each click followed by its sampled negatives."""
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


class Known:
    """What is known at a row's moment.

    Args:
        events: all interactions.
        split: (n,) each one's split.
        history: ``clicks`` or ``all``.
    """

    def __init__(self, events: Events, split: np.ndarray, history: str) -> None:
        given = events.given is not None
        self._events = events
        self._span = np.int64(events.moments + 1)
        visible = split == 0 if given else np.ones(len(split), bool)
        self._now = events.moment
        if given and not events.timed:
            self._now = np.where(split == 0, events.moment, events.moments)  # after every training row
        members = np.flatnonzero(visible & events.click if history == "clicks" else visible)
        self._history_keys, order = self._sorted(events.user[members], members)
        self._history = events.item[members[order]]
        self.levels: dict[str, np.ndarray] = {}
        if events.timed:
            for name, mask in (("likes_level", visible & events.click), ("views_level", visible)):
                members = np.flatnonzero(mask)
                self.levels[name], _ = self._sorted(events.item[members], members)

    def _sorted(self, owner: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = owner * self._span + self._events.moment[members]
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def _bounds(self, keys: np.ndarray, owner: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the owner's entries begin, and where those strictly before the row's moment end."""
        start = owner * self._span
        return np.searchsorted(keys, start), np.searchsorted(keys, start + self._now[source])

    def histories(self, source: np.ndarray, length: int) -> np.ndarray:
        """(rows, length) int32, padded with 0 on the left, newest last."""
        starts, ends = self._bounds(self._history_keys, self._events.user[source], source)
        return gather_lists(self._history, starts, ends, length, dtype=np.int32)

    def level(self, name: str, source: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(rows,) 0…10: how popular the items were at the moments of the rows."""
        starts, ends = self._bounds(self.levels[name], item, source)
        return np.minimum(np.frexp((ends - starts).astype(np.float64))[1], _TOP_LEVEL).astype(np.int8)

    def chunks(self, rows: Rows, length: int) -> Iterator[dict[str, np.ndarray]]:
        """The rows' columns, ``ROWS_PER_CHUNK`` at a time."""
        for begin in range(0, len(rows.source), ROWS_PER_CHUNK):
            part = slice(begin, begin + ROWS_PER_CHUNK)
            source, item = rows.source[part], rows.item[part]
            yield {
                "user_id": self._events.user[source],
                "item_id": item,
                "item_seq": self.histories(source, length),
                **{name: self.level(name, source, item) for name in self.levels},
                "label": rows.label[part],
            }
