"""The embedding layer of the zoo's models: FuxiCTR's, and what embeds the types that FuxiCTR does not have."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.errors import ModelError
from qin_zoo.fuxi import FeatureEmbeddingDict, FeatureMap


class CyclicEmbedding(nn.Module):
    """A number that comes round, an hour of the day or a bearing: its place on a circle, projected without bias.

    Args:
        spec: has the ``period`` after which the numbers begin again.
        dim: size of the embedding.
    """

    def __init__(self, spec: Mapping, dim: int):
        super().__init__()
        self._turn = 2 * math.pi / spec["period"]
        self.projection = nn.Linear(2, dim, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """(N,) numbers to (N, dim)."""
        angle = values.float() * self._turn
        return self.projection(torch.stack([angle.sin(), angle.cos()], dim=-1))


class AutoDisEmbedding(nn.Module):
    """A number's soft share of bins that are learnt with their vectors (AutoDis: Guo et al., KDD 2021, section 3.2).

    ``h = LeakyReLU(w x)``, ``p = softmax(W h + h / 10)``, and the embedding is ``Σ_j p_j e_j``: unlike a number times
    one vector, it need not grow with the number, and unlike buckets it has no edges. Give numbers of a moderate size
    (a ``normalizer``).

    Args:
        spec: has the number of ``bins``.
        dim: size of the embedding.
    """

    def __init__(self, spec: Mapping, dim: int):
        super().__init__()
        self.score = nn.Linear(1, spec["bins"], bias=False)
        self.mix = nn.Linear(spec["bins"], spec["bins"], bias=False)
        self.vectors = nn.Linear(spec["bins"], dim, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """(N,) numbers to (N, dim)."""
        hidden = F.leaky_relu(self.score(values.float().unsqueeze(1)))  # (N, bins)
        return self.vectors((self.mix(hidden) + hidden / 10).softmax(dim=1))


EMBEDDERS: dict[str, type[nn.Module]] = {"cyclic": CyclicEmbedding, "autodis": AutoDisEmbedding}
"""Feature type -> the class of its embedder, built with a feature's specification and the size of its embedding; it
takes the values of N rows, (N,) or (N, width), and gives (N, dim)."""


class Embeddings(FeatureEmbeddingDict):
    """FuxiCTR's embeddings by name, and those of :data:`EMBEDDERS` (see :func:`add_own_types`)."""

    def forward(self, inputs: Mapping[str, Tensor], *args, **kwargs) -> OrderedDict[str, Tensor]:
        """Of each feature the embeddings of its values, (N, dim) or (N, T, dim)."""
        own = own_features(self._feature_map)
        embedded = super().forward({n: values for n, values in inputs.items() if n not in own}, *args, **kwargs)
        return embedded | {n: self.embedding_layers[n](values) for n, values in inputs.items() if n in own}


def add_own_types(layer: FeatureEmbeddingDict, embedding_dim: int) -> None:
    """Makes a layer of FuxiCTR embed the zoo's own types, too.

    One without such features stays of its class, which FuxiCTR asks for; others are built once, with their tables.

    Args:
        layer: changed in place.
        embedding_dim: size for the features that do not give their own; 1 of a linear part, for all.
    """
    for name, spec in own_features(layer._feature_map).items():
        layer.__class__ = Embeddings
        dim = spec.get("embedding_dim", embedding_dim) if embedding_dim > 1 else 1
        layer.embedding_layers[name] = EMBEDDERS[spec["type"]](spec, dim)


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
