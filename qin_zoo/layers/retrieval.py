"""Long histories: a search picks some places of the history, and only what stands there is attended to.

The search sees each distinct item once, and of the history no more than a number for each place; the (B, L, D) vectors
of a long history are never written out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qin_zoo.layers.history import History, ItemRows, SharedHistory, dense, item_scores, map_items, weighted_sum
from qin_zoo.layers.pooling import masked_softmax
from qin_zoo.layers.target_attention import MultiHeadTargetAttention


def newest_places(mask: Tensor, count: int) -> Tensor:
    """The last places of histories whose mask is (B, L), oldest first: (B, min(count, L)) int64."""
    length = mask.shape[1]
    places = torch.arange(length, device=mask.device)[torch.sym_max(length - count, 0) :]
    return places.expand(mask.shape[0], -1)


def best_places(score: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """The places of the highest scores, in no order; those where the mask is false come after all others.

    A blank target scores 0 everywhere: then the newest places are the best, with whatever runtime.

    Args:
        score: (B, L), or (B, K, L) for K searches a row.
        mask: (B, L), true where the history has an item; None for scores that need none.
        count: how many places.

    Returns:
        (B, min(count, L)) int64, or (B, K, min(count, L)).
    """
    length = score.shape[-1]
    score = score + torch.arange(length, device=score.device) * 1e-30  # changes nothing but 0
    if mask is not None:
        score = score.masked_fill(~(mask if score.dim() == 2 else mask.unsqueeze(1)), -torch.inf)
    return score.topk(torch.sym_min(count, length), sorted=False).indices


def take(history: Tensor | ItemRows, places: Tensor) -> Tensor | ItemRows:
    """The history of the places (B, N) alone."""
    if isinstance(history, ItemRows):
        return ItemRows(history.table, history.index.gather(1, places))
    return history.gather(1, places.unsqueeze(2).expand(-1, -1, history.shape[2]))


def soft_search(target: Tensor, history: History, mask: Tensor, w_a: Tensor, w_b: Tensor) -> Tensor:
    """SIM's soft search, ``s_l = mask_l · (W_a t)·(W_b h_l)``, (B, L) (Pi et al., CIKM 2020, §3.2).

    Args:
        target, history, mask: see ``InterestLayer``.
        w_a, w_b: (d, D) each.
    """
    return item_scores(F.linear(F.linear(target, w_a), w_b.t()), history) * mask


@torch.no_grad()
def hash_search(target: Tensor, history: History, rotations: Tensor) -> Tensor:
    """ETA's search: how alike the hashes of target and item are, (B, L) (Chen et al., 2021, arXiv 2108.04468, §4).

    A hash has a bit for each column of the rotations: whether the vector's projection is positive. Of items whose
    hashes differ in equally many bits, which is common, the newer ones come first.

    Args:
        target, history: see ``InterestLayer``.
        rotations: (D, bits).
    """

    def signs(x: Tensor) -> Tensor:
        return (x @ rotations > 0).float() * 2 - 1  # (…, bits)

    alike = item_scores(signs(target), map_items(signs, history))  # bits − 2 · bits that differ
    length = alike.shape[1]
    return alike.float() + torch.arange(length, device=alike.device) / (length + 1)


def hash_pooling(
    target: Tensor, history: History, mask: Tensor, rotations: Tensor, normalize: bool = False
) -> Tensor:
    """SDIM's interest: the sum of the items that share the target's hash, mean of several (Cao et al., CIKM 2022).

    Args:
        target, history, mask: see ``InterestLayer``.
        rotations: (D, hashes, bits).
        normalize: give each hash's sum the length 1.

    Returns:
        (B, D).
    """
    with torch.no_grad():
        powers = 2.0 ** torch.arange(rotations.shape[2], device=rotations.device)

        def bucket(x: Tensor) -> Tensor:
            return ((x @ rotations.flatten(1)).unflatten(-1, rotations.shape[1:]) > 0).float() @ powers  # (…, hashes)

        shared = dense(map_items(bucket, history)) == bucket(target).unsqueeze(1)  # (B, L, hashes)
        shared = (shared & mask.unsqueeze(2)).transpose(1, 2)  # (B, hashes, L)
    sums = _sum_chosen(shared, history)  # (B, hashes, D)
    return (F.normalize(sums, dim=2) if normalize else sums).mean(dim=1)


def _sum_chosen(chosen: Tensor, history: History) -> Tensor:
    """The sum of the items where ``chosen`` (B, K, L) is true, (B, K, D)."""
    if isinstance(history, SharedHistory) or chosen.is_cuda:  # to know how many are, a GPU would have to be waited for
        return weighted_sum(chosen.float(), history)
    if not isinstance(history, ItemRows):
        rows = torch.arange(history.shape[0] * history.shape[1]).view(history.shape[:2])
        history = ItemRows(history.flatten(0, 1), rows)
    index = history.index.unsqueeze(1).expand_as(chosen)[chosen]
    ends = F.pad(chosen.sum(dim=2).flatten().cumsum(0), (1, 0))
    sums = F.embedding_bag(index, history.table, ends, mode="sum", include_last_offset=True)
    return sums.view(*chosen.shape[:2], -1)


class RetrievedAttention(MultiHeadTargetAttention):
    """Multi-head target attention to some places of the history.

    Args:
        input_dim: D, size of an item representation.
        published: a row that has no item at these places gets the mean of what stands there, as in FuxiCTR's layer.
            Default: zeros.
        **kwargs: see :class:`MultiHeadTargetAttention`.
    """

    def __init__(self, input_dim: int, published: bool = False, **kwargs):
        super().__init__(input_dim, **kwargs)
        self.published = published

    def _seen(self, target: Tensor, mask: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Target and mask that give the wanted weights; the mask is true only where ``places`` (B, L) is."""
        mask = mask & places
        if not self.published:
            return target, mask
        some = mask.any(dim=1, keepdim=True)
        return target * some, some & mask | ~some & places  # without a query, all scores are equal

    def weights(self, target: Tensor, history: History, mask: Tensor, places: Tensor | None = None) -> Tensor:
        if places is not None:
            target, mask = self._seen(target, mask, torch.zeros_like(mask).scatter(1, places, True))
        return super().weights(target, history, mask)

    def forward(self, target: Tensor, history: History, mask: Tensor, places: Tensor) -> Tensor:
        """Interest of the user in the target, (B, D).

        Args:
            target, history, mask: see ``InterestLayer``.
            places: (B, N) int64 places of the history, none twice.
        """
        if isinstance(history, SharedHistory):  # two matrix products cost less than vectors for each row
            places = torch.zeros_like(mask).scatter(1, places, True)
        else:
            history, mask = take(history, places), mask.gather(1, places)
            places = torch.ones_like(mask)
        target, mask = self._seen(target, mask, places)
        return super().forward(target, history, mask)


class TopKAttention(RetrievedAttention):
    """TWIN's: each head attends to the items that it scores highest itself (Chang et al., KDD 2023, §3.4).

    Args:
        input_dim, published, kwargs: see :class:`RetrievedAttention`.
        topk: items of each head.
    """

    def __init__(self, input_dim: int, topk: int, published: bool = False, **kwargs):
        super().__init__(input_dim, published, **kwargs)
        self.topk = topk

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        target, mask = self._seen(target, mask, torch.ones_like(mask))
        score = self.scores(target, history)  # (B, K, L)
        kept = torch.zeros_like(score, dtype=torch.bool).scatter(2, best_places(score, mask, self.topk), True)
        return self.dropout(masked_softmax(score, kept & mask.unsqueeze(1)))

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        if isinstance(history, SharedHistory):
            return MultiHeadTargetAttention.forward(self, target, history, mask)
        target, mask = self._seen(target, mask, torch.ones_like(mask))
        with torch.no_grad():
            places = best_places(self.scores(target, history), mask, self.topk)  # (B, K, N)
        rows = places.flatten(0, 1).shape  # (B·K, N): heads become rows
        found = take(history, places.flatten(1))
        if isinstance(found, ItemRows):
            found = ItemRows(found.table, found.index.view(rows))
        else:
            found = found.view(*rows, found.shape[2])
        real = mask.gather(1, places.flatten(1)).view(rows)
        query = torch.einsum("bkd,kde->bke", self.queries(target), self.by_head(self.W_k, target)).flatten(0, 1)
        weight = self.dropout(masked_softmax(item_scores(query, found) * self.scale, real))  # (B·K, N)
        pooled = weighted_sum(weight, found).unflatten(0, places.shape[:2])  # (B, K, D)
        return self.W_o(torch.einsum("bke,kde->bkd", pooled, self.by_head(self.W_v, target)).flatten(1))
