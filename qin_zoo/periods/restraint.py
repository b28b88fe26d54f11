"""FeSAIL's regulariser of what is stale (Fu et al., IJCAI 2023: eqs. 3 and 4), as its proximal step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.fuxi import FeatureEmbeddingDict


def tables_of(model: nn.Module, sizes: Mapping[str, int]) -> dict[str, list[nn.Parameter]]:
    """Of each feature the trained weights that have a row for each of its values.

    Args:
        model: any FuxiCTR model.
        sizes: feature -> values.
    """
    found: dict[str, list[nn.Parameter]] = {name: [] for name in sizes}
    for layer in model.modules():
        if isinstance(layer, FeatureEmbeddingDict):
            for name in sizes.keys() & layer.embedding_layers.keys():
                rows = (p for p in layer.embedding_layers[name].parameters() if p.requires_grad)
                found[name] += [p for p in rows if p.dim() == 2 and len(p) == sizes[name]]
    return found


class Restraint:
    """Holds back the rows of stale values: the loss of a mini-batch is ``CE + λ Σ_i g_i``,

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
