"""MUSE's two attentions to some places of a history (Taobao, arXiv 2512.07216): by keys, and by keys and content."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qin_zoo.layers.history import History, ItemRows, SharedHistory, item_scores, map_items, weighted_sum
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax
from qin_zoo.layers.retrieval import take


def mask_at(places: Tensor, mask: Tensor) -> Tensor:
    """The mask (B, L) where one of the places (B, N) stands, false elsewhere."""
    return mask & torch.zeros_like(mask).scatter(1, places, True)


def at_places(places: Tensor, history: History, mask: Tensor, *values: Tensor) -> tuple[History, ...]:
    """What stands at some places of a history, and there alone.

    Args:
        places: (B, N) int64, none twice.
        history: see ``InterestLayer``.
        mask: (B, L), true where there is something to see.
        *values: (B, L) each.

    Returns:
        history, mask and values with N places; of a shared history the whole, the mask being true at those places only.
    """
    if isinstance(history, SharedHistory):  # two matrix products cost less than vectors for each row
        return history, mask_at(places, mask), *values
    found = take(history, places)
    if isinstance(found, ItemRows) and found.index.numel() < len(found.table):
        found = found.dense()
    return found, *(value.gather(1, places) for value in (mask, *values))


class KeyAttention(InterestLayer):
    """``Σ_l a_l k_l`` with ``k_l = W_k h_l + b_k`` and ``a = softmax(k_l·q)``: the values are the keys. Not scaled.

    Args:
        input_dim: D, size of an item representation.
    """

    def __init__(self, input_dim: int):
        super().__init__()
        self.query, self.key = nn.Linear(input_dim, input_dim), nn.Linear(input_dim, input_dim)

    def weights(self, target: Tensor, history: History, mask: Tensor, places: Tensor) -> Tensor:
        mask = mask_at(places, mask)
        return masked_softmax(item_scores(self.query(target), map_items(self.key, history)), mask)

    def forward(self, target: Tensor, history: History, mask: Tensor, places: Tensor) -> Tensor:
        """Interest of the user in the target, (B, D), at the places (B, N) where the mask is true."""
        history, mask = at_places(places, history, mask)
        keys = map_items(self.key, history)
        return weighted_sum(masked_softmax(item_scores(self.query(target), keys), mask), keys)


class ContentAttention(InterestLayer):
    """MUSE's SA-TA: scores ``β_1 ρ + β_2 γ + β_3 ρ γ`` from ids, ``ρ_l = q·k_l``, and content, ``γ_l = cos_l / τ``.

    A SiLU stands behind each of the maps to q, k and v; τ and β are learned.

    Args:
        input_dim: D, size of an item representation.
    """

    def __init__(self, input_dim: int):
        super().__init__()
        self.query, self.key, self.value = (
            nn.Sequential(nn.Linear(input_dim, input_dim), nn.SiLU()) for _ in range(3)
        )
        self.tau, self.beta = nn.Parameter(torch.tensor([0.1])), nn.Parameter(torch.ones(3))

    def _scores(self, target: Tensor, history: History, cosine: Tensor) -> Tensor:
        by_id, by_content = item_scores(self.query(target), map_items(self.key, history)), cosine / self.tau
        return self.beta[0] * by_id + self.beta[1] * by_content + self.beta[2] * by_id * by_content

    def weights(self, target: Tensor, history: History, mask: Tensor, places: Tensor, cosine: Tensor) -> Tensor:
        mask = mask_at(places, mask)
        return masked_softmax(self._scores(target, history, cosine), mask)

    def forward(self, target: Tensor, history: History, mask: Tensor, places: Tensor, cosine: Tensor) -> Tensor:
        """Interest of the user in the target, (B, D).

        Args:
            target, history, mask: see ``InterestLayer``.
            places: (B, N) the places that are looked at.
            cosine: (B, L) of the target's content with each item's.
        """
        history, mask, cosine = at_places(places, history, mask, cosine)
        weight = masked_softmax(self._scores(target, history, cosine), mask)
        return weighted_sum(weight, map_items(self.value, history))


def masked_mean(history: History, mask: Tensor) -> Tensor:
    """The mean of the history where the mask (B, L) is true, (B, D); zeros where it never is."""
    real = mask.float()
    return weighted_sum(real / real.sum(dim=1, keepdim=True).clamp(min=1), history)
