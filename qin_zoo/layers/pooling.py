"""Pooling a history to one vector: by its mean, or by attention with weights that sum to one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qin_zoo.layers.history import History, SharedHistory, item_scores, weighted_sum
from qin_zoo.layers.interest import InterestLayer


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension's true places; zeros elsewhere, and everywhere where none is true.

    Args:
        score: (…, L).
        mask: (…, L), true where there is something to weigh.

    Returns:
        (…, L).
    """
    mask = mask.bool()
    return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(dim=-1) * mask


class MeanPooling(InterestLayer):
    """The mean of the history's real items; zeros for a row without any. It ignores the target."""

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        real = mask.float()
        return real / real.sum(dim=1, keepdim=True).clamp(min=1)

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        shared = isinstance(history, SharedHistory)
        mean = weighted_sum(self.weights(target, history, mask[:1] if shared else mask), history)
        return mean.expand(history.rows, -1) if shared else mean


class TargetAttentionPooling(InterestLayer):
    """Softmax attention by the target: ``a_l ∝ exp((W t)·h_l / √D)`` over real items, ``o = Σ_l a_l h_l``.

    The multiplicative ("general") attention of Luong et al., EMNLP 2015, scaled as in Vaswani et al., NeurIPS
    2017. A row without any history gives zeros.

    Args:
        input_dim: D, size of an item representation.
    """

    def __init__(self, input_dim: int):
        super().__init__()
        self.scale = input_dim**-0.5
        self.query = nn.Linear(input_dim, input_dim, bias=False)

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        score = item_scores(self.query(target), history) * self.scale  # (B, L)
        return masked_softmax(score, mask)

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        return weighted_sum(self.weights(target, history, mask), history)
