"""FuxiCTR's layers in evaluation; our own say themselves how they are folded."""

from __future__ import annotations

from torch import Tensor, nn

from qin_zoo import fuxi
from qin_zoo.layers import CrossNetMix


def side_by_side(layer: fuxi.CrossNetMix) -> CrossNetMix:
    """FuxiCTR's layer as ours, which takes no product for each row and expert, and any number of rows."""
    (experts, n, rank), layers = layer.U_list[0].shape, len(layer.U_list)
    ours = CrossNetMix(n, layers, rank, experts)
    ours.load_state_dict(layer.state_dict())
    return ours.eval()


class FoldedMean(nn.Module):
    """``MaskedAveragePooling``, where without any item the exporter would lose the 1e-12 that 0 is divided by."""

    def __init__(self, layer: nn.Module):
        super().__init__()

    def forward(self, embedded: Tensor) -> Tensor:
        """(B, L, D) to (B, D)."""
        items = (embedded.sum(dim=2, keepdim=True) != 0).float().sum(dim=1)
        return embedded.sum(dim=1) / items.clamp(min=1)


FOREIGN = {fuxi.CrossNetMix: side_by_side, fuxi.MaskedAveragePooling: FoldedMean}
