"""Batch norm over the rows of all processes, on CPUs, too (torch's own needs GPUs)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """``BatchNorm1d`` whose statistics in training are those of all processes' rows together.

    Attributes:
        group: has ``sum(tensor)``, the sum over all processes, and ``active``.
    """

    group = None

    @property
    def synced(self) -> bool:
        return self.training and self.group is not None and self.group.active

    def forward(self, x: Tensor) -> Tensor:
        """(B, n) or (B, n, L), normalised."""
        if not self.synced:
            return super().forward(x)
        self.num_batches_tracked += 1
        weight, bias = (self.weight, self.bias) if self.affine else (x.new_ones(x.shape[1]), x.new_zeros(x.shape[1]))
        y, mean, var, count = _Normalise.apply(x, weight, bias, self.eps, self.group)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, group):
        over = [0, *range(2, x.dim())]
        exact = x.double()  # sums of squares need the digits
        rows = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
        sums = group.sum(torch.cat([exact.sum(over), exact.square().sum(over), rows]))
        n, count = x.shape[1], sums[-1]
        mean = sums[:n] / count
        var = (sums[n:-1] / count - mean.square()).clamp_(min=0)
        inverse = (var + eps).rsqrt().to(x.dtype)
        shape = (1, n, *[1] * (x.dim() - 2))
        normal = (x - mean.to(x.dtype).view(shape)) * inverse.view(shape)
        ctx.save_for_backward(normal, inverse, weight)
        ctx.group, ctx.over, ctx.shape, ctx.count = group, over, shape, count
        ctx.mark_non_differentiable(mean, var, count)
        return normal * weight.view(shape) + bias.view(shape), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        normal, inverse, weight = ctx.saved_tensors
        grad_bias, grad_weight = grad.sum(ctx.over), (grad * normal).sum(ctx.over)
        # Means over all processes' rows: every process's loss depends on them.
        sums = ctx.group.sum(torch.stack([grad_bias, grad_weight]).double()) / ctx.count
        mean_grad, mean_product = sums.to(grad.dtype)
        inner = grad - mean_grad.view(ctx.shape) - normal * mean_product.view(ctx.shape)
        return inner * (inverse * weight).view(ctx.shape), grad_weight, grad_bias, None, None


def sync_batch_norms(module: nn.Module, group) -> None:
    """Replaces every ``BatchNorm1d`` of a module; parameters and buffers stay the same objects."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm1d and child.track_running_stats and child.momentum is not None:
            synced = SyncedBatchNorm1d(child.num_features, child.eps, child.momentum, child.affine)
            synced.weight, synced.bias = child.weight, child.bias
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(synced, buffer, getattr(child, buffer))
            synced.group = group
            synced.train(child.training)
            setattr(module, name, synced)
        else:
            sync_batch_norms(child, group)
