"""The features and labels that stand in the rows of a split, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qin_zoo.data.columns import Table
from qin_zoo.data.histories import gather_lists
from qin_zoo.data.item_table import kind_of
from qin_zoo.data.sources import at
from qin_zoo.data.stored import Column
from qin_zoo.errors import ConfigError, DataError

Specs = Mapping[str, Mapping[str, object]]


def row_kinds(
    specs: Specs, labels: Sequence[str], task: str | Sequence[str] = "binary_classification"
) -> dict[str, str]:
    """The kinds of the columns to open for these features and labels; ``task`` is that of all labels or a list."""
    tasks = [task] * len(labels) if isinstance(task, str) else task
    kinds = {name: kind_of(spec) for name, spec in specs.items()} | dict.fromkeys(labels, "label")
    return kinds | {name: "response" for name, task in zip(labels, tasks) if task == "regression"}


def weight_kind(name: str | None, split: str, specs: Specs, labels: Sequence[str]) -> dict[str, str]:
    """The column that says what each training row counts, with its kind; empty for other splits, and without one.

    Raises:
        ConfigError: the column is a feature or a label, too.
    """
    if name is None or split != "train":
        return {}
    if name in specs or name in labels:
        raise ConfigError(
            f"sample_weight names '{name}', which is a {'label' if name in labels else 'feature'} too: expected a "
            "column of the training rows that is neither. Take it out of feature_cols, or write it to another column."
        )
    return {name: "float"}


def check_weight(column: Column) -> None:
    """Raises DataError where a row counts less than nothing."""
    if column.min < 0:
        row = int(np.flatnonzero(column.values < 0)[0])
        raise DataError(
            f"{at(column.path, column.name, row)}: expected what the row counts (sample_weight), at least 0, found "
            f"{column.values[row]}. Correct the file."
        )


class RowReader:
    """Reads row features and labels as arrays.

    Args:
        table: an open split.
        specs: feature name -> specification, of the features that stand in the rows.
        labels: label columns; those the table lacks are left out.

    Raises:
        DataError: an id beyond a feature's ``vocab_size``, a list longer than its ``max_len``, a vector of
            another length than its ``pretrain_dim``.
    """

    def __init__(self, table: Table, specs: Specs, labels: Sequence[str]) -> None:
        for name, spec in specs.items():
            check_spec(table[name], name, spec)
        self._lists = {
            name: (table[name], int(spec.get("max_len") or table[name].longest))
            for name, spec in specs.items()
            if table[name].kind == "ids"
        }
        self._scalars = {
            name: (table[name], np.float32 if table[name].values.dtype.kind == "f" else np.int64)
            for name in specs
            if name not in self._lists
        }
        self._scalars |= {name: (table[name], np.float32) for name in labels if name in table}

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> (B,) int64 ids or float32 numbers and labels, (B, max_len) int64 lists, (B, dim) vectors."""
        out = {name: column.take(rows).astype(dtype, copy=False) for name, (column, dtype) in self._scalars.items()}
        for name, (column, length) in self._lists.items():
            out[name] = gather_lists(column.values, *column.bounds(rows), length, align="left")
        return out


def check_spec(column: Column, feature: str, spec: Mapping[str, object]) -> None:
    """Raises DataError when a column holds what the feature's specification has no room for."""
    if "vocab_size" in spec and column.kind in ("id", "ids", "history"):
        size = int(spec["vocab_size"])
        column.check_below(
            size,
            f"the vocab_size of feature '{feature}': set it to {column.max + 1} and train with that, or correct the "
            "data (0 stands for a value that is not known)",
        )
    cut = spec.get("max_len") and column.kind == "ids" and spec.get("source") != "item"
    if cut and column.longest > int(spec["max_len"]):
        raise DataError(
            f"{at(column.path, column.name)}: expected lists of at most {spec['max_len']} ids, the "
            f"max_len of feature '{feature}'; found one of {column.longest}. Set max_len to that."
        )
    if "pretrain_dim" in spec and column.kind == "floats" and column.width != spec["pretrain_dim"]:
        raise DataError(
            f"{at(column.path, column.name)}: expected vectors of {spec['pretrain_dim']} numbers, "
            f"the pretrain_dim of feature '{feature}'; found {column.width}. Set pretrain_dim to that."
        )
