"""What history and target have in common, counted: which of the history's items share a category, a tag, or content."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shared_ids(target: Tensor, history: Tensor) -> Tensor:
    """Which share of the target's ids each item of its row's history has.

    Args:
        target: (B,) ids, or (B, T) lists of them; 0 is none.
        history: (B, L) or (B, L, T'), or (1, …) for a history that all rows share.

    Returns:
        (B, L) float32; 0 where the target has no id.
    """
    if target.dim() == 1:
        return ((history == target.unsqueeze(1)) & (target != 0).unsqueeze(1)).float()
    real = target != 0  # (B, T)
    found = [(history == ids.view(-1, 1, 1)).any(dim=2) for ids in target.unbind(1)]  # of each place, (B, L)
    shared = sum((one & there.unsqueeze(1)).float() for one, there in zip(found, real.unbind(1)))
    return shared / real.sum(dim=1, keepdim=True).clamp(min=1)


class HistoryMatches(nn.Module):
    """A feature of a row: how much of the history matches the target, and what became of that.

    Of each weight w of the history's items, 1 for one that matches in some respect and 0 for one that does not:
    ln(1 + Σ w); and for each code c that is known of the items besides, such as whether they were clicked,
    4·Σ w·(c − c̄) / (1 + Σ w), c̄ being the row's mean and 4 what brings it near a deviation of 1. Of the history itself:
    ln(1 + length), c̄, and the mean of its newest five. Codes go from 0, the least, to 1, the greatest, the unknown
    being as the least; the numbers are mapped linearly.

    A network has to learn equality of ids from products of their embeddings, which a few thousand rows do not teach;
    that the categories match is what searches like SIM's hard one begin with (Pi et al., *Search-based User Interest
    Modeling with Lifelong Sequential Behavior Data*, CIKM 2020).

    Args:
        respects: number of weights.
        sizes: of each code beside the history's items one more than the greatest; 0 is unknown.
        output_dim: size of the feature.
    """

    newest, scale = 5, 4.0

    def __init__(self, respects: int, sizes: list[int], output_dim: int):
        super().__init__()
        self.sizes = sizes
        self.linear = nn.Linear((1 + respects) * (1 + len(sizes)) + len(sizes), output_dim)

    def forward(self, mask: Tensor, weights: list[Tensor], beside: list[Tensor]) -> Tensor:
        """The feature.

        Args:
            mask: (B, L) bool, true where the history has an item; oldest first.
            weights: (B, L) each, from 0 to 1.
            beside: codes of the history's items, (B, L) or (1, L) each, 0 where there is none.

        Returns:
            (B, output_dim).
        """
        real = mask.float()
        length = real.sum(dim=1)  # (B,)
        later = length.unsqueeze(1) - real.cumsum(dim=1)  # items of the history that came after each
        new = real * (later < self.newest)
        numbers, liking = [torch.log1p(length)], []
        for size, codes in zip(self.sizes, beside):
            code = (codes.float() - 1).clamp(min=0) * real / max(size - 2, 1)
            mean = code.sum(dim=1) / length.clamp(min=1)
            numbers += [mean, (code * new).sum(dim=1) / new.sum(dim=1).clamp(min=1)]
            liking.append(self.scale * (code - mean.unsqueeze(1)) * real)
        for weight in weights:
            weight = weight.float() * real
            total = weight.sum(dim=1)
            numbers += [torch.log1p(total), *((likes * weight).sum(dim=1) / (1 + total) for likes in liking)]
        return self.linear(torch.stack(numbers, dim=1))
