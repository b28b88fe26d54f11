"""Layers: plain PyTorch modules, each the fast exact form of a formula of the design. They know torch only."""

from qin_zoo.layers.asta import ASTA
from qin_zoo.layers.bilinear import BilinearInteraction
from qin_zoo.layers.choice import choose
from qin_zoo.layers.content_attention import ContentAttention, KeyAttention
from qin_zoo.layers.cross_attention import CrossAttentionEncoder
from qin_zoo.layers.cross_mix import CrossNetMix
from qin_zoo.layers.dice import LayerNormDice
from qin_zoo.layers.din_attention import DINAttention
from qin_zoo.layers.folding import fold
from qin_zoo.layers.fusion import FUSIONS, make_fusion
from qin_zoo.layers.history import History, ItemRows, SharedHistory, dense, map_items
from qin_zoo.layers.masked_cross import MaskedCrossNetwork
from qin_zoo.layers.matches import HistoryMatches, shared_ids
from qin_zoo.layers.pairs import PerPair, each_pair
from qin_zoo.layers.pooling import MeanPooling, TargetAttentionPooling, masked_softmax
from qin_zoo.layers.qnn import QNN
from qin_zoo.layers.retrieval import (
    RetrievedAttention,
    TopKAttention,
    best_places,
    hash_pooling,
    hash_search,
    newest_places,
    soft_search,
)
from qin_zoo.layers.simtier import SimTier, cosines
from qin_zoo.layers.target_attention import MultiHeadTargetAttention
from qin_zoo.layers.target_transformer import TargetTransformer
from qin_zoo.layers.unified_embedding import UnifiedEmbedding

__all__ = [
    "ASTA",
    "FUSIONS",
    "QNN",
    "BilinearInteraction",
    "ContentAttention",
    "CrossAttentionEncoder",
    "CrossNetMix",
    "DINAttention",
    "History",
    "HistoryMatches",
    "ItemRows",
    "KeyAttention",
    "LayerNormDice",
    "MaskedCrossNetwork",
    "MeanPooling",
    "MultiHeadTargetAttention",
    "PerPair",
    "RetrievedAttention",
    "SharedHistory",
    "SimTier",
    "TargetAttentionPooling",
    "TargetTransformer",
    "TopKAttention",
    "UnifiedEmbedding",
    "best_places",
    "choose",
    "cosines",
    "dense",
    "each_pair",
    "fold",
    "hash_pooling",
    "hash_search",
    "make_fusion",
    "map_items",
    "masked_softmax",
    "newest_places",
    "shared_ids",
    "soft_search",
]
