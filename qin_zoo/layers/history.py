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

_SHORT = 1 << 15  # rows whose numbers sort twice as fast


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
        return take_rows(self.table, self.index)


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
        sums = _RowSums.apply(weight.flatten(0, -2).to(table.dtype), table, _bags(history.index, weight))
        return sums.view(*weight.shape[:-1], -1)
    weight = weight.to(history.dtype)
    if weight.dim() == 2:
        return torch.bmm(weight.unsqueeze(1), history).squeeze(1)
    return torch.bmm(weight, history)


def _bags(index: Tensor, like: Tensor) -> Tensor:
    """The rows (B, L) once for each of ``like``'s queries, (B·K, L)."""
    return index if like.dim() == 2 else index.repeat_interleave(like.shape[1], dim=0)


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows (…, D) of a table (U, D) at ``index`` (…): ``F.embedding``, its gradient summed as :func:`sums_by_row`."""
    if torch.compiler.is_dynamo_compiling() and not table.is_cuda:  # the compiler's own way with it is as good
        return F.embedding(index, table)
    return _Taken.apply(table, index)


def let_compile() -> None:
    """Tells torch's compiler to see through what is computed of item rows by functions that it does not know."""
    for function in (_RowScores, _RowSums, _Taken):
        torch.compiler.allow_in_graph(function)


def _bag(index: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")


def _places(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows (B, L) in sequence, where each bag begins, and whose bag each is: ``embedding_bag``'s own arguments."""
    of = torch.arange(index.shape[0], dtype=index.dtype, device=index.device)
    bags = of.unsqueeze(1).expand_as(index)
    return index.reshape(-1).contiguous(), of * index.shape[1], bags.reshape(-1).contiguous()


def _scores(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """``query_b · table[index_bl]``, (B, L): what ``embedding_bag`` computes as the gradient of its weights."""
    if table.is_cuda and table.dtype == torch.bfloat16:  # for which there is no kernel
        return _scores(query.float(), table.float(), index).to(table.dtype)
    scores = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        query.to(table.dtype).contiguous(), table, *_places(index), 0
    )
    return scores.view(index.shape)


def sums_by_row(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """The gradient of rows that were taken: ``Σ values`` (…, D) over the places of ``index`` (…) where each stands.

    Args:
        values: (…, D).
        index: (…) int32 or int64, below ``rows``.
        rows: U.

    Returns:
        (U, D).
    """
    if index.is_cuda:
        index = _apart(index, ~values.any(dim=-1), rows)
        return torch.ops.aten.embedding_dense_backward(values, index, rows, -1, False)
    order, begin = _by_row(index, rows)
    return F.embedding_bag(order, values.reshape(-1, values.shape[-1]), begin, mode="sum")


def _weighted_sums_by_row(vectors: Tensor, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a table: for each row, ``Σ weight_bl · vectors_b`` over the places where it stands, (U, D)."""
    vectors, weight = vectors.to(table.dtype), weight.to(table.dtype)
    if index.is_cuda:
        index, table = _apart(index, weight == 0, table.shape[0]), table.detach().requires_grad_()
        with torch.enable_grad():
            sums = _bag(index, table, weight)
        return torch.autograd.grad(sums, table, vectors)[0]
    order, begin = _by_row(index, table.shape[0])
    of = torch.div(order, index.shape[1], rounding_mode="floor")
    return F.embedding_bag(of, vectors, begin, mode="sum", per_sample_weights=weight.flatten()[order])


def _by_row(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """All places of ``index``, (N,), those of one row after those of the one before; where each row's begin, (U,).

    Sorted once for all sums of a batch: what was found stays with the tensor. On a CPU ``embedding_bag`` reads what it
    is told to at many times the pace at which torch's gradients of it and of ``embedding`` add to rows here and there.
    """
    key, known = (rows, index._version), getattr(index, "_places_by_row", None)
    if known is None or known[0] != key:
        flat = index.flatten()
        order = (flat.short() if rows <= _SHORT else flat).sort(stable=True).indices
        count = flat.new_zeros(rows).index_add_(0, flat, torch.ones_like(flat))  # bincount, which does not compile
        known = index._places_by_row = key, order.int(), (count.cumsum(0) - count).int()
    return known[1:]


def _apart(index: Tensor, nothing: Tensor, rows: int) -> Tensor:
    """``index`` with the places that add nothing spread over all rows: a GPU adds up one row's in sequence, and the
    padding of all histories is one row."""
    if not index.is_cuda:
        return index
    spread = torch.arange(index.numel(), dtype=index.dtype, device=index.device) % rows
    return torch.where(nothing, spread.view_as(index), index)


class _RowScores(torch.autograd.Function):
    """``s_bl = q_b · table[index_bl]``."""

    @staticmethod
    def forward(ctx, query, table, index):
        ctx.save_for_backward(query, table, index)
        return _scores(query, table, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, table, index = ctx.saved_tensors
        of_query = _bag(index, table, grad.to(table.dtype)).to(query.dtype)  # Σ_l grad_l h_l, (B, D)
        return of_query, _weighted_sums_by_row(query, table, index, grad) if ctx.needs_input_grad[1] else None, None


class _RowSums(torch.autograd.Function):
    """``Σ_l w_bl table[index_bl]``: ``embedding_bag``, whose gradients here know what adds nothing."""

    @staticmethod
    def forward(ctx, weight, table, index):
        ctx.save_for_backward(weight, table, index)
        return _bag(index, table, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, table, index = ctx.saved_tensors
        of_weight = _scores(grad, table, index) if ctx.needs_input_grad[0] else None
        return of_weight, _weighted_sums_by_row(grad, table, index, weight) if ctx.needs_input_grad[1] else None, None


class _Taken(torch.autograd.Function):
    """``table[index]``."""

    @staticmethod
    def forward(ctx, table, index):
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]  # not len(…), which the compiler takes for a constant
        return F.embedding(index, table)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (index,) = ctx.saved_tensors
        return sums_by_row(grad, index, ctx.rows), None
