"""What is known of a dataset's users, where `qin-zoo serve --histories` looks it up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.import_files import ID_FILE, log_end, original_ids, user_lists, user_side
from qin_zoo.errors import ConfigError
from qin_zoo.serving.histories import Users, write_histories
from qin_zoo.serving.items import ITEMS

_USERS = "ids_user.parquet"
_CHUNK = 1 << 16  # rows whose histories are gathered at a time


def export_histories(dataset: Dataset, where: str | Path) -> int:
    """Writes what a service looks up of each user: its newest history, and the row features that are the user's.

    Of a dataset that ``qin-zoo data import`` has written it is what a row after the whole log would say of the user. Of
    others it is the history of the user's last row, and the row's item where that was clicked; their rows are taken to
    stand in the order of time, the splits one behind the other. Ids are those of before the import where the dataset
    has them, of items and of users.

    Args:
        dataset: with an item table.
        where: file to write, ``NAME.npz``, or the address of Redis.

    Returns:
        the number of users.

    Raises:
        ConfigError: the dataset names no users, or its rows do not tell what stands beside the items of a history.
        QinZooError: Redis does not answer.
    """
    features = dataset.feature_map.features
    beside = [name for name, spec in features.items() if spec.get("source") == "history"]
    ids = original_ids(dataset.folder / ID_FILE)
    if (known := user_lists(dataset.folder, [ITEMS, *beside])) is not None:
        ends, lists = known
        numbers = np.arange(1, len(ends) - 1)  # user 0 is nobody
        side = {name: values[1:] for name, values in user_side(dataset.folder, features).items()}
        ends = ends[1:]
    elif beside:
        raise ConfigError(
            f"{dataset.folder}: expected user_state.parquet, which `qin-zoo data import` writes and where "
            f"{', '.join(beside)} of every user's history stand, found none. Import the data again."
        )
    else:
        numbers, ends, items = _of_rows(dataset)
        lists, side = {ITEMS: items}, {}
    texts = _named(numbers, original_ids(dataset.folder / _USERS, "user_id")).astype(str)
    order = np.argsort(texts, kind="stable")
    lengths = np.diff(ends)[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(ends[:-1][order] - starts[:-1], lengths) + np.arange(starts[-1])
    lists = {name: values[entries] for name, values in lists.items()}
    lists[ITEMS] = _named(lists[ITEMS], ids)
    lists = lists if beside else {"": lists[ITEMS]}
    side = {name: values[order] for name, values in side.items()}
    until = log_end(dataset.folder)
    write_histories(where, Users(texts[order], starts, lists, "original" if ids else "table", side, until))
    return len(numbers)


def _of_rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U,) users, (U + 1,) ends and the entries of the histories of their last rows."""
    loaders = {split: dataset.loader(split, shuffle=False) for split in SPLITS if dataset.has(split)}
    length = next(iter(loaders.values())).histories.max_len
    users = np.concatenate([_users(dataset, loader) for loader in loaders.values()])
    numbers, last = np.unique(users[::-1], return_index=True)
    last = len(users) - 1 - last
    newest = np.zeros((len(numbers), length + 1), np.int32)  # the last column for what was clicked
    begin = 0
    for split, loader in loaders.items():
        clicked = np.zeros(loader.num_samples, np.int32)
        if split != "test" and dataset.has_labels(split):
            clicked = np.where(dataset.labels(split) > 0, dataset.targets(split), 0)
        mine = np.flatnonzero((begin <= last) & (last < begin + loader.num_samples))
        for first in range(0, len(mine), _CHUNK):
            part = mine[first : first + _CHUNK]
            rows = last[part] - begin
            newest[part, :length] = loader.histories.gather(rows, np.int32)
            newest[part, length] = clicked[rows]
        begin += loader.num_samples
    real = newest != 0
    return numbers, np.concatenate([[0], np.cumsum(real.sum(axis=1))]), newest[real]


def _users(dataset: Dataset, loader) -> np.ndarray:
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
