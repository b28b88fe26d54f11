"""The local activation unit of the Deep Interest Network (Zhou et al., KDD 2018, §4.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qin_zoo.layers.history import History, dense
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import weighted_sum


class DINAttention(InterestLayer):
    """Pools the history with weights from an MLP on ``[t; h_l; t − h_l; t ⊙ h_l]``.

    The MLP runs over every position, padding too: statistics of a batch norm or Dice inside it depend on
    that, and the published checkpoints were trained so.

    Args:
        attention_layer: module (B·L, 4·D) -> (B·L, 1), such as FuxiCTR's ``MLP_Block``.
        use_softmax: normalise the weights over the history. Default: the plain, unnormalised weights.
    """

    def __init__(self, attention_layer: nn.Module, use_softmax: bool = False):
        super().__init__()
        self.attention_layer = attention_layer
        self.use_softmax = use_softmax

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        h = dense(history)  # (B, L, D)
        batch, length, dim = h.shape
        if length == 0:  # an MLP with batch norm cannot run on no rows
            return torch.zeros_like(target)
        t = target.unsqueeze(1).expand(-1, length, -1)  # (B, L, D)
        features = torch.cat([t, h, t - h, t * h], dim=-1).view(-1, 4 * dim)
        weight = self.attention_layer(features).view(batch, length) * mask  # (B, L)
        if self.use_softmax:
            weight = (weight - 1e9 * (~mask.bool()).float()).softmax(dim=-1)
        return weighted_sum(weight, h)
