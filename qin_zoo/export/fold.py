"""FuxiCTR's layers in evaluation; our own say themselves how they are folded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qin_zoo.fuxi import CrossNetMix, MaskedAveragePooling


class FoldedCrossNetMix(nn.Module):
    """``CrossNetMix`` with all its experts side by side, for any number of rows (FuxiCTR's drops the rows' own
    dimension where there is one).

    ``Σ_e g_e x⁰ ⊙ (U_e v_e + b) = x⁰ ⊙ (U [g_1 v_1; …] + b)``, as the gates g sum to one.
    """

    def __init__(self, layer: CrossNetMix):
        super().__init__()
        self.gate = nn.Parameter(torch.cat([gate.weight for gate in layer.gating]))  # (E, n)
        self.v = nn.ParameterList(v.permute(0, 2, 1).flatten(0, 1) for v in layer.V_list)  # (E·r, n)
        self.c = nn.ParameterList(c.transpose(1, 2).contiguous() for c in layer.C_list)  # (E, r, r)
        self.u = nn.ParameterList(u.permute(0, 2, 1).flatten(0, 1) for u in layer.U_list)  # (E·r, n)
        self.bias = nn.ParameterList(bias.squeeze(1) for bias in layer.bias)  # (n,)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n) to (B, n)."""
        first = x
        for v, c, u, bias in zip(self.v, self.c, self.u, self.bias):
            share = (x @ self.gate.t()).softmax(dim=1)  # (B, E)
            low = torch.tanh(x @ v.t()).unflatten(1, (len(c), -1)).transpose(0, 1)  # (E, B, r)
            low = torch.tanh(low @ c).transpose(0, 1) * share.unsqueeze(2)  # (B, E, r)
            x = first * (low.flatten(1) @ u + bias) + x
        return x


class FoldedMean(nn.Module):
    """``MaskedAveragePooling``, where without any item the exporter would lose the 1e-12 that 0 is divided by."""

    def __init__(self, layer: nn.Module):
        super().__init__()

    def forward(self, embedded: Tensor) -> Tensor:
        """(B, L, D) to (B, D)."""
        items = (embedded.sum(dim=2, keepdim=True) != 0).float().sum(dim=1)
        return embedded.sum(dim=1) / items.clamp(min=1)


FOREIGN = {CrossNetMix: FoldedCrossNetMix, MaskedAveragePooling: FoldedMean}
