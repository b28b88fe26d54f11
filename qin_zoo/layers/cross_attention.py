"""Cross-attention of the target to the history (DIN_att6 and DIN_att_emb_rms, WWW 2025 MM-CTR challenge)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.history import History, SharedHistory, dense, map_items
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax
from qin_zoo.layers.target_attention import head_scores, head_sums


class RMSNorm(nn.RMSNorm):
    """PyTorch's, in the precision of its weight: under autocast what comes from a product is in a shorter one."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return super().forward(x.to(self.weight.dtype))


class CrossAttention(InterestLayer):
    """Multi-head attention of one query to the history, each projection being two linear maps in a row.

    ``MHA(W_q q + b_q, W_k h + b_k, W_v h + b_v)`` with the in- and out-projections of PyTorch's ``MultiheadAttention``.
    Both maps of each pair are multiplied to one; keys and values are then computed as ``MultiHeadTargetAttention``
    does, so that no history position is projected. A key's bias adds the same to all scores of a query, which a softmax
    does not see. A row without any history gives the output of a value of zeros: the out-projection's bias.

    Args:
        dim: D, size of query and items.
        num_heads: K, a divisor of D.
        norm: RMS norm of what comes out.
    """

    def __init__(self, dim: int, num_heads: int, norm: bool = False):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide the size of an item ({dim} numbers), got {num_heads}.")
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = RMSNorm(dim) if norm else nn.Identity()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5

    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Weight and bias of the query's map, weight of the keys', weight and bias of the values': (D, D), (D,)."""
        inner, biases = self.multihead_attn.in_proj_weight.chunk(3), self.multihead_attn.in_proj_bias.chunk(3)
        outer = (self.query_proj, self.key_proj, self.value_proj)
        q, k, v = (w @ linear.weight for w, linear in zip(inner, outer))
        b_q, _, b_v = (torch.mv(w, linear.bias) + b for w, linear, b in zip(inner, outer, biases))
        return q, b_q, k, v, b_v

    def out(self, value: Tensor) -> Tensor:
        """Of the heads' values (…, D) what comes out, (…, D)."""
        return self.norm(self.multihead_attn.out_proj(value))

    def weights(self, query: Tensor, history: History, mask: Tensor) -> Tensor:
        """(B, K, L), those of each head."""
        w_q, b_q, w_k, *_ = self.maps()
        return self._weights(F.linear(query, w_q, b_q), w_k, history, mask)

    def _weights(self, query: Tensor, w_k: Tensor, history: History, mask: Tensor) -> Tensor:
        query = query.unflatten(1, (self.num_heads, -1))  # (B, K, d)
        score = head_scores(query, w_k.unflatten(0, (self.num_heads, -1)), history)  # (B, K, L)
        return masked_softmax(score * self.scale, mask.unsqueeze(1))

    def forward(self, query: Tensor, history: History, mask: Tensor) -> Tensor:
        w_q, b_q, w_k, w_v, b_v = self.maps()
        weight = self._weights(F.linear(query, w_q, b_q), w_k, history, mask)  # (B, K, L)
        value = head_sums(weight, w_v.unflatten(0, (self.num_heads, -1)), history).flatten(1)  # (B, D)
        return self.out(value + b_v * mask.any(dim=1, keepdim=True))

    def among(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """One query for each position of a history: (B, L, D), (B, L, D), (B, L) to (B, L, D)."""
        w_q, b_q, w_k, w_v, b_v = self.maps()
        query, key, value = (
            F.linear(x, w, b).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in ((query, w_q, b_q), (history, w_k, None), (history, w_v, b_v))
        )  # (B, K, L, d)
        weight = masked_softmax(query @ key.transpose(2, 3) * self.scale, mask[:, None, None])  # (B, K, L, L)
        return self.out((weight @ value).transpose(1, 2).flatten(2))

    @torch.no_grad()
    def folded(self) -> FoldedCrossAttention:
        """The same for scoring: each pair of maps is one matrix."""
        return FoldedCrossAttention(self)


class FoldedCrossAttention(CrossAttention):
    """:class:`CrossAttention` with its pairs of maps multiplied once and for all.

    Args:
        layer: the layer to fold.
    """

    def __init__(self, layer: CrossAttention):
        nn.Module.__init__(self)
        self.num_heads, self.scale = layer.num_heads, layer.scale
        self.out_proj, self.norm = layer.multihead_attn.out_proj, layer.norm
        for name, values in zip(("w_q", "b_q", "w_k", "w_v", "b_v"), layer.maps()):
            self.register_buffer(name, values)

    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.w_q, self.b_q, self.w_k, self.w_v, self.b_v

    def out(self, value: Tensor) -> Tensor:
        return self.norm(self.out_proj(value))


class CrossAttentionLayer(nn.Module):
    """Cross-attention and a feed-forward network, each with a residual.

    Args:
        dim: D.
        num_heads: heads of the attention.
        dropout: rate on the attention's output, inside the feed-forward network, and on its output.
        rms_norm: see :class:`CrossAttentionEncoder`.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, rms_norm: str):
        super().__init__()
        self.shared = rms_norm == "shared"
        self.cross_attn = CrossAttention(dim, num_heads, norm=not self.shared)
        self.attn_norm = RMSNorm(dim, eps=1e-6 if self.shared else None)
        self.ffn = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.ffn_norm = nn.Identity() if self.shared else RMSNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, history: History, mask: Tensor) -> Tensor:
        """(B, D), the query after it has looked at the history."""
        history = map_items(self.attn_norm, history) if self.shared else history
        return self._forward(query, self.cross_attn(query, history, mask))

    def among(self, history: History, mask: Tensor) -> History:
        """The history (B, L, D) after each of its items has looked at it; a shared one stays shared."""
        if isinstance(history, SharedHistory):
            return SharedHistory(self.among(history.items.unsqueeze(0), mask[:1]).squeeze(0), history.rows)
        items = dense(history)
        seen = self.attn_norm(items) if self.shared else items
        return self._forward(items, self.cross_attn.among(items, seen, mask))

    def _forward(self, query: Tensor, attended: Tensor) -> Tensor:
        x = self.attn_norm(query + self.dropout(attended))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


class CrossAttentionEncoder(nn.Module):
    """Layers in which the target, as a query that changes from one to the next, looks at the history.

    Args:
        dim: D, size of an item representation.
        num_layers: N, layers, each with weights of its own.
        num_heads: heads of each layer's attention, a divisor of D.
        dropout: dropout rate of attention and feed-forward network.
        rms_norm: ``shared``, one weight w for all of a layer (ε 1e-6), as in DIN_att6:
            ``a = RMS(q + MHA(q, RMS(H; w)); w)``, ``q' = a + FFN(a)``. ``separate``, three (ε of float32), as in
            DIN_att_emb_rms: ``a = RMS(q + RMS(MHA(q, H); w_1); w_2)``, ``q' = RMS(a + FFN(a); w_3)``.
        self_attention: one layer more in front, through which the history looks at itself.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        rms_norm: str = "separate",
        self_attention: bool = False,
    ):
        super().__init__()
        if rms_norm not in ("shared", "separate"):
            raise ValueError(f"rms_norm is one of shared, separate, not {rms_norm!r}.")
        make = lambda: CrossAttentionLayer(dim, num_heads, dropout, rms_norm)  # noqa: E731
        self.layers = nn.ModuleList(make() for _ in range(num_layers))
        self.self_attention = make() if self_attention else None

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        """Interest of the user in the target.

        Args:
            target: (B, D).
            history: (B, L, D), item rows, or a history that all rows share.
            mask: (B, L), true where the history has an item.

        Returns:
            (B, D).
        """
        mask = mask.bool()
        if self.self_attention is not None:
            history = self.self_attention.among(history, mask)
        for layer in self.layers:
            target = layer(target, history, mask)
        return target
