"""Features of a row that are no counts: of its user, and of the interaction itself."""

from __future__ import annotations

import numpy as np

from qin_zoo.data.importers.items import Merge, own_names
from qin_zoo.data.importers.log import InteractionLog, Numbering
from qin_zoo.data.importers.words import Words
from qin_zoo.data.importers.write import Output


def user_features(
    log: InteractionLog, users: Numbering, out: Output, words: Words, notes: list[str]
) -> dict[str, np.ndarray]:
    """column -> (users + 1,) codes or scaled numbers; writes them, row i being user i."""
    size = len(users) + 1
    merge = Merge(words.before, users(log.user_ids) if len(log.user_ids) else np.empty(0, np.int32), size)
    columns = merge.kept("user_features.parquet")
    own = own_names([*log.user_columns, *log.user_numbers], "user")
    for original, values in log.user_columns.items():
        name = own[original]
        columns[name] = merge.over(columns.get(name), words.codes(name, values))
        if words.before is None and words.size(name) - 1 > len(users) / 2:
            notes.append(f"{name}: nearly as many values as users; not active in dataset_config.yaml.")
    for original, values in log.user_numbers.items():
        name = own[original]
        columns[name] = merge.over(columns.get(name), words.scaled(name, values), ~np.isnan(values))
    for name in columns:
        _feature(out, name, words, len(users))
    if columns:
        out.write_table("user_features.parquet", {"user_id": np.arange(size, dtype=np.int32), **columns})
    return columns


def context_features(log: InteractionLog, out: Output, words: Words) -> dict[str, np.ndarray]:
    """Column -> (n,) codes or scaled numbers of what was known of each interaction before its click."""
    columns = {}
    own = own_names([*log.context, *log.context_numbers], "context")
    for original, text in log.context.items():
        name = own[original]
        columns[name] = words.codes(name, text)
    for original, numbers in log.context_numbers.items():
        name = own[original]
        columns[name] = words.scaled(name, numbers)
    for name in columns:
        _feature(out, name, words, len(log.user))
    return columns


def _feature(out: Output, name: str, words: Words, many: int) -> None:
    if name in words.scales:
        out.feature(name, "numeric")
    else:
        size = words.size(name)
        out.feature(name, "categorical", active=size - 1 <= many / 2, vocab_size=size)
