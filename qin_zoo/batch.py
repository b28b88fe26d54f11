"""The batch of the item-table layout, shared by the data path that makes it and the models that read it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class ItemBatch:
    """Rows, with histories and targets as indices into an item table.

    Attributes:
        rows: the columns of the rows, label included: name -> (B,), or (B, ...) for list columns.
        history: (B, L) int64 item ids, oldest first, 0 where there is no item.
        target: (B,) int64 item ids.
        items: the item table: feature name -> (N, ...); row i describes item i, row 0 is padding.
        beside: what is known of each item of the history besides, such as its rating: feature name -> (B, L) int64 ids,
            0 where there is no item. Of a target nothing is known: it has 0.
    """

    rows: dict[str, Tensor]
    history: Tensor
    target: Tensor
    items: dict[str, Tensor]
    beside: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.target.shape[0]

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, true where the history has an item."""
        return self.history != 0

    @property
    def item_ids(self) -> Tensor:
        """(B, L + 1) int64: ``[history…, target]``."""
        return torch.cat([self.history, self.target.unsqueeze(1)], dim=1)

    def triple(self) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The public challenge batch ``(batch_dict, item_dict, mask)``.

        Returns:
            row columns (B, ...); item features of the flattened ``[history…, target]`` ids
            (B·(L+1), ...); float mask (B, L).
        """
        ids = self.item_ids.flatten()
        item_dict = {name: table[ids] for name, table in self.items.items()}
        item_dict |= {name: pad(values, (0, 1)).flatten() for name, values in self.beside.items()}
        return dict(self.rows), item_dict, self.mask.float()
