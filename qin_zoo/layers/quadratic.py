"""What a layer of the quadratic network does to its product; backward computes again what it does not need kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qin_zoo.layers.dropout import drop_scale, dropout, keep_, keep_mask, row_chunks

_ROWS = 128  # whose passes find them in the processor's cache


def quadratic(x: Tensor, s: Tensor, norm: nn.BatchNorm1d | None, activation: nn.PReLU, drop: nn.Dropout) -> Tensor:
    """``Dropout(PReLU(BN(x ⊙ s))) + x``.

    Args:
        x: (B, n), the layer's input.
        s: (B, n), its linear map.
        norm: batch norm; None for none.
        activation: PReLU with one parameter.
        drop: its rate is used.

    Returns:
        (B, n).
    """
    with torch.autocast(x.device.type, enabled=False):  # nothing here gains from lower precision
        x, s = (t.float() if t.dtype == torch.bfloat16 else t for t in (x, s))
        compiling = torch.compiler.is_dynamo_compiling()  # which itself decides what is computed again
        if norm is None or not norm.training or getattr(norm, "synced", False) or compiling:
            y = x * s
            return dropout(activation(y if norm is None else norm(y)), drop.p, drop.training) + x
        norm.num_batches_tracked += 1
        state = norm.running_mean, norm.running_var, norm.momentum, norm.eps
        return _Quadratic.apply(x, s, norm.weight, norm.bias, activation.weight, *state, drop.p)


class _Quadratic(torch.autograd.Function):
    """In training: keeps x, s and the mask; product, normalised product and activation are computed again."""

    @staticmethod
    def forward(ctx, x, s, weight, bias, slope, running_mean, running_var, momentum, eps, p):
        y, mean, inverse = torch.native_batch_norm(x * s, weight, bias, running_mean, running_var, True, momentum, eps)
        kept = keep_mask(y.shape, p, y.device) if p else None
        for part in row_chunks(len(y), y.device, _ROWS):
            values = F.prelu(y[part], slope)
            if p:
                keep_(values, kept[part]).mul_(drop_scale(p))
            torch.add(values, x[part], out=y[part])
        ctx.save_for_backward(x, s, weight, bias, slope, mean, inverse, kept)
        ctx.eps, ctx.p = eps, p
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, s, weight, bias, slope, mean, inverse, kept = ctx.saved_tensors
        product, grad_y, grad_slope = x * s, torch.empty_like(x), torch.zeros_like(slope)
        factor = inverse * weight
        shift = bias - mean * factor
        for part in row_chunks(len(x), x.device, _ROWS):
            y = torch.addcmul(shift, product[part], factor)
            passed = grad[part] if kept is None else keep_(grad[part].clone(), kept[part]).mul_(drop_scale(ctx.p))
            positive = torch.ops.aten.threshold_backward(passed, y, 0)  # where y is, torch's gradient at 0, too
            grad_slope += torch.dot(y.clamp_max_(0).flatten(), passed.flatten())
            torch.addcmul(passed * slope, positive, 1 - slope, out=grad_y[part])
        grad_product, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad_y, product, weight, None, None, mean, inverse, True, ctx.eps, [True] * 3
        )
        grad_x = torch.addcmul(grad, grad_product, s)
        return grad_x, grad_product.mul_(x), grad_weight, grad_bias, grad_slope, None, None, None, None, None
