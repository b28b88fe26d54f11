"""Pooling a history to one vector: by its mean, or by attention with weights that sum to one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qin_zoo.layers.history import History, dense
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


def weighted_sum(weight: Tensor, h: Tensor) -> Tensor:
    """``Σ_l weight_l h_l``: (B, L) and (B, L, D) to (B, D)."""
    return torch.bmm(weight.unsqueeze(1), h).squeeze(1)


class MeanPooling(InterestLayer):
    """The mean of the history's real items; zeros for a row without any. It ignores the target."""

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        h = dense(history)  # (B, L, D)
        real = mask.to(h.dtype)
        return weighted_sum(real / real.sum(dim=1, keepdim=True).clamp(min=1), h)


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

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        h = dense(history)  # (B, L, D)
        score = torch.bmm(h, self.query(target).unsqueeze(2)).squeeze(2) * self.scale  # (B, L)
        return weighted_sum(masked_softmax(score, mask), h)
