"""How a layer receives the user's history, and what it computes from it: as vectors, as rows of a table, or shared.

Attention needs two products with a history: with a query, and with weights. Of a history given as rows of a table
neither is ever written out as (B, L, D): ``embedding_bag`` reads the rows where they lie, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class ItemRows(NamedTuple):
    """A history given as rows of a table, so that each distinct item is represented only once.

    Attributes:
        table: (U, D) representations of the distinct items.
        index: (B, L) int32 or int64 rows of ``table``.
    """

    table: Tensor
    index: Tensor

    def dense(self) -> Tensor:
        """The vectors themselves, (B, L, D)."""
        return F.embedding(self.index, self.table)


class SharedHistory(NamedTuple):
    """One history that all rows of a batch share: a request with one user and many candidates.

    Attributes:
        items: (L, D) its vectors.
        rows: B, how many rows share it.
    """

    items: Tensor
    rows: int

    def dense(self) -> Tensor:
        """The vectors once for each row, (B, L, D), without a copy of them."""
        return self.items.expand(self.rows, -1, -1)


History = Tensor | ItemRows | SharedHistory


def dense(history: History) -> Tensor:
    """``history`` as vectors (B, L, D), whichever way it came."""
    return history if isinstance(history, Tensor) else history.dense()


def map_items(function: Callable[[Tensor], Tensor], history: History | list[History]) -> History | list[History]:
    """Applies a function of single items, (…, D) -> (…, E), to a history: once per distinct item where it can.

    To several histories, a list, their own functions, as they stand in a :class:`~qin_zoo.layers.pairs.PerPair`.
    """
    if isinstance(history, list):
        return [map_items(*pair) for pair in zip(function, history)]
    if isinstance(history, SharedHistory):
        return SharedHistory(function(history.items), history.rows)
    if isinstance(history, ItemRows):
        return ItemRows(function(history.table), history.index)
    return function(history)


def shorten(history: History, mask: Tensor) -> tuple[History, Tensor]:
    """History and mask without the oldest positions where no row of the batch has an item.

    On a GPU as they are: to know the longest history, it would have to be waited for. A shared history as it is, too.
    """
    if isinstance(history, SharedHistory) or mask.is_cuda or not mask.numel():
        return history, mask
    used = mask.bool().any(dim=0)  # (L,)
    first = int(used.int().argmax()) if used.any() else len(used)
    if isinstance(history, ItemRows):
        return ItemRows(history.table, history.index[:, first:]), mask[:, first:]
    return history[:, first:], mask[:, first:]


def item_scores(query: Tensor, history: History) -> Tensor:
    """The dot product of each query with each item of its row's history, ``s_l = q·h_l``.

    Args:
        query: (B, D), or (B, K, D) for K queries a row.
        history: (B, L, D), item rows, or a shared history.

    Returns:
        (B, L), or (B, K, L).
    """
    if isinstance(history, SharedHistory):
        return query @ history.items.t()
    if isinstance(history, ItemRows):
        if history.index.shape[1] == 0:
            return query.new_zeros(*query.shape[:-1], 0)
        scores = _RowScores.apply(query.flatten(0, -2), history.table, _bags(history.index, query))
        return scores.view(*query.shape[:-1], -1)
    if query.dim() == 2:
        return torch.bmm(history, query.unsqueeze(2)).squeeze(2)
    return torch.bmm(query, history.transpose(1, 2))


def weighted_sum(weight: Tensor, history: History) -> Tensor:
    """The history's items summed with weights, ``Σ_l w_l h_l``.

    Args:
        weight: (B, L), or (B, K, L) for K sums a row; in the history's precision from here on.
        history: (B, L, D), item rows, or a shared history.

    Returns:
        (B, D), or (B, K, D).
    """
    if isinstance(history, SharedHistory):
        return weight.to(history.items.dtype) @ history.items
    if isinstance(history, ItemRows):
        table = history.table
        if history.index.shape[1] == 0:
            return table.new_zeros(*weight.shape[:-1], table.shape[1])
        sums = _bag(_bags(history.index, weight), table, weight.flatten(0, -2).to(table.dtype))
        return sums.view(*weight.shape[:-1], -1)
    weight = weight.to(history.dtype)
    if weight.dim() == 2:
        return torch.bmm(weight.unsqueeze(1), history).squeeze(1)
    return torch.bmm(weight, history)


def _bags(index: Tensor, like: Tensor) -> Tensor:
    """The rows (B, L) once for each of ``like``'s queries, (B·K, L)."""
    return index if like.dim() == 2 else index.repeat_interleave(like.shape[1], dim=0)


def _bag(index: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")


class _RowScores(torch.autograd.Function):
    """``s_bl = q_b · table[index_bl]``: what ``embedding_bag`` computes as the gradient of its weights."""

    @staticmethod
    def forward(ctx, query, table, index):
        ctx.save_for_backward(query, table, index)
        query = query.to(table.dtype)
        weight = torch.zeros(index.shape, dtype=table.dtype, device=table.device, requires_grad=True)
        with torch.enable_grad():
            sums = _bag(index, table.detach(), weight)
        return torch.autograd.grad(sums, weight, query)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, table, index = ctx.saved_tensors
        table = table.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad():
            grad_query = _bag(index, table, grad.to(table.dtype))  # Σ_l grad_l h_l, (B, D)
        grad_table = None
        if ctx.needs_input_grad[1]:  # each row's gradient, Σ grad_bl q_b over the places where it stands
            grad_table = torch.autograd.grad(grad_query, table, query.to(table.dtype))[0]
        return grad_query.detach().to(query.dtype), grad_table, None
