"""ETA, End-to-end Target Attention."""

import torch

from qin_zoo import register_model
from qin_zoo.layers import RetrievedAttention, best_places, each_pair, hash_search
from qin_zoo.models.long_history import LongHistoryModel


@register_model(paper="Chen et al., End-to-End User Behavior Retrieval in CTR Prediction Model, arXiv 2108.04468")
class ETA(LongHistoryModel):
    """Attention to the newest items, and to those of a long history whose random hashes are most like the target's.

    Args:
        reuse_hash: one random projection for good. Without, training draws a new one for every batch (LongCTR's code:
            for every row, and to score, too); rows are scored with the one that is kept with the weights.
        hash_bits: bits of a hash.
        topk: items that the search finds; of items that are equally far, the newer.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "ETA",
        reuse_hash: bool = True,
        hash_bits: int = 32,
        topk: int = 50,
        **kwargs,
    ):
        super().__init__(feature_map, model_id, **kwargs)
        self.reuse_hash, self.topk = reuse_hash, topk
        self.register_buffer("random_rotations", torch.randn(1, self.item_dim, hash_bits))
        self.long_attention = self.per_sequence(lambda dim: RetrievedAttention(dim, **self.attention))

    def long_interest(self, x):
        kept = self.reuse_hash or not self.training
        rotations = self.by_pair(self.random_rotations[0] if kept else torch.randn_like(self.random_rotations[0]), 0)
        alike = each_pair(hash_search, self.by_pair(x.target), x.history, rotations)  # (B, L)
        places = each_pair(lambda score, mask: best_places(score, mask, self.topk), alike, x.mask)
        return self.long_attention(x.target, x.history, x.mask, places)
