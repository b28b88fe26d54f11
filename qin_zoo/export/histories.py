"""Users' histories of a dataset as a file that `qin-zoo serve --histories` looks them up in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.item_names import ID_FILE, original_ids
from qin_zoo.errors import ConfigError
from qin_zoo.serving.histories import write_histories

_USERS = "ids_user.parquet"
_CHUNK = 1 << 16  # rows whose histories are gathered at a time


def export_histories(dataset: Dataset, out: Path) -> int:
    """Writes each user's newest history: that of its last row, and the row's item where that was clicked.

    Rows are taken to stand in the order of time, the splits one behind the other. Ids are those of before the import
    where the dataset has them, of items and of users.

    Args:
        dataset: with an item table.
        out: file to write, ``NAME.npz``.

    Returns:
        the number of users.

    Raises:
        ConfigError: the dataset names no users, or its histories tell more than items.
    """
    splits = [split for split in SPLITS if dataset.has(split)]
    loaders = [dataset.loader(split, shuffle=False) for split in splits]
    length = loaders[0].histories.max_len
    users = np.concatenate([_users(dataset, split) for split in splits])
    place = np.concatenate([np.full(dataset.rows(split), k) for k, split in enumerate(splits)])
    row = np.concatenate([np.arange(dataset.rows(split)) for split in splits])
    names, last = np.unique(users[::-1], return_index=True)
    last = len(users) - 1 - last
    newest = np.zeros((len(names), length + 1), np.int32)  # the last column for what was clicked
    for k, (split, loader) in enumerate(zip(splits, loaders)):
        mine = np.flatnonzero(place[last] == k)
        clicked = np.zeros(dataset.rows(split), np.int32)
        if split != "test" and dataset.has_labels(split):
            clicked = np.where(dataset.labels(split) > 0, dataset.targets(split), 0)
        for first in range(0, len(mine), _CHUNK):
            part = mine[first : first + _CHUNK]
            rows = row[last[part]]
            newest[part, :length] = loader.histories.gather(rows, np.int32)
            newest[part, length] = clicked[rows]
    texts = _named(names, original_ids(dataset.folder / _USERS, "user_id")).astype(str)
    order = np.argsort(texts, kind="stable")
    newest, real = newest[order], newest[order] != 0
    items, ids = newest[real], original_ids(dataset.folder / ID_FILE)
    ends = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    write_histories(out, texts[order], ends, {"": _named(items, ids)}, "original" if ids else "table")
    return len(names)


def _users(dataset: Dataset, split: str) -> np.ndarray:
    loader = dataset.loader(split, shuffle=False)
    known = [name for name in (dataset.feature_map.group_id, "user_id", "user_index") if name in loader.table]
    if not known:
        raise ConfigError(
            f"{dataset.folder} names no users: expected a column user_id or user_index among its features, or group_id "
            "in its configuration. Leave --histories out, or let POST /events begin them."
        )
    return loader.table[known[0]].take(slice(None))


def _named(numbers: np.ndarray, names: dict[int, object]) -> np.ndarray:
    """The names of numbers, or the numbers themselves where they have none."""
    if not names:
        return numbers
    distinct, which = np.unique(numbers, return_inverse=True)
    return np.array([names.get(number, number) for number in distinct.tolist()])[which]
