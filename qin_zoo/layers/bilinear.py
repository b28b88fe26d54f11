"""Bilinear interaction of fields (FiBiNET: Huang et al., RecSys 2019, §3.4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class BilinearInteraction(nn.Module):
    """``(W v_i) ⊙ v_j`` for every pair of fields i < j, with one W, one for each i, or one for each pair.

    Weights as in FuxiCTR's ``BilinearInteractionV2`` (``bilinear_W``, applied from the right), which repeats them for
    every row of a batch; here each W is one matrix product.

    Args:
        num_fields: F.
        embedding_dim: E, size of a field.
        bilinear_type: ``field_all`` (one W), ``field_each`` (one for each left field) or ``field_interaction``.

    Attributes:
        interact_dim: number of pairs, F·(F − 1)/2.
    """

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        bilinear_type: Literal["field_all", "field_each", "field_interaction"] = "field_interaction",
    ):
        super().__init__()
        left, right = torch.triu_indices(num_fields, num_fields, offset=1)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.bilinear_type = bilinear_type
        self.interact_dim = len(left)
        matrices = {"field_all": [], "field_each": [num_fields], "field_interaction": [self.interact_dim]}
        if bilinear_type not in matrices:
            raise ValueError(f"bilinear_type is '{bilinear_type}', expected one of {', '.join(matrices)}.")
        self.bilinear_W = nn.Parameter(torch.empty(*matrices[bilinear_type], embedding_dim, embedding_dim))
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier's normal initialisation of each W by itself; FuxiCTR calls it by this name."""
        for matrix in self.bilinear_W.view(-1, *self.bilinear_W.shape[-2:]):
            nn.init.xavier_normal_(matrix.detach())

    def forward(self, fields: Tensor) -> Tensor:
        """Interactions of the fields.

        Args:
            fields: (B, F, E).

        Returns:
            (B, F·(F − 1)/2, E), pairs in the order (0, 1), (0, 2), … (1, 2), …
        """
        right = fields.index_select(1, self.right)
        if self.bilinear_type == "field_interaction":
            left = fields.index_select(1, self.left)
            return torch.einsum("bpe,pef->bpf", left, self.bilinear_W) * right
        turned = (
            fields @ self.bilinear_W
            if self.bilinear_type == "field_all"
            else torch.einsum("bpe,pef->bpf", fields, self.bilinear_W)
        )
        return turned.index_select(1, self.left) * right
