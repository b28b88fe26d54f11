"""A Transformer encoder over target-aware histories (TransAct: Xia et al., KDD 2023)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.history import History, ItemRows, SharedHistory, dense, shorten, take_rows

MASK_CONVENTIONS = ("published", "history")


class _Seats(NamedTuple):
    """The places of histories that are seen, one behind the other, and each row's moved together.

    Attributes:
        places: of those that are seen in the flattened (B, L), (N,).
        row: the row of each, (N,).
        seat: where each is among its row's, in a flattened (B, M), M being the most that a row has, (N,).
        empty: seats of nobody who is seen, (B, 1, 1, M).
    """

    places: Tensor
    row: Tensor
    seat: Tensor
    empty: Tensor

    @classmethod
    def of(cls, unseen: Tensor) -> _Seats:
        """Of (B, L), in each row of which something is seen; on a GPU, which would have to be waited for to know how
        many places are, each of them."""
        if unseen.is_cuda:
            return cls.everywhere(unseen)
        places = (~unseen).flatten().nonzero().squeeze(1)
        row, number = places // unseen.shape[1], (~unseen).cumsum(dim=1)  # from 1
        most = int(number[:, -1].max())
        seat = row * most + number.flatten()[places] - 1
        return cls(places, row, seat, (torch.arange(most) >= number[:, -1:])[:, None, None])

    @classmethod
    def everywhere(cls, unseen: Tensor) -> _Seats:
        """A seat for every place; those of the unseen count as empty."""
        places = torch.arange(unseen.numel(), device=unseen.device)
        return cls(places, places // unseen.shape[1], places, unseen[:, None, None])

    def padded(self, x: Tensor) -> Tensor:
        """(N, d) as (B, M, d), zeros in seats that nobody has."""
        rows, most = self.empty.shape[0], self.empty.shape[3]
        return x.new_zeros(rows * most, x.shape[1]).index_copy(0, self.seat, x).view(rows, most, -1)


class TargetTransformer(nn.Module):
    """Encodes ``[h_l; t]`` with a Transformer; keeps the last outputs, and the maximum of all through a Linear.

    The encoder's layers are post-norm with ReLU. What a hidden position yields is set to 0 and never is the
    maximum; only the others are computed. Which positions are hidden is the convention:

    * ``published``: the history's own mask goes in as the padding mask, so the items are hidden and the padding is
      seen; a row without padding sees its last item. The challenge's checkpoints were trained so.
    * ``history``: the padding is hidden; a row without any item yields 0 throughout.

    Args:
        input_dim: D, size of an item representation.
        num_heads: attention heads; a divisor of 2·D.
        transformer_layers: encoder layers.
        dim_feedforward: hidden size of each layer's feed-forward network.
        transformer_dropout: dropout rate inside the encoder.
        first_k_cols: K, how many of the last positions are kept; missing ones are 0, on the left.
        concat_max_pool: append the maximum over the positions.
        mask_convention: ``published`` or ``history``.
    """

    def __init__(
        self,
        input_dim: int,
        num_heads: int = 1,
        transformer_layers: int = 2,
        dim_feedforward: int = 256,
        transformer_dropout: float = 0.0,
        first_k_cols: int = 16,
        concat_max_pool: bool = True,
        mask_convention: str = "published",
    ):
        super().__init__()
        width = 2 * input_dim
        if mask_convention not in MASK_CONVENTIONS:
            raise ValueError(f"mask_convention is one of {', '.join(MASK_CONVENTIONS)}, not {mask_convention!r}.")
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"num_heads must divide item and target together ({width} numbers), got {num_heads}.")
        if first_k_cols < 0 or not (first_k_cols or concat_max_pool):
            raise ValueError(f"first_k_cols must be positive, or 0 with concat_max_pool, got {first_k_cols}.")
        self.first_k_cols = first_k_cols
        self.hides_padding = mask_convention == "history"
        self.one_padding = True
        self.output_dim = (first_k_cols + concat_max_pool) * width
        self.transformer_encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                width, num_heads, dim_feedforward=dim_feedforward, dropout=transformer_dropout, batch_first=True
            ),
            num_layers=transformer_layers,
            enable_nested_tensor=False,
        )
        self.out_linear = nn.Linear(width, width) if concat_max_pool else None

    def _hidden(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the attention and what the output leaves out, (B, L) each; attention always has one position."""
        hidden = ~mask if self.hides_padding else mask  # (B, L)
        last = torch.arange(mask.shape[1], device=mask.device) == mask.shape[1] - 1  # (L,)
        unattended = hidden & ~(last & hidden.all(dim=1, keepdim=True))
        return unattended, hidden if self.hides_padding else unattended

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        """Interest of the user in the target.

        Args:
            target: (B, D).
            history: (B, L, D), or item rows; oldest first.
            mask: (B, L), true where the history has an item.

        Returns:
            (B, output_dim): the last K outputs of 2·D numbers, oldest first, then the maximum's 2·D.
        """
        if self.hides_padding:  # what nobody has changes nothing then
            history, mask = shorten(history, mask)
        if mask.shape[1] == 0:  # as one position of padding
            history, mask = target.new_zeros(len(target), 1, target.shape[1]), mask.new_zeros(len(target), 1)
        length, (unattended, hidden) = mask.shape[1], self._hidden(mask.bool())
        seats = _Seats.of(unattended)
        x = self._encode(target, dense(history) if isinstance(history, SharedHistory) else history, seats)  # (N, 2D)
        x = x.masked_fill(hidden.flatten()[seats.places].unsqueeze(1), 0.0)
        kept, width = min(self.first_k_cols, length), x.shape[1]
        parts = []
        if kept:
            last = x.new_zeros(len(target) * length, width).index_copy(0, seats.places, x).view(-1, length, width)
            parts.append(F.pad(last[:, length - kept :].flatten(1), ((self.first_k_cols - kept) * width, 0)))
        if self.out_linear is not None:
            highest = seats.padded(x).masked_fill(seats.empty[:, 0].transpose(1, 2), -1e9).max(dim=1).values
            parts.append(self.out_linear(highest))
        return torch.cat(parts, dim=-1)

    def _encode(self, target: Tensor, history: Tensor | ItemRows, seats: _Seats) -> Tensor:
        """The encoder's outputs at the places that are seen, (N, 2D)."""
        width = target.shape[1]
        items, item = history if isinstance(history, ItemRows) else (history.flatten(0, 1), None)
        item = seats.places if item is None else item.flatten()[seats.places]
        if not item.is_cuda and isinstance(history, ItemRows):  # which would have to be waited for
            distinct, item = torch.unique(item, return_inverse=True)
            items = F.embedding(distinct, items)
        x = torch.cat([take_rows(items, item), take_rows(target, seats.row)], dim=1)
        for i, layer in enumerate(self.transformer_encoder.layers):
            weight, bias = layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
            if i:
                projected = F.linear(x, weight, bias)  # (N, 6D)
            else:  # linear in [h; t]: the share of an item once for all places, that of the target once for the row
                of_item, of_target = F.linear(items, weight[:, :width]), F.linear(target, weight[:, width:], bias)
                projected = take_rows(of_item, item) + take_rows(of_target, seats.row)
            x = layer.norm1(x + layer.dropout1(self._attend(layer.self_attn, projected, seats)))
            x = layer.norm2(x + layer._ff_block(x))
        return x

    def _attend(self, attention: nn.MultiheadAttention, projected: Tensor, seats: _Seats) -> Tensor:
        """The attention's output at the places that are seen, (N, 2D), from queries, keys and values (N, 6D)."""
        query, key, value = (
            part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for part in seats.padded(projected).chunk(3, dim=2)
        )  # (B, K, M, d)
        score = (query @ key.transpose(2, 3) * attention.head_dim**-0.5).masked_fill(seats.empty, -math.inf)
        weight = F.dropout(score.softmax(dim=-1), attention.dropout, self.training)  # (B, K, M, M)
        mixed = (weight @ value).transpose(1, 2).flatten(2)  # (B, M, 2D)
        return attention.out_proj(mixed.flatten(0, 1)[seats.seat])

    @property
    def sees_padding(self) -> bool:
        """Whether padding in a history changes what comes out, so that a request must be padded as in training."""
        return not self.hides_padding

    def folded(self) -> FoldedTargetTransformer:
        """The same for scoring requests, whose rows share one history."""
        return FoldedTargetTransformer(self)


class FoldedTargetTransformer(nn.Module):
    """:class:`TargetTransformer` in evaluation on a ``SharedHistory`` of at least one place.

    The first layer's projections are linear in ``[h_l; t]``: the history's share is computed once, the target's once
    per row. With the ``published`` mask all places that are seen hold one and the same vector, the padding or the last
    item: attention among equal ones gives that one, so one place is encoded instead of L. But for a layer whose
    ``one_padding`` is false: several fields make an item there, each with a padding of its own.

    Args:
        layer: the layer to fold.
    """

    def __init__(self, layer: TargetTransformer):
        super().__init__()
        self.first_k_cols, self.hides_padding = layer.first_k_cols, layer.hides_padding
        self.encoder, self.out_linear = layer.transformer_encoder.layers, layer.out_linear
        self.sees_padding = layer.sees_padding
        self.one_place = layer.one_padding and not layer.hides_padding

    def forward(self, target: Tensor, history: SharedHistory, mask: Tensor) -> Tensor:
        """See :meth:`TargetTransformer.forward`; the mask is the same in every row."""
        real = mask[:1].bool()  # (1, L)
        seen = real
        if not self.hides_padding:
            last = torch.arange(real.shape[1], device=real.device) == real.shape[1] - 1
            seen = ~real | (last & real.all(dim=1, keepdim=True))
        if self.one_place:
            place = history.items[seen[0].int().argmax().reshape(1)]  # (1, D)
            encoded = self._encode(target, place, torch.ones_like(seen[:, :1]))  # (B, 1, 2D)
        else:
            encoded = self._encode(target, history.items, seen)  # (B, L, 2D)
        kept = F.pad(encoded * seen.unsqueeze(2), (0, 0, self.first_k_cols, 0))
        parts = [kept[:, kept.shape[1] - self.first_k_cols :].flatten(1)] if self.first_k_cols else []
        if self.out_linear is not None:
            if not self.one_place:
                encoded = torch.where(seen.unsqueeze(2), encoded, -1e9).max(dim=1).values
                encoded = torch.where(seen.any(), encoded, 0.0)  # without any output, 0 is the maximum
            parts.append(self.out_linear(encoded.flatten(1)))
        return torch.cat(parts, dim=-1)

    def _encode(self, target: Tensor, items: Tensor, seen: Tensor) -> Tensor:
        """The encoder's outputs at ``[h_l; t]``, (B, L, 2D); attention is to the places seen (1, L), if any is."""
        rows, width = target.shape
        length = items.shape[0]
        x = torch.cat([items.expand(rows, -1, -1), target.unsqueeze(1).expand(-1, length, -1)], dim=-1)
        unseen = (~seen & seen.any()).float() * -1e9  # (1, L); where nothing is seen, the outputs do not count
        for i, layer in enumerate(self.encoder):
            attention = layer.self_attn
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
            if i == 0:
                of_target = F.linear(target, weight[:, width:], bias)  # (B, 6D)
                projected = F.linear(items, weight[:, :width]) + of_target.unsqueeze(1)
            else:
                projected = F.linear(x, weight, bias)  # (B, L, 6D)
            query, key, value = (
                part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=2)
            )  # (B, K, L, d)
            score = query @ key.transpose(2, 3) * attention.head_dim**-0.5 + unseen
            mixed = (score.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
            x = layer.norm1(x + attention.out_proj(mixed))
            x = layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))
        return x
