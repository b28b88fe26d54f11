"""SDIM, the Sampling-based Deep Interest Model."""

from functools import partial
from typing import ClassVar

import torch

from qin_zoo import register_model
from qin_zoo.layers import each_pair, hash_pooling
from qin_zoo.models.long_history import LongHistoryModel


@register_model(
    paper="Cao et al., Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR Prediction, CIKM 2022",
    published={"MicroVideo1.7M_x2": "AUC 0.7173 (LongCTR)"},
)
class SDIM(LongHistoryModel):
    """Attention to the newest items, and the sum of those of a long history that share a random hash with the target.

    Args:
        reuse_hash: one set of random projections for good. Without, training draws new ones for every batch (LongCTR's
            code: for every row, and to score, too); rows are scored with those that are kept with the weights.
        num_hashes: hashes whose sums are averaged.
        hash_bits: bits of a hash: about one item in 2^bits shares the target's.
        l2_norm: give each hash's sum the length 1.
    """

    published_names: ClassVar = {"powers_of_two$": None}

    def __init__(
        self,
        feature_map,
        model_id: str = "SDIM",
        reuse_hash: bool = True,
        num_hashes: int = 1,
        hash_bits: int = 4,
        l2_norm: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id, **kwargs)
        self.reuse_hash, self.l2_norm = reuse_hash, l2_norm
        self.register_buffer("random_rotations", torch.randn(1, self.item_dim, num_hashes, hash_bits))

    def long_interest(self, x):
        kept = self.reuse_hash or not self.training
        rotations = self.by_pair(self.random_rotations[0] if kept else torch.randn_like(self.random_rotations[0]), 0)
        pool = partial(hash_pooling, normalize=self.l2_norm)
        return self.beside(each_pair(pool, self.by_pair(x.target), x.history, x.mask, rotations), x.target)

    def interests(self, x):
        return super().interests(x)[::-1]  # as in LongCTR's checkpoints
