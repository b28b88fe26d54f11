"""FeSAIL (Fu et al., IJCAI 2023): its choice of rows to train again, and its regulariser of what is stale."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.fuxi import FeatureEmbeddingDict

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


def tables_of(model: nn.Module, sizes: Mapping[str, int]) -> dict[str, list[nn.Parameter]]:
    """Of each feature of a FuxiCTR model, with so many values, the trained weights that have a row for each of them."""
    found: dict[str, list[nn.Parameter]] = {name: [] for name in sizes}
    for layer in model.modules():
        if isinstance(layer, FeatureEmbeddingDict):
            for name in sizes.keys() & layer.embedding_layers.keys():
                rows = (p for p in layer.embedding_layers[name].parameters() if p.requires_grad)
                found[name] += [p for p in rows if p.dim() == 2 and len(p) == sizes[name]]
    return found


class Restraint:
    """Eqs. 3 and 4: holds back the rows of stale values. The loss of a mini-batch is ``CE + λ Σ_i g_i``,

        g_i = min(s_i, η) / min(s_max, η) · ‖e_i − e_i'‖₂,

    e_i' being the row as the batch before has left it. That is where the batch's step begins, so the gradient of g_i is
    nil there whatever e_i'; what minimises the sum to first order is the proximal step. So the optimiser does its own
    step, then each row's movement is made shorter by ``lr · λ · min(s_i, η) / min(s_max, η)``, and one that is no
    longer than this is taken back. Where nothing has moved nothing is changed.

    Args:
        tables: feature -> weights (V, d).
        staleness: feature -> periods since each value last occurred, (V,).
        limit: η; more staleness counts no more.
        strength: λ, of the mean loss over a batch. 0 for none.
    """

    def __init__(
        self,
        tables: Mapping[str, list[nn.Parameter]],
        staleness: Mapping[str, np.ndarray],
        limit: int = 5,
        strength: float = 1.0,
    ) -> None:
        most = min(max((int(s.max(initial=0)) for s in staleness.values()), default=0), limit)
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, weights in tables.items():
            rows = np.flatnonzero(staleness[name])
            if not len(rows) or not strength:
                continue
            scale = strength * np.minimum(staleness[name][rows], limit) / most
            for weight in weights:
                rows_there = torch.from_numpy(rows).to(weight.device)
                self._held.append((weight, rows_there, torch.from_numpy(scale).to(weight)))
        self._before: list[Tensor] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Restrains every step of the optimiser from now on."""
        if self._held:
            optimizer.register_step_pre_hook(lambda *_: self._remember())
            optimizer.register_step_post_hook(lambda optimizer, *_: self._hold(optimizer.param_groups[0]["lr"]))

    @torch.no_grad()
    def _remember(self) -> None:
        self._before = [weight[rows] for weight, rows, _ in self._held]

    @torch.no_grad()
    def _hold(self, rate: float) -> None:
        for (weight, rows, scale), before in zip(self._held, self._before):
            moved = weight[rows] - before
            length = moved.norm(dim=1)
            kept = (1 - rate * scale / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(min=0)
            weight[rows] = before + moved * kept.unsqueeze(1)
