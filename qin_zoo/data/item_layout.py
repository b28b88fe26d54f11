"""The files of an item-table data set: which columns tie rows, histories and items together, and opening them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qin_zoo.data import SPLITS
from qin_zoo.data.columns import Table, open_table
from qin_zoo.data.item_table import as_stored, open_item_table
from qin_zoo.data.rows import Specs, row_kinds
from qin_zoo.data.sources import open_source
from qin_zoo.data.specs import feature_specs, label_names, source_column
from qin_zoo.data.stored import Progress
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.feature_types import of_items

HISTORY = "item_seq"
USER, USER_HISTORY = "user_index", "full_item_seq"


@dataclass(frozen=True)
class Layout:
    """How a row names its item and its history.

    Attributes:
        target: the row's column with the target item; also the column that numbers the item table.
        kinds: the columns that tie the row to the rest, with their kinds.
    """

    target: str
    kinds: Mapping[str, str]


PER_ROW = Layout("item_id", {"item_id": "id", HISTORY: "history"})
PER_USER = Layout("item_index", {"item_index": "id", USER: "id", "seq_len": "id"})


def row_specs(specs: Specs) -> Specs:
    """The features that stand in the rows; the history, and what stands beside it, is none of them."""
    return {n: spec for n, spec in specs.items() if spec.get("source") not in ("item", "history") and n != HISTORY}


def history_specs(specs: Specs) -> Specs:
    """The features of the history's items, lists beside the history with a value for each of its items."""
    return {name: spec for name, spec in specs.items() if spec.get("source") == "history"}


def item_specs(specs: Specs) -> Specs:
    """The features of items, columns of the item table or computed from one."""
    return {name: spec for name, spec in specs.items() if of_items(spec)}


def item_column_types(specs: Specs) -> dict[str, str]:
    """The columns of the item table that the features need, with their types."""
    items = item_specs(specs)
    own = {name: str(as_stored(spec)["type"]) for name, spec in items.items() if not source_column(spec)}
    computed = {source: "embedding" for spec in items.values() if (source := source_column(spec))}
    return computed | own


def data_file(path: str | Path, suffixes: Sequence[str] = (".parquet",)) -> Path:
    """``path``, with the suffix added that FuxiCTR's users may leave out; ConfigError where it is none."""
    if not path or not isinstance(path, (str, Path)):
        raise ConfigError(
            f"expected the path of a data file, found {path!r}. Set train_data, valid_data and test_data "
            "in the dataset configuration."
        )
    path = Path(path)
    if path.suffix in suffixes or path.exists():
        return path
    longer = [path.with_name(path.name + suffix) for suffix in suffixes]
    return next((p for p in longer if p.exists()), longer[0] if not path.suffix else path)


def open_split(
    path: Path,
    specs: Specs,
    labels: Sequence[str],
    split: str,
    layout: Layout,
    task: str | Sequence[str] = "binary_classification",
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    further: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """The columns of one split: row features, labels (which the test split may lack), target, history, further ones."""
    kinds = row_kinds(row_specs(specs), labels, task) | dict(layout.kinds) | dict(further)
    if layout is PER_ROW:
        kinds |= dict.fromkeys(history_specs(specs), "history")
    optional = labels if split == "test" else ()
    copies = {name: str(spec["copy_of"]) for name, spec in row_specs(specs).items() if spec.get("copy_of")}
    if copies:
        stored = open_source(path).names
        copies = {name: source for name, source in copies.items() if name not in stored}
    for name, source in copies.items():
        kinds.setdefault(source, kinds.pop(name))
    table = open_table(path, kinds, optional=optional, cache_dir=cache_dir, progress=progress)
    return replace(table, columns=table.columns | {name: replace(table[s], name=name) for name, s in copies.items()})


@dataclass(frozen=True)
class ItemTableData:
    """An open item-table data set.

    Attributes:
        layout: how rows name items and histories.
        splits: ``train``, ``valid``, ``test`` -> table, of those that the configuration names.
        items: the item table; row i is item i.
    """

    layout: Layout
    splits: dict[str, Table]
    items: Table

    def columns_of(self, feature: str, spec: Mapping[str, Any]) -> list:
        """Every column that holds the feature."""
        if source_column(spec):
            return []  # computed: its sizes follow from its specification
        tables = [self.items] if of_items(spec) else []
        tables += [] if spec.get("source") == "item" else self.splits.values()
        return [table[feature] for table in tables if feature in table]


def item_info_of(params: Mapping[str, Any], data_path: Path | None) -> Path:
    """The item table's path: ``item_info``, or ``item_info.parquet`` beside the data file.

    Raises:
        ConfigError: neither is named.
        DataError: it is not there.
    """
    if params.get("item_info"):
        return data_file(params["item_info"])
    if data_path is None:
        raise ConfigError("item_info is missing: the path of the item table (item_info.parquet).")
    path = data_path.parent / "item_info.parquet"
    if not path.exists():
        raise DataError(f"{path}: no item table there. Name it: item_info: PATH in the dataset configuration.")
    return path


def open_data(
    params: Mapping[str, Any], cache_dir: str | Path | None = None, progress: Progress | None = None
) -> ItemTableData:
    """Opens the splits and the item table that a configuration names.

    Args:
        params: ``train_data``, ``valid_data``, ``test_data``, ``item_info``, ``user_info``, ``feature_cols``,
            ``label_col``, ``task``, as in FuxiCTR's configurations.

    Raises:
        DataError: a file or column that cannot be used.
        ConfigError: a configuration that cannot be used.
    """
    specs, labels = feature_specs(params), label_names(params)
    layout = PER_USER if params.get("user_info") else PER_ROW
    paths = {split: data_file(params[f"{split}_data"]) for split in SPLITS if params.get(f"{split}_data")}
    items = open_item_table(
        item_info_of(params, next(iter(paths.values()), None)), item_column_types(specs), layout.target, cache_dir
    )
    task = params.get("task") or "binary_classification"
    splits = {
        split: open_split(path, specs, labels, split, layout, task, cache_dir, progress)
        for split, path in paths.items()
    }
    return ItemTableData(layout, splits, items)
