"""FeSAIL's choice of rows to train again (Fu et al., IJCAI 2023: eqs. 1 and 2, algorithm 1)."""

from __future__ import annotations

import heapq

import numpy as np

FUNCTIONS = ("inverse", "exp")
# Weights are whole multiples of 1/_UNIT, sums of which are exact, so that rows that cover as much tie; it is a multiple
# of 1 to 20: so are sums of 1/s.
_UNIT = 232_792_560 << 10


def aged(staleness: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Eq. 1: periods since each value last occurred, (V,).

    Args:
        staleness: the same after the period before, (V,); 0 for all at first.
        occurs: whether each value occurs in this period, (V,); padding is to count as occurring.
    """
    return np.where(occurs, 0, staleness + 1)


def weights_of(staleness: np.ndarray, function: str = "inverse", bias: float = 1.0) -> np.ndarray:
    """Eq. 2: what covering each value is worth, (V,) float64; nothing where it is not stale.

    Args:
        staleness: (V,).
        function: ``inverse``, 1/s, or ``exp``, exp(-s): what went stale lately is worth more.
        bias: added to it.
    """
    s = staleness.astype(np.float64)
    worth = 1 / np.maximum(s, 1) if function == "inverse" else np.exp(-s)
    return np.where(s > 0, worth + bias, 0.0)


def cover(starts: np.ndarray, values: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1, greedy maximum weighted coverage: the rows in the order in which they are chosen, and their gains.

    Each time the row whose values that are not covered yet weigh most; of equals the first. It ends early when no row
    adds anything. A row's gain only shrinks, so only rows at the top of a heap of old gains are looked at again.

    Args:
        starts: (N + 1,); row i holds ``values[starts[i]:starts[i + 1]]``, each at most once.
        values: which they are.
        weights: (V,), at least 0.
        count: rows to choose, at most.
    """
    left = np.rint(weights * _UNIT).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(left[values])])
    gains = sums[starts[1:]] - sums[starts[:-1]]
    heap = [(-gain, row) for row, gain in enumerate(gains.tolist()) if gain]
    heapq.heapify(heap)
    worth, held, begins = left.tolist(), values.tolist(), starts.tolist()
    chosen, gained = [], []
    while heap and len(chosen) < count:
        row = heap[0][1]
        mine = held[begins[row] : begins[row + 1]]
        gain = sum(map(worth.__getitem__, mine))
        if not gain:
            heapq.heappop(heap)
            continue
        if (-gain, row) != heap[0]:
            heapq.heapreplace(heap, (-gain, row))
            continue
        heapq.heappop(heap)
        chosen.append(row)
        gained.append(gain)
        for value in mine:
            worth[value] = 0
    return np.array(chosen, np.int64), np.array(gained, np.float64) / _UNIT
