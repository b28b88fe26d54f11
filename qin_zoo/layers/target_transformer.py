"""A Transformer encoder over target-aware histories (TransAct: Xia et al., KDD 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.history import History, dense, shorten

MASK_CONVENTIONS = ("published", "history")


class TargetTransformer(nn.Module):
    """Encodes ``[h_l; t]`` with a Transformer; keeps the last outputs, and the maximum of all through a Linear.

    The encoder's layers are post-norm with ReLU. What a hidden position yields is set to 0 and never is the
    maximum. Which positions are hidden is the convention:

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
        h, mask = dense(history), mask.bool()  # (B, L, D), (B, L)
        if mask.shape[1] == 0:  # as one position of padding
            h, mask = h.new_zeros(len(h), 1, target.shape[1]), mask.new_zeros(len(h), 1)
        unattended, hidden = self._hidden(mask)
        pairs = torch.cat([h, target.unsqueeze(1).expand(-1, h.shape[1], -1)], dim=-1)  # (B, L, 2D)
        encoded = self.transformer_encoder(pairs, src_key_padding_mask=unattended)  # (B, L, 2D)
        encoded = encoded.masked_fill(hidden.unsqueeze(2), 0.0)
        missing = max(self.first_k_cols - h.shape[1], 0)
        parts = [F.pad(encoded, (0, 0, missing, 0))[:, h.shape[1] + missing - self.first_k_cols :].flatten(1)]
        if self.out_linear is not None:
            below = hidden & ~hidden.all(dim=1, keepdim=True)  # in a row without any output, 0 is the maximum
            parts.append(self.out_linear(encoded.masked_fill(below.unsqueeze(2), -1e9).max(dim=1).values))
        return torch.cat(parts, dim=-1)
