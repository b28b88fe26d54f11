"""Layers: plain PyTorch modules, each the fast exact form of a formula of the design. They know torch only."""

from qin_zoo.layers.asta import ASTA
from qin_zoo.layers.din_attention import DINAttention
from qin_zoo.layers.history import History, ItemRows, dense, map_items
from qin_zoo.layers.qnn import QNN

__all__ = ["ASTA", "QNN", "DINAttention", "History", "ItemRows", "dense", "map_items"]
