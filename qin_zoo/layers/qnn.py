"""Quadratic neural network (QIN, WWW 2025 MM-CTR challenge)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.chunks import in_chunks
from qin_zoo.layers.dropout import sum_of_dropped_rows
from qin_zoo.layers.folding import scale_and_shift
from qin_zoo.layers.quadratic import quadratic


class QNN(nn.Module):
    """Residual layers of quadratic feature interaction, and a linear output.

    ``xˡ⁺¹ = Dropout(PReLU(BN(xˡ ⊙ Σ_r Dropout(W_r xˡ + b_r)))) + xˡ`` for ``r = 1…num_row``. The ``W_r`` of a
    layer are one ``Linear(n, n · num_row)``. Without dropout the sum over r goes into the weights first:
    ``Σ_r (W_r x + b_r) = (Σ_r W_r) x + Σ_r b_r``, and ``num_row`` costs nothing.

    Args:
        input_dim: n, size of the input and of every layer.
        num_layers: number of layers.
        num_row: linear maps summed in each layer.
        net_dropout: dropout rate, applied to each linear map and to each layer's output.
        batch_norm: whether to normalise each layer's product over the batch.
    """

    def __init__(
        self,
        input_dim: int,
        num_layers: int = 3,
        num_row: int = 2,
        net_dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        super().__init__()
        self.num_row = num_row
        self.dropout = nn.Dropout(net_dropout)
        # Names and nesting are those of the published checkpoints.
        self.norm = nn.ModuleList(nn.BatchNorm1d(input_dim) for _ in range(num_layers if batch_norm else 0))
        self.layer = nn.ModuleList(
            nn.ModuleDict({"linear": nn.Sequential(nn.Linear(input_dim, input_dim * num_row), self.dropout)})
            for _ in range(num_layers)
        )
        self.activation = nn.ModuleList(nn.PReLU() for _ in range(num_layers))
        self.fc = nn.Linear(input_dim, 1)

    def _map(self, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        """``x -> Σ_r Dropout(W_r x + b_r)``, (B, n) -> (B, n)."""
        if self.training and self.dropout.p > 0:
            return lambda x: sum_of_dropped_rows(x, linear.weight, linear.bias, self.num_row, self.dropout.p)
        weight = linear.weight.unflatten(0, (self.num_row, -1)).sum(dim=0)
        bias = linear.bias.unflatten(0, (self.num_row, -1)).sum(dim=0)
        return lambda x: F.linear(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, n).

        Returns:
            (B, 1).
        """
        maps = [self._map(layer["linear"][0]) for layer in self.layer]

        def logits(x: Tensor) -> Tensor:
            for i, linear_map in enumerate(maps):
                norm = self.norm[i] if self.norm else None
                x = quadratic(x, linear_map(x), norm, self.activation[i], self.dropout)
            return self.fc(x)

        return logits(x) if self.training else in_chunks(logits, x, rows=1024)

    @torch.no_grad()
    def folded(self) -> FoldedQNN:
        """The same for scoring: ``num_row`` is summed away and the batch norm's scale is in the weights."""
        return FoldedQNN(self)


class FoldedQNN(nn.Module):
    """:class:`QNN` in evaluation, ``xˡ⁺¹ = LeakyReLU(xˡ ⊙ (W x + b) + c) + xˡ``.

    ``BN(x ⊙ s) = x ⊙ (γ/σ s) + (β − μ γ/σ)``: the scale goes into the rows of ``Σ_r W_r`` and ``Σ_r b_r``,
    the rest is c.

    Args:
        qnn: the network to fold; its batch norms' running statistics are taken.
    """

    def __init__(self, qnn: QNN):
        super().__init__()
        self.layer, self.fc = nn.ModuleList(), qnn.fc
        for i, layer in enumerate(qnn.layer):
            self.layer.append(_FoldedLayer(layer["linear"][0], qnn.num_row, qnn.norm[i] if qnn.norm else None))
        self.slopes = [activation.weight.item() for activation in qnn.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, n) to (B, 1)."""
        for layer, slope in zip(self.layer, self.slopes):
            x = F.leaky_relu(layer(x), slope) + x
        return self.fc(x)


class _FoldedLayer(nn.Module):
    """``x ⊙ (W x + b) + c``."""

    def __init__(self, linear: nn.Linear, num_row: int, norm: nn.BatchNorm1d | None):
        super().__init__()
        weight = linear.weight.double().unflatten(0, (num_row, -1)).sum(dim=0)
        bias = linear.bias.double().unflatten(0, (num_row, -1)).sum(dim=0)
        shift = None
        if norm is not None:
            scale, shift = scale_and_shift(norm)
            weight, bias = weight * scale.unsqueeze(1), bias * scale
        for name, values in (("weight", weight), ("bias", bias), ("shift", shift)):
            self.register_buffer(name, None if values is None else values.to(linear.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        y = x * F.linear(x, self.weight, self.bias)
        return y if self.shift is None else y + self.shift
