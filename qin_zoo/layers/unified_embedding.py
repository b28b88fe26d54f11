"""The unified embedding of DIN-SENet ("Feature Fusion Revisited", WWW 2025 MM-CTR challenge)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class UnifiedEmbedding(nn.Module):
    """Brings concatenated features of any sizes to fields of one size.

    A feature of another size passes through a bias-free linear map, one of the right size is left as it is.

    Args:
        feature_dims: sizes of the features, in the order in which they are concatenated.
        embedding_dim: E, size of every field.
    """

    def __init__(self, feature_dims: Iterable[int], embedding_dim: int):
        super().__init__()
        self.feature_dims = list(feature_dims)
        self.maps = nn.ModuleList(
            nn.Identity() if dim == embedding_dim else nn.Linear(dim, embedding_dim, bias=False)
            for dim in self.feature_dims
        )

    def forward(self, features: Tensor) -> Tensor:
        """Fields, side by side.

        Args:
            features: (…, sum of feature_dims).

        Returns:
            (…, F·E), F the number of features; F may be 0.
        """
        if not self.maps:
            return features
        parts = features.split(self.feature_dims, dim=-1)
        return torch.cat([fit(part) for fit, part in zip(self.maps, parts)], dim=-1)
