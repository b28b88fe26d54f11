"""Dice: FuxiCTR's, which normalises over the batch, in one pass of the cache, and MUSE's, which normalises a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qin_zoo.layers.dropout import row_chunks

_ROWS = 4096  # whose intermediate results stay in the processor's cache


def can_count(layer: nn.Module) -> bool:
    """Whether :func:`dice` can compute this layer: FuxiCTR's Dice in training, its rows those of one process."""
    norm = getattr(layer, "bn", None) if type(layer).__name__ == "Dice" else None
    return type(norm) is nn.BatchNorm1d and not norm.affine and norm.training and hasattr(layer, "alpha")


def dice(layer: nn.Module, x: Tensor, counts: Tensor) -> Tensor:
    """FuxiCTR's Dice in training, ``p ⊙ x + α ⊙ (1 − p) ⊙ x`` with ``p = σ(BN(x))``, of rows that stand for several.

    Equal rows are equal in every layer of single rows, so one is enough where the statistics know how many there are.
    Gradients are those of all rows that a row stands for, summed.

    Args:
        layer: one that :func:`can_count`; its running statistics go on as by its own ``forward``.
        x: (N, n).
        counts: (R,) how many rows each of the last R rows stands for; those before stand for themselves.

    Returns:
        (N, n), in the layer's precision.
    """
    rows = len(x) - len(counts) + counts.sum()
    y, mean, var = _Dice.apply(x, layer.alpha, counts, rows, layer.bn.eps)
    with torch.no_grad():
        layer.bn.num_batches_tracked += 1
        layer.bn.running_mean.lerp_(mean, layer.bn.momentum)
        layer.bn.running_var.lerp_(var * (rows / (rows - 1)), layer.bn.momentum)
    return y


class _Dice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha, counts, rows, eps):
        single = len(x) - len(counts)
        counts = counts.to(alpha.dtype)
        mean, var = torch.zeros_like(alpha), torch.zeros_like(alpha)
        for part in row_chunks(single, x.device, _ROWS):
            mean += x[:single][part].to(alpha.dtype).sum(dim=0)
        mean = (mean + counts @ x[single:].to(alpha.dtype)) / rows
        for part in row_chunks(single, x.device, _ROWS):
            var += (x[:single][part] - mean).square_().sum(dim=0)
        var = (var + counts @ (x[single:] - mean).square_()) / rows
        inverse = (var + eps).rsqrt()
        out = torch.empty(x.shape, dtype=alpha.dtype, device=x.device)
        for part in row_chunks(len(x), x.device, _ROWS):
            p = torch.sub(x[part], mean, out=out[part]).mul_(inverse).sigmoid_()
            p.mul_(1 - alpha).add_(alpha).mul_(x[part])
        ctx.save_for_backward(x, alpha, counts, rows, mean, inverse)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, alpha, counts, rows, mean, inverse = ctx.saved_tensors
        grad_x, single, scale = torch.empty_like(grad), len(x) - len(counts), (1 - alpha) * inverse
        grad_alpha, sums, products = (torch.zeros_like(alpha) for _ in range(3))
        parts = row_chunks(len(x), x.device, _ROWS)
        rooms = [torch.empty_like(grad[parts[0]]) for _ in range(3)]
        for part in parts:
            normal, p, of_input = (room[: len(x[part])] for room in rooms)
            torch.sub(x[part], mean, out=normal).mul_(inverse)
            torch.sigmoid(normal, out=p)
            torch.neg(p, out=of_input).add_(1).mul_(grad[part]).mul_(x[part])
            grad_alpha += of_input.sum(dim=0)
            of_input.mul_(p).mul_(scale)  # by way of the normalised input, mean and variance held
            sums += of_input.sum(dim=0)
            products += normal.mul_(of_input).sum(dim=0)
            torch.mul(p.mul_(1 - alpha).add_(alpha), grad[part], out=grad_x[part]).add_(of_input)
        # Every row's result depends on the mean and the variance of all, once for each row that one stands for.
        slope = products * inverse / rows
        shift = sums / rows - mean * slope
        for part in row_chunks(single, x.device, _ROWS):
            grad_x[:single][part] -= (x[:single][part] * slope).add_(shift)
        grad_x[single:] -= (x[single:] * slope).add_(shift).mul_(counts.unsqueeze(1))
        return grad_x.to(x.dtype), grad_alpha, None, None, None


class LayerNormDice(nn.Module):
    """``p ⊙ x + γ ⊙ (1 − p) ⊙ x`` with ``p = σ(LN(x))``, LN without weights (MUSE, arXiv 2512.07216).

    Args:
        input_dim: n.
    """

    def __init__(self, input_dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((input_dim,), -0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(…, n) to the same."""
        p = F.layer_norm(x, x.shape[-1:], eps=1e-12).sigmoid()
        return x * (p + self.gamma * (1 - p))
