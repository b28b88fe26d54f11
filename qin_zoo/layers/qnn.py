"""Quadratic neural network (QIN, WWW 2025 MM-CTR challenge)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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

    def _sum_of_rows(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """``Σ_r Dropout(W_r x + b_r)``: (B, n) -> (B, n)."""
        n = x.shape[1]
        if self.training and self.dropout.p > 0:
            return self.dropout(linear(x)).view(-1, self.num_row, n).sum(dim=1)
        weight = linear.weight.view(self.num_row, n, n).sum(dim=0)
        bias = linear.bias.view(self.num_row, n).sum(dim=0)
        return F.linear(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, n).

        Returns:
            (B, 1).
        """
        for i, layer in enumerate(self.layer):
            product = x * self._sum_of_rows(layer["linear"][0], x)  # (B, n)
            if self.norm:
                product = self.norm[i](product)
            x = self.dropout(self.activation[i](product)) + x
        return self.fc(x)
