"""How similar the history is to the target, by vectors that describe content: cosines, and counts of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.layers.history import History, item_scores, map_items

_ROUNDING = 1e-5  # of a tier: an item's cosine with itself is 1 on every machine


@torch.no_grad()
def cosines(target: Tensor, history: History) -> Tensor:
    """The cosine of each target with each item of its row's history, without gradient.

    Args:
        target: (B, d).
        history: (B, L, d), item rows, or a shared history.

    Returns:
        (B, L); exactly 0 where one of the two is a vector of zeros: padding, or an item of which nothing is known.
    """

    def unit(vectors: Tensor) -> Tensor:
        return F.normalize(vectors.float(), dim=-1)

    if isinstance(history, Tensor):  # as a matrix product it would be one of bfloat16s where those are asked for
        return (unit(history) * unit(target).unsqueeze(1)).sum(dim=2)
    return item_scores(unit(target), map_items(unit, history))


class SimTier(nn.Module):
    """The number of history items in each tier of similarity to the target.

    Tiers have one width and hold their upper end. Sheng et al., *Enhancing Taobao Display Advertising with Multimodal
    Representations: Challenges, Approaches and Insights*, CIKM 2024 (arXiv 2407.19467), counts; MUSE (arXiv 2512.07216)
    takes logarithms and weighs them.

    Args:
        num_tiers: N, tiers of [−1, 1].
        learned: ``ln(1 + count_j) · e_j``, e learned, as in MUSE, which keeps two tiers more: one below the others,
            for −1 itself, and one above 1.

    Attributes:
        output_dim: N, or N + 2 where learned.
    """

    def __init__(self, num_tiers: int = 10, learned: bool = False):
        super().__init__()
        self.num_tiers = num_tiers
        self.output_dim = num_tiers + 2 if learned else num_tiers
        self.weight = nn.Parameter(torch.randn(self.output_dim)) if learned else None

    def forward(self, cosine: Tensor, mask: Tensor) -> Tensor:
        """Features of the tiers.

        Args:
            cosine: (B, L), of :func:`cosines`.
            mask: (B, L), true where it is counted: where the history has an item, and the item a vector.

        Returns:
            (B, output_dim) float32.
        """
        tier = torch.ceil((cosine + 1) * (self.num_tiers / 2) - _ROUNDING).long()  # (B, L)
        tier = (tier if self.weight is not None else tier - 1).clamp(0, self.output_dim - 1)
        count = cosine.new_zeros(cosine.shape[0], self.output_dim).scatter_add(1, tier, mask.to(cosine.dtype))
        return count if self.weight is None else torch.log1p(count) * self.weight
