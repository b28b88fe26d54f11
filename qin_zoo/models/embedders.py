"""The embedding layer of the zoo's models: FuxiCTR's, and what embeds the types that FuxiCTR does not have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from qin_zoo.errors import ModelError
from qin_zoo.fuxi import FeatureEmbedding, FeatureEmbeddingDict, FeatureMap

EMBEDDERS: dict[str, type[nn.Module]] = {}
"""Feature type -> the class of its embedder, built with a feature's specification and the size of its embedding; it
takes the values of N rows, (N,) or (N, width), and gives (N, dim)."""


class Embeddings(FeatureEmbeddingDict):
    """FuxiCTR's embeddings by name, and those of :data:`EMBEDDERS`.

    Args:
        feature_map: FuxiCTR's feature map.
        embedding_dim: size for the features that do not give their own.
        embedding_initializer: of tables, in FuxiCTR's words.
    """

    def __init__(self, feature_map: FeatureMap, embedding_dim: int, embedding_initializer: str):
        super().__init__(feature_map, embedding_dim, embedding_initializer=embedding_initializer)
        for name, spec in own_features(feature_map).items():
            self.embedding_layers[name] = EMBEDDERS[spec["type"]](spec, spec.get("embedding_dim", embedding_dim))

    def forward(self, inputs: Mapping[str, Tensor], *args, **kwargs) -> OrderedDict[str, Tensor]:
        """Of each feature the embeddings of its values, (N, dim) or (N, T, dim)."""
        own = own_features(self._feature_map)
        embedded = super().forward({n: values for n, values in inputs.items() if n not in own}, *args, **kwargs)
        return embedded | {n: self.embedding_layers[n](values) for n, values in inputs.items() if n in own}


class _ZooEmbedding(FeatureEmbedding):
    """FuxiCTR's ``FeatureEmbedding`` with :class:`Embeddings` within; weights have the same names."""

    def __init__(self, feature_map: FeatureMap, embedding_dim: int, embedding_initializer: str):
        nn.Module.__init__(self)
        self.embedding_layer = Embeddings(feature_map, embedding_dim, embedding_initializer)


def make_embedding(feature_map: FeatureMap, embedding_dim: int, embedding_initializer: str) -> FeatureEmbedding:
    """The embedding layer of a model: FuxiCTR's own, whose class its code asks for, wherever that knows all types."""
    if own_features(feature_map):
        return _ZooEmbedding(feature_map, embedding_dim, embedding_initializer)
    return FeatureEmbedding(feature_map, embedding_dim, embedding_initializer=embedding_initializer)


def own_features(feature_map: FeatureMap) -> dict[str, Mapping]:
    """The features of types that only the zoo embeds, with their specifications."""
    return {name: spec for name, spec in feature_map.features.items() if spec["type"] in EMBEDDERS}


def check_types(feature_map: FeatureMap, model: str) -> None:
    """Raises ModelError where a model that is not of the zoo would leave features out, whose type FuxiCTR lacks."""
    for name, spec in own_features(feature_map).items():
        raise ModelError(
            f"{model}: feature '{name}' is of type {spec['type']}, which FuxiCTR's embedding layer does not know. "
            "Leave it out (active: False), or take a model of the zoo."
        )
