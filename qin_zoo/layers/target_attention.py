"""Multi-head target attention, as FuxiCTR's layer of this name computes it, at a fraction of its arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qin_zoo.layers.history import History, SharedHistory, item_scores, weighted_sum
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax


def head_scores(query: Tensor, key: Tensor, history: History) -> Tensor:
    """``(q^k)·(W^k h_l)`` of each head, computed as ``((W^k)ᵀ q^k)·h_l``: no history position is projected.

    Args:
        query: (B, K, d).
        key: (K, d, D), the keys' projection head by head.
        history: (B, L, D), item rows, or a shared history, whose keys are projected, once for all rows.

    Returns:
        (B, K, L).
    """
    if isinstance(history, SharedHistory):
        return torch.einsum("bkd,lkd->bkl", query, torch.einsum("le,kde->lkd", history.items, key))
    return item_scores(torch.einsum("bkd,kde->bke", query, key), history)


def head_sums(weight: Tensor, value: Tensor, history: History) -> Tensor:
    """``Σ_l w_l^k W^k h_l`` of each head, computed as ``W^k Σ_l w_l^k h_l``; of a shared history once for all rows.

    Args:
        weight: (B, K, L).
        value: (K, d, D), the values' projection head by head.
        history: (B, L, D), item rows, or a shared history.

    Returns:
        (B, K, d).
    """
    if isinstance(history, SharedHistory):
        return torch.einsum("bkl,lkd->bkd", weight, torch.einsum("le,kde->lkd", history.items, value))
    return torch.einsum("bke,kde->bkd", weighted_sum(weight, history), value)


class MultiHeadTargetAttention(InterestLayer):
    """The target attends to the history: softmax of scaled dot products, one for each head.

    Head k has the rows ``W_q^k``, ``W_k^k``, ``W_v^k`` of bias-free projections:
    ``a^k = softmax_l( (W_q^k t)·(W_k^k h_l) / √d )`` over the items of the history, with d the size of a head, and
    ``o = W_o [ Σ_l a_l^1 W_v^1 h_l ; … ]``. Computed as ``((W_k^k)ᵀ W_q^k t)·h_l`` and ``W_v^k Σ_l a_l^k h_l``, so
    that no history position is projected; exact up to rounding, and with dropout of the weights just as well.
    Names and shapes of the weights, and with one seed the dropped ones, are those of FuxiCTR's
    ``MultiHeadTargetAttention``. Unlike there, a row without any history gives zeros, not the mean of its padding.

    Args:
        input_dim: D, size of an item representation.
        attention_dim: size of the projections, all heads together. Default: ``input_dim``.
        num_heads: K, number of heads; divides ``attention_dim``.
        dropout_rate: dropout rate of the attention weights.
        use_scale: divide the dot products by √d.
        use_qkvo: project; without, ``attention_dim`` is D and heads are slices of the vectors themselves.
    """

    def __init__(
        self,
        input_dim: int,
        attention_dim: int | None = None,
        num_heads: int = 1,
        dropout_rate: float = 0.0,
        use_scale: bool = True,
        use_qkvo: bool = True,
    ):
        super().__init__()
        attention_dim = attention_dim if attention_dim and use_qkvo else input_dim
        if num_heads < 1 or attention_dim % num_heads:
            raise ValueError(
                f"attention_dim {attention_dim} cannot be split into num_heads {num_heads} heads of one size: choose "
                "num_heads so that it divides attention_dim."
            )
        self.num_heads = num_heads
        self.scale = (attention_dim // num_heads) ** -0.5 if use_scale else 1.0
        self.W_q, self.W_k, self.W_v, self.W_o = (
            nn.Linear(*sizes, bias=False) if use_qkvo else nn.Identity()
            for sizes in 3 * [(input_dim, attention_dim)] + [(attention_dim, input_dim)]
        )
        self.dropout = nn.Dropout(dropout_rate)

    def by_head(self, projection: nn.Module, like: Tensor) -> Tensor:
        """The rows of a projection of vectors like (…, D), head by head: (K, d, D)."""
        weight = getattr(projection, "weight", None)
        weight = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device) if weight is None else weight
        return weight.unflatten(0, (self.num_heads, -1))

    def queries(self, target: Tensor) -> Tensor:
        """(B, K, d)."""
        return self.W_q(target).unflatten(1, (self.num_heads, -1))

    def scores(self, target: Tensor, history: History) -> Tensor:
        """The scaled dot products of each head with each place of the history, (B, K, L)."""
        return head_scores(self.queries(target), self.by_head(self.W_k, target), history) * self.scale

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        """(B, K, L), those of each head; in training with dropout."""
        return self.dropout(masked_softmax(self.scores(target, history), mask.unsqueeze(1)))

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        weight = self.weights(target, history, mask)  # (B, K, L)
        value = head_sums(weight, self.by_head(self.W_v, target), history)  # (B, K, d)
        return self.W_o(value.flatten(1))
