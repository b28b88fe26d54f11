"""Exported models, scored with ONNX Runtime; nothing here imports torch, FuxiCTR or Ray."""

from qin_zoo.serving.scorer import Scorer

__all__ = ["Scorer"]
