"""Parts of a split that are worth a metric of their own: rows of items, or of users, with few clicks in training."""

from __future__ import annotations

import numpy as np

from qin_zoo.data.dataset import Dataset
from qin_zoo.errors import ConfigError

# Least number of clicks -> name of the part.
_PARTS = {0: "0", 1: "1–4", 5: "5–19", 20: "20–99", 100: "100+"}


def slice_rows(dataset: Dataset, split: str, kind: str) -> dict[str, np.ndarray]:
    """The split's rows by the clicks that their item or user has in the training rows.

    Args:
        kind: ``item_clicks`` or ``user_clicks``; users are told apart by ``group_id``.

    Returns:
        name of the part -> (n,) indices of its rows; parts without rows are left out.

    Raises:
        ConfigError: the dataset does not say whose rows they are.
    """
    if kind == "item_clicks":
        keys = dataset.targets
    elif dataset.group_ids(split) is not None:
        keys = dataset.group_ids
    else:
        raise ConfigError("slices: user_clicks needs a group_id, the column that says whose row it is.")
    used = dataset.used_rows("train")
    clicked = keys("train")[used][dataset.labels("train")[used] > 0]
    ids, number = np.unique(np.concatenate([clicked, keys(split)]), return_inverse=True)
    clicks = np.bincount(number[: len(clicked)], minlength=len(ids))[number[len(clicked) :]]
    part = np.searchsorted(list(_PARTS), clicks, side="right") - 1
    return {name: rows for i, name in enumerate(_PARTS.values()) if len(rows := np.flatnonzero(part == i))}
