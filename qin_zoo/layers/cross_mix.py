"""A cross network of gated low-rank experts (DCN V2: Wang et al., WWW 2021, section 3.3), its experts side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossNetMix(nn.Module):
    """``x ← x⁰ ⊙ Σ_e g_e (U_e tanh(C_e tanh(V_eᵀ x)) + b) + x`` in each layer, g the softmax of the experts' gates.

    As the gates sum to one, this is ``x⁰ ⊙ (U [g_1 v_1; …] + b) + x`` with the experts' U side by side: three products
    a layer, where FuxiCTR's layer of this name takes a product for each row and expert. Exact up to rounding; the
    weights, their names and their first values are FuxiCTR's. A batch of one row stays a batch.

    Args:
        in_features: n, size of the input.
        layer_num: layers.
        low_rank: r, rank of an expert.
        num_experts: E, experts of each layer.
    """

    def __init__(self, in_features: int, layer_num: int = 2, low_rank: int = 32, num_experts: int = 4):
        super().__init__()

        def matrices(*shape: int) -> nn.ParameterList:
            return nn.ParameterList(nn.init.xavier_normal_(torch.empty(num_experts, *shape)) for _ in range(layer_num))

        self.num_experts = num_experts
        self.U_list = matrices(in_features, low_rank)
        self.V_list = matrices(in_features, low_rank)
        self.C_list = matrices(low_rank, low_rank)
        self.gating = nn.ModuleList(nn.Linear(in_features, 1, bias=False) for _ in range(num_experts))
        self.bias = nn.ParameterList(torch.zeros(in_features, 1) for _ in range(layer_num))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, n) to (B, n)."""
        gate = torch.cat([gate.weight for gate in self.gating])  # (E, n)
        x = inputs
        for u, v, c, bias in zip(self.U_list, self.V_list, self.C_list, self.bias):
            share = (x @ gate.t()).softmax(dim=1)  # (B, E)
            low = torch.tanh(x @ v.transpose(0, 1).flatten(1)).unflatten(1, (self.num_experts, -1))  # (B, E, r)
            low = torch.tanh(torch.einsum("ber,esr->bes", low, c)) * share.unsqueeze(2)
            x = inputs * (low.flatten(1) @ u.transpose(1, 2).flatten(0, 1) + bias.squeeze(1)) + x
        return x
