"""Several pairs of target and history in one model, as FuxiCTR's lists of fields make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class PerPair(nn.ModuleList):
    """One layer for each pair, their results side by side. Without any pair the result has no numbers.

    Args:
        layers: of each pair: an interest layer, or a map of item vectors.
        dims: size of each pair's item vectors.
    """

    def __init__(self, layers: Iterable[nn.Module], dims: Iterable[int]):
        super().__init__(layers)
        self.dims = list(dims)

    def forward(self, target: Tensor, *others: list) -> Tensor:
        """Interests, or mapped targets.

        Args:
            target: (B, sum of dims), the pairs' targets side by side.
            *others: for interest layers the histories and masks, lists with one of each pair.

        Returns:
            (B, sum of the layers' own).
        """
        pairs = zip(self, target.split(self.dims, dim=-1), *others)
        found = [layer(*pair) for layer, *pair in pairs]
        return torch.cat(found, dim=-1) if found else target


def each_pair(function: Callable, *values):
    """``function`` of what each pair has: of lists, one result for each; of anything else, that of the only pair."""
    return [function(*pair) for pair in zip(*values)] if isinstance(values[0], list) else function(*values)
