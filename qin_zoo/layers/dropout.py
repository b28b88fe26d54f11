"""Dropout at a fraction of its usual time and memory on a CPU.

``torch`` draws one number per element in sequence and keeps a float mask. Here one draw of 64 bits serves four
elements, the mask is one byte, and it is a factor: to fill where a mask is true takes a CPU five times as long.

Rates are multiples of 1/65536; the scale is that of the rate in force, so the expectation is exact. Compiled, it is
torch's own, which the compiler joins with what stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_STEPS = 1 << 16
_CHUNK = 1024  # rows whose products stay in the processor's cache between two passes
_ELEMENTS = 1 << 17  # that do


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zeroes elements of (B, …) with probability ``p``, scales the others to keep the mean; nothing in evaluation."""
    if not training or p == 0:
        return x
    if torch.compiler.is_dynamo_compiling():
        return F.dropout(x, p)
    return _Dropped.apply(x, p, False)


def run_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Layers one after the other, with this dropout in the place of torch's, in one pass with a ReLU before it."""
    rectify = None  # a ReLU that waits for what follows
    for layer in layers:
        drops = type(layer) is nn.Dropout
        if rectify and drops and layer.training and layer.p and not torch.compiler.is_dynamo_compiling():
            x = _Dropped.apply(x, layer.p, True)
        else:
            x = rectify(x) if rectify else x
            if drops:
                x = dropout(x, layer.p, layer.training)
            elif type(layer) is not nn.ReLU:
                x = layer(x)
        rectify = layer if type(layer) is nn.ReLU else None
    return rectify(x) if rectify else x


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


def keep_mask(shape: torch.Size | tuple[int, ...], p: float, device: torch.device) -> Tensor:
    """A random mask of the shape, uint8, 0 with probability ``p`` and else 1."""
    mask = torch.empty(shape, dtype=torch.uint8, device=device)
    return _fill(mask, p, _words(mask))


def keep_(x: Tensor, mask: Tensor, room: Tensor | None = None) -> Tensor:
    """``x ⊙ mask`` in the place of ``x``, the mask's bytes made numbers in ``room``, of the size and precision of x."""
    if x.is_cuda:
        return x.mul_(mask)
    return x.mul_(mask.to(x.dtype) if room is None else room[: len(x)].copy_(mask))


def pack_bits(mask: Tensor) -> Tensor:
    """A mask of bytes as one of bits, eight parts of it in one, where it can be cut so; on a GPU as it is."""
    if mask.is_cuda or mask.numel() % 8:
        return mask.clone()
    parts = mask.view(8, -1)
    packed = parts[0].clone()
    for place in range(1, 8):
        packed.add_(parts[place], alpha=1 << place)
    return packed


def unpack_bits(packed: Tensor, mask: Tensor) -> Tensor:
    """The mask that :func:`pack_bits` was given, in the shape of ``mask``, into which it may be written."""
    if packed.numel() == mask.numel():
        return packed.view(mask.shape)
    parts = mask.view(8, -1)
    for place in range(8):
        torch.bitwise_right_shift(packed, place, out=parts[place])
    return mask.bitwise_and_(1)


def row_chunks(rows: int, device: torch.device, size: int = _CHUNK) -> list[slice]:
    """Rows of which some passes can be made while they are in the processor's cache; on a GPU all."""
    step = size if device.type == "cpu" else max(rows, 1)
    return [slice(first, first + step) for first in range(0, max(rows, 1), step)]


def _words(mask: Tensor) -> Tensor:
    """Room for the random numbers of a mask."""
    return torch.empty(-(-mask.numel() // 4), dtype=torch.int64, device=mask.device)


def _fill(mask: Tensor, p: float, words: Tensor) -> Tensor:
    numbers = words[: -(-mask.numel() // 4)].random_(-(2**63), None).view(torch.int16)
    return torch.ge(numbers[: mask.numel()].view(mask.shape), _threshold(p) - _STEPS // 2, out=mask)


class _Dropped(torch.autograd.Function):
    """Dropout. After a ReLU its result says where the gradient passes, else it keeps a byte for each element."""

    @staticmethod
    def forward(ctx, x, p, rectified):
        values, out = x.contiguous().view(-1), torch.empty_like(x, memory_format=torch.contiguous_format)
        kept = torch.empty(values.shape, dtype=torch.uint8, device=x.device)
        parts = row_chunks(len(values), x.device, _ELEMENTS)
        words, room = _words(kept[parts[0]]), torch.empty_like(values[parts[0]])
        for part in parts:
            y = out.view(-1)[part]
            torch.clamp_min(values[part], 0, out=y) if rectified else y.copy_(values[part])
            keep_(y, _fill(kept[part], p, words), room).mul_(drop_scale(p))
        ctx.p, ctx.rectified = p, rectified
        ctx.save_for_backward(out if rectified else kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (seen,) = ctx.saved_tensors
        seen, grad, out = seen.view(-1), grad.reshape(-1), torch.empty_like(grad, memory_format=torch.contiguous_format)
        parts = row_chunks(len(grad), grad.device, _ELEMENTS)
        room = torch.empty_like(grad[parts[0]])
        for part in parts:
            y = out.view(-1)[part]
            if ctx.rectified:
                torch.ops.aten.threshold_backward.grad_input(grad[part], seen[part], 0, grad_input=y)
            else:
                keep_(y.copy_(grad[part]), seen[part], room)
            y.mul_(drop_scale(ctx.p))
        return out, None, None


class _SumOfDroppedRows(torch.autograd.Function):
    """Keeps inputs and a bit for each of the num_row times more products, which live only chunk by chunk."""

    @staticmethod
    def forward(ctx, x, weight, bias, num_row, p, dtype):
        rows, width = len(x), len(weight)
        ctx.save_for_backward(x, weight)
        x, w, b = x.to(dtype), weight.to(dtype), bias.to(dtype)
        out = torch.empty(rows, width // num_row, dtype=weight.dtype, device=x.device)
        parts, ctx.kept = row_chunks(rows, x.device), []
        room, factors = (x.new_empty(len(x[parts[0]]), width) for _ in range(2))
        kept = torch.empty_like(room, dtype=torch.uint8)
        words = _words(kept)
        for part in parts:
            y = torch.addmm(b, x[part], w.t(), out=room[: len(x[part])])
            mask = _fill(kept[: len(y)], p, words)
            ctx.kept.append(pack_bits(mask))
            torch.sum(keep_(y, mask, factors).unflatten(1, (num_row, -1)), dim=1, dtype=out.dtype, out=out[part])
        ctx.scale, ctx.dtype = drop_scale(p), dtype
        return out.mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        x, w = x.to(ctx.dtype), weight.to(ctx.dtype)
        grad = (grad * ctx.scale).to(x.dtype).unsqueeze(1)  # (B, 1, m)
        grad_x = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
        grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        parts = row_chunks(len(x), x.device)
        room = x.new_empty(len(x[parts[0]]), len(weight) // grad.shape[2], grad.shape[2])
        kept = torch.empty_like(room, dtype=torch.uint8)
        for part, packed in zip(parts, ctx.kept):
            mask = unpack_bits(packed, kept[: len(x[part])])
            y = room[: len(mask)].copy_(mask).mul_(grad[part]).flatten(1)  # (chunk, width)
            grad_x[part] = y @ w
            grad_weight += y.t() @ x[part]
            grad_bias += y.sum(dim=0)
        return grad_x, grad_weight, grad_bias, None, None, None
