"""Losses of logits beside the cross entropy: pairwise, listwise, focal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_PAIRS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 24}  # what a core's cache holds, what keeps a GPU busy


def pairwise_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """``mean of w_i·w_j·softplus(−(z_i − z_j))`` over all pairs of a click i and a row j without (RankNet).

    Exact for all pairs and linear in memory: they are gone through in blocks, and the gradient is computed beside the
    value. Burges et al., Learning to rank using gradient descent, ICML 2005.

    Args:
        logits: (B,) float.
        labels: (B,) 0 or 1.
        weights: (B,) w.

    Returns:
        a scalar; 0, with a gradient of 0, where all labels are equal.
    """
    return _Pairwise.apply(logits, labels, weights)


class _Pairwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, weights):
        clicks, others = labels * weights, (1 - labels) * weights  # 0 for the rows of the other kind
        rows = columns = slice(None)
        if not logits.is_cuda:  # there the numbers of rows would have to be waited for
            rows, columns = labels > 0, labels <= 0
        high, low = logits[rows], logits[columns]  # (P,), (N,)
        high_weight, low_weight = clicks[rows], others[columns]
        gradient, of_high, of_low = torch.zeros_like(logits), torch.zeros_like(high), torch.zeros_like(low)
        total = logits.new_zeros((), dtype=torch.float64)
        at_once = max(1, _PAIRS_AT_ONCE.get(logits.device.type, 1 << 16) // max(len(low), 1))
        for first in range(0, len(high), at_once):
            part = slice(first, first + at_once)
            wrong = low - high[part].unsqueeze(1)  # (p, N): by how much the pair is the wrong way round
            total += high_weight[part] @ (F.softplus(wrong) @ low_weight)
            slope = wrong.sigmoid_()
            of_high[part] = -high_weight[part] * (slope @ low_weight)
            of_low += high_weight[part] @ slope
        gradient[rows] += of_high
        gradient[columns] += of_low * low_weight
        pairs = (labels.sum() * (1 - labels).sum()).clamp(min=1)
        ctx.save_for_backward(gradient / pairs)
        return (total / pairs).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


def listwise_loss(logits: Tensor, labels: Tensor, weights: Tensor, context: Tensor | None = None) -> Tensor:
    """JRC's generative loss: how likely the row is, among those of its context, to be the one of its label.

    ``mean of −w·log softmax over the context of f_y``, with f_1 = z/2 and f_0 = −z/2: the paper's two logits, opposite
    to each other, so that their cross entropy is that of z. Sheng et al., Joint Optimization of Ranking and Calibration
    with Contextualized Hybrid Model, KDD 2023, listing 1.

    Args:
        logits: (B,) float.
        labels: (B,) 0 or 1.
        weights: (B,) w.
        context: (B,) ids; rows of the same one are compared. Default: all rows are.

    Returns:
        a scalar.
    """
    both = torch.stack([-logits, logits], dim=1) / 2  # (B, 2)
    if context is None:
        among = both.logsumexp(dim=0, keepdim=True).expand_as(both)
    else:
        _, place, count = torch.unique(context, return_inverse=True, return_counts=True)
        order = place.argsort(stable=True)
        top = torch.segment_reduce(both.detach()[order], "max", lengths=count)  # (contexts, 2)
        parts = torch.segment_reduce((both - top[place]).exp()[order], "sum", lengths=count)
        among = F.embedding(place, parts.log() + top)  # its gradient is summed in order
    return (weights * (among - both).gather(1, labels.long().unsqueeze(1)).squeeze(1)).mean()


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Each row's ``−(1 − p)^γ·log p``, p the probability of its label: rows that are right already count little.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017; its α is a matter of weights.

    Args:
        logits: any shape.
        labels: of the same shape, 0 or 1.
        gamma: at least 0; 0 for the cross entropy.

    Returns:
        of the same shape.
    """
    wrong = logits * (1 - 2 * labels)  # the logit of the other label
    return (gamma * F.logsigmoid(wrong)).exp() * F.softplus(wrong)
