"""Dropout at a fraction of its usual time and memory on a CPU.

``torch`` draws one number per element in sequence and keeps a float mask. Here one draw of 64 bits serves four
elements, and the mask is one byte. Rates are multiples of 1/65536; the scale is that of the rate in force, so the
expectation is exact. Compiled, it is torch's own, which the compiler joins with what stands beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_STEPS = 1 << 16
_CHUNK = 1024  # rows whose products stay in the processor's cache between two passes


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zeroes elements of (B, …) with probability ``p``, scales the others to keep the mean; nothing in evaluation."""
    if not training or p == 0:
        return x
    if torch.compiler.is_dynamo_compiling():
        return F.dropout(x, p)
    return x.masked_fill(drop_mask(x.shape, p, x.device), 0) * drop_scale(p)


def sum_of_dropped_rows(x: Tensor, weight: Tensor, bias: Tensor, num_row: int, p: float) -> Tensor:
    """``Σ_r Dropout(W_r x + b_r)``, the maps standing one below the other in ``weight``.

    Under autocast the products are in its precision; the sum over r is always float32.

    Args:
        x: (B, n).
        weight: (num_row · m, n).
        bias: (num_row · m,).
        num_row: how many maps.
        p: dropout rate, in [0, 1).

    Returns:
        (B, m) float32.
    """
    if torch.compiler.is_dynamo_compiling():
        return F.dropout(F.linear(x, weight, bias), p).unflatten(1, (num_row, -1)).sum(dim=1, dtype=weight.dtype)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return _SumOfDroppedRows.apply(x, weight, bias, num_row, p, dtype)


def _threshold(p: float) -> int:
    return min(round(p * _STEPS), _STEPS - 1)


def drop_scale(p: float) -> float:
    """What the elements that stay are multiplied by."""
    return _STEPS / (_STEPS - _threshold(p))


def drop_mask(shape: torch.Size | tuple[int, ...], p: float, device: torch.device) -> Tensor:
    """A random mask of the shape, bool, true with probability ``p``."""
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    return _fill(mask, p, _words(mask))


def _words(mask: Tensor) -> Tensor:
    """Room for the random numbers of a mask."""
    return torch.empty(-(-mask.numel() // 4), dtype=torch.int64, device=mask.device)


def _fill(mask: Tensor, p: float, words: Tensor) -> Tensor:
    numbers = words[: -(-mask.numel() // 4)].random_(-(2**63), None).view(torch.int16)
    return torch.lt(numbers[: mask.numel()].view(mask.shape), _threshold(p) - _STEPS // 2, out=mask)


def _chunks(rows: int, device: torch.device) -> list[slice]:
    step = _CHUNK if device.type == "cpu" else max(rows, 1)
    return [slice(first, first + step) for first in range(0, max(rows, 1), step)]


class _SumOfDroppedRows(torch.autograd.Function):
    """Keeps inputs and mask; the num_row times larger products live only chunk by chunk."""

    @staticmethod
    def forward(ctx, x, weight, bias, num_row, p, dtype):
        rows, width = len(x), len(weight)
        ctx.save_for_backward(x, weight)
        x, w, b = x.to(dtype), weight.to(dtype), bias.to(dtype)
        out = torch.empty(rows, width // num_row, dtype=weight.dtype, device=x.device)
        dropped = torch.empty(rows, width, dtype=torch.bool, device=x.device)
        parts = _chunks(rows, x.device)
        words, room = _words(dropped[parts[0]]), x.new_empty(dropped[parts[0]].shape)
        for part in parts:
            y = torch.addmm(b, x[part], w.t(), out=room[: len(x[part])])
            y.masked_fill_(_fill(dropped[part], p, words), 0)
            torch.sum(y.unflatten(1, (num_row, -1)), dim=1, dtype=out.dtype, out=out[part])
        ctx.dropped, ctx.scale, ctx.dtype = dropped, drop_scale(p), dtype
        return out.mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, weight), dropped = ctx.saved_tensors, ctx.dropped
        x, w = x.to(ctx.dtype), weight.to(ctx.dtype)
        grad = (grad * ctx.scale).to(x.dtype).unsqueeze(1)  # (B, 1, m)
        dropped, zero = dropped.unflatten(1, (-1, grad.shape[2])), grad.new_zeros(())
        grad_x = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
        grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        parts = _chunks(len(x), x.device)
        room = x.new_empty(dropped[parts[0]].shape)
        for part in parts:
            y = torch.where(dropped[part], zero, grad[part], out=room[: len(x[part])]).flatten(1)  # (chunk, width)
            grad_x[part] = y @ w
            grad_weight += y.t() @ x[part]
            grad_bias += y.sum(dim=0)
        return grad_x, grad_weight, grad_bias, None, None, None
