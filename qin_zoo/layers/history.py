"""How a layer receives the user's history: as vectors, or as an index into a table of item representations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class ItemRows(NamedTuple):
    """A history given as rows of a table, so that each distinct item is represented only once.

    Attributes:
        table: (U, D) representations of the distinct items.
        index: (B, L) int64 rows of ``table``.
    """

    table: Tensor
    index: Tensor

    def dense(self) -> Tensor:
        """The vectors themselves, (B, L, D)."""
        return F.embedding(self.index, self.table)


History = Tensor | ItemRows


def dense(history: History) -> Tensor:
    """``history`` as vectors (B, L, D), whichever way it came."""
    return history.dense() if isinstance(history, ItemRows) else history


def map_items(function: Callable[[Tensor], Tensor], history: History) -> History:
    """Applies a function of single items, (…, D) -> (…, E), to a history: once per distinct item where it can."""
    if isinstance(history, ItemRows):
        return ItemRows(function(history.table), history.index)
    return function(history)
