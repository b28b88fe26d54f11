"""Fusions: several vectors that describe one thing (its id, its tags, each modality) to one vector.

All are built from the sizes of the parts and of the result, and take the parts side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qin_zoo.layers.choice import choose


def _projections(dims: list[int], output_dim: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(dim, output_dim) for dim in dims)


def _project(projections: nn.ModuleList, parts: Sequence[Tensor]) -> list[Tensor]:
    return [projection(part) for projection, part in zip(projections, parts)]


class Fusion(nn.Module):
    """What all fusions have in common.

    Args:
        dims: d_m, size of each part.
    """

    def __init__(self, dims: list[int]):
        super().__init__()
        self.dims = list(dims)

    def forward(self, items: Tensor) -> Tensor:
        """The parts side by side, (…, sum of dims), to (…, output_dim)."""
        return self.fuse(items.split(self.dims, dim=-1))

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts (…, d_m) to (…, output_dim)."""
        raise NotImplementedError(f"{type(self).__name__} must implement fuse(parts).")


class ConcatFusion(Fusion):
    """``W [z_1; …; z_M] + b``.

    Args:
        dims: d_m, size of each part.
        output_dim: size of the result.
    """

    def __init__(self, dims: list[int], output_dim: int):
        super().__init__(dims)
        self.linear = nn.Linear(sum(dims), output_dim)

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        return self.linear(torch.cat(parts, dim=-1))


class SumFusion(Fusion):
    """``Σ_m (P_m z_m + b_m)``.

    It reaches the same functions as ``concat``; initialisation, which then looks at each part's size alone, and the
    optimiser's path differ.

    Args:
        dims: d_m, size of each part.
        output_dim: size of the result.
    """

    def __init__(self, dims: list[int], output_dim: int):
        super().__init__(dims)
        self.projections = _projections(dims, output_dim)

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(_project(self.projections, parts)).sum(dim=0)


class GateFusion(Fusion):
    """``Σ_m g_m (P_m z_m + b_m)``, one gate for each part from all: ``g = σ(W [z_1; …; z_M] + c)``.

    Scalar gates after the gated multimodal unit of Arevalo et al., ICLR workshop 2017.

    Args:
        dims: d_m, size of each part.
        output_dim: size of the result.
        gate_activation: σ: ``sigmoid``, each part for itself, or ``softmax``, parts in competition.
    """

    def __init__(self, dims: list[int], output_dim: int, gate_activation: str = "sigmoid"):
        super().__init__(dims)
        self.projections = _projections(dims, output_dim)
        activations = {"sigmoid": nn.Sigmoid, "softmax": lambda: nn.Softmax(dim=-1)}
        self.gate = nn.Sequential(
            nn.Linear(sum(dims), len(dims)), choose(activations, gate_activation, "gate_activation")()
        )

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        gates = self.gate(torch.cat(parts, dim=-1))  # (…, M)
        return (torch.stack(_project(self.projections, parts), dim=-1) * gates.unsqueeze(-2)).sum(dim=-1)


class AttentionFusion(Fusion):
    """``Σ_m a_m p_m`` of the projected parts ``p_m = P_m z_m + b_m``, ``a = softmax_m(v · tanh(W p_m + c))``.

    The attention over views of Wang et al., *Heterogeneous Graph Attention Network*, WWW 2019, per item.

    Args:
        dims: d_m, size of each part.
        output_dim: size of the result.
        attention_dim: size of the hidden layer that scores a part. Default: ``output_dim``.
    """

    def __init__(self, dims: list[int], output_dim: int, attention_dim: int | None = None):
        super().__init__(dims)
        attention_dim = attention_dim or output_dim
        self.projections = _projections(dims, output_dim)
        self.score = nn.Sequential(
            nn.Linear(output_dim, attention_dim), nn.Tanh(), nn.Linear(attention_dim, 1, bias=False)
        )

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        projected = torch.stack(_project(self.projections, parts), dim=-2)  # (…, M, output_dim)
        return (self.score(projected).softmax(dim=-2) * projected).sum(dim=-2)


class LowRankFusion(Fusion):
    """Low-rank multimodal fusion: ``Σ_r Π_m (W_m^r [1; z_m])``, the product taken element by element.

    Equals a linear map of the outer product of all ``[1; z_m]`` whose weight has rank ``rank`` (Liu et al.,
    *Efficient Low-rank Multimodal Fusion with Modality-Specific Factors*, ACL 2018). The column of ``W_m^r`` that
    meets the 1 is the bias of a ``Linear``. It starts at ``rank^(-1/M)``, not at 0: else the gradient of each part
    would be a product of the others, which are close to 0 while embeddings are.

    Args:
        dims: d_m, size of each part.
        output_dim: size of the result.
        rank: number of products summed.
    """

    def __init__(self, dims: list[int], output_dim: int, rank: int = 4):
        super().__init__(dims)
        self.rank = rank
        self.factors = _projections(dims, rank * output_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Sets the biases; FuxiCTR calls this after its own initialisation."""
        for factor in self.factors:
            nn.init.constant_(factor.bias, self.rank ** (-1 / len(self.factors)))

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        product = math.prod(_project(self.factors, parts))  # (…, rank · output_dim)
        return product.unflatten(-1, (self.rank, -1)).sum(dim=-2)


class TensorFusion(Fusion):
    """Multimodal tensor fusion: ``W vec([1; P_1 z_1] ⊗ … ⊗ [1; P_M z_M]) + b``.

    Zadeh et al., *Tensor Fusion Network for Multimodal Sentiment Analysis*, EMNLP 2017. The outer product has
    ``(tensor_dim + 1)^M`` entries for each item, hence the small projections.

    Args:
        dims: d_m, size of each part.
        output_dim: size of the result.
        tensor_dim: size of a projected part.

    Raises:
        ValueError: the outer product would have more than ``MAX_ENTRIES`` entries.
    """

    MAX_ENTRIES = 2**17

    def __init__(self, dims: list[int], output_dim: int, tensor_dim: int = 4):
        super().__init__(dims)
        entries = (tensor_dim + 1) ** len(dims)
        if entries > self.MAX_ENTRIES:
            raise ValueError(
                f"Fusion 'mtfn' of {len(dims)} parts with tensor_dim {tensor_dim} makes {entries:,} products "
                f"for each item; at most {self.MAX_ENTRIES:,} are allowed. Use a smaller tensor_dim, or fusion 'lmf'."
            )
        self.projections = _projections(dims, tensor_dim)
        self.linear = nn.Linear(entries, output_dim)

    def fuse(self, parts: Sequence[Tensor]) -> Tensor:
        tensor = parts[0].new_ones(*parts[0].shape[:-1], 1)  # (…, 1)
        for p in _project(self.projections, parts):
            p = torch.cat([torch.ones_like(p[..., :1]), p], dim=-1)  # (…, tensor_dim + 1)
            tensor = (tensor.unsqueeze(-1) * p.unsqueeze(-2)).flatten(-2)
        return self.linear(tensor)


FUSIONS: dict[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "gate": GateFusion,
    "attention": AttentionFusion,
    "lmf": LowRankFusion,
    "mtfn": TensorFusion,
}


def make_fusion(name: str, dims: list[int], output_dim: int, **options) -> Fusion:
    """A fusion by its name in ``FUSIONS``.

    Args:
        name: ``concat``, ``sum``, ``gate``, ``attention``, ``lmf`` or ``mtfn``.
        dims: size of each part.
        output_dim: size of the result.
        **options: the fusion's own.

    Raises:
        ValueError: there is no such fusion.
    """
    return choose(FUSIONS, name, "fusion")(dims, output_dim, **options)
