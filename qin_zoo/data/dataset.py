"""The dataset of an experiment, whichever layout it has: feature map, splits, loaders, labels."""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qin_zoo.data import SPLITS
from qin_zoo.data.encode import encode_fields, encoder_file, find_encoded, is_raw, raw_rows
from qin_zoo.data.feature_map import build_feature_map, load_feature_map
from qin_zoo.data.item_layout import data_file, open_data
from qin_zoo.data.loader import ColumnLoader, FieldsLoader, ItemTableLoader
from qin_zoo.data.preprocess import expanded
from qin_zoo.data.sources import open_source
from qin_zoo.data.stored import Progress
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.feature_types import has_item_table

_FILES = ("train_data", "valid_data", "test_data", "item_info", "user_info")


class Dataset:
    """An open dataset.

    Args:
        params: the experiment's parameters, FuxiCTR's names.
        batch_layout: ``index`` or ``triple``, for a dataset with an item table; see ``ItemTableLoader``.
        progress: called with (file name, rows done, rows in all) while files are converted for the first time.
        as_fuxictr: take random numbers as FuxiCTR's loaders of these files do; see ``ColumnLoader``. Its loader of csv
            and parquet files takes none; shuffled, it gives another order in every run, and that of npz files is taken.

    Attributes:
        feature_map: FuxiCTR's feature map.

    Raises:
        QinZooError: a file or a configuration that cannot be used.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        batch_layout: str = "index",
        progress: Progress | None = None,
        as_fuxictr: bool = False,
    ):
        self._params = params
        self._options = {"progress": progress, "cache_dir": params.get("cache_dir")}
        self._loaders: dict[str, ColumnLoader] = {}
        if has_item_table(params):
            data = open_data(params, cache_dir=params.get("cache_dir"), progress=progress)
            self.feature_map = build_feature_map(params, data)
            self._loader_class: type[ColumnLoader] = ItemTableLoader
            self._options["batch_layout"] = batch_layout
        else:
            as_fuxictr = as_fuxictr and bool(params.get("shuffle", True) or params.get("data_format", "npz") == "npz")
            self._params = encode_fields(params, progress)
            self.feature_map = open_feature_map(self._params)
            self._loader_class = FieldsLoader
        self._options["as_fuxictr"] = as_fuxictr

    @property
    def folder(self) -> Path:
        """Where the training rows lie."""
        return Path(self._params["train_data"]).parent

    def has(self, split: str) -> bool:
        """Whether the configuration names a file for the split."""
        return bool(self._params.get(f"{split}_data"))

    def with_training_rows(self, file: Path) -> Dataset:
        """The same with other training rows, in a file that holds them as they are read: encoded."""
        return self._with(train_data=str(file))

    def with_batch_size(self, size: int) -> Dataset:
        """The same in batches of so many rows."""
        return self._with(batch_size=size)

    def _with(self, **changes: Any) -> Dataset:
        other = copy.copy(self)
        other._params, other._loaders = {**self._params, **changes}, {}
        return other

    def loader(self, split: str, shuffle: bool | None = None, batch_layout: str | None = None) -> ColumnLoader:
        """A loader of the split, shuffled as configured; its epochs count from the first ``iter()``.

        Args:
            split: ``train``, ``valid`` or ``test``.
            shuffle: overrides the configuration's.
            batch_layout: overrides the dataset's own.
        """
        self.require(split)
        params = {**self._params, **self._options}
        if batch_layout is not None:
            params["batch_layout"] = batch_layout
        if shuffle is not None:
            params["shuffle"] = shuffle
        return self._loader_class(self.feature_map, params[f"{split}_data"], split=split, **params)

    def require(self, split: str, labels: bool = False) -> None:
        """Raises DataError unless the configuration has the split, and where wanted its rows have labels."""
        if not self.has(split):
            raise DataError(
                f"Dataset '{self._params['dataset_id']}' names no file for its {split} split: add {split}_data to its "
                "configuration."
            )
        if labels and not self.has_labels(split):
            raise DataError(
                f"{self._params[f'{split}_data']}: no label column {self.feature_map.labels}, which the {split} split "
                "must have."
            )

    def rows(self, split: str) -> int:
        """Number of rows of the split."""
        return self._opened(split).num_samples

    def has_labels(self, split: str) -> bool:
        """Whether the split's rows have labels, all that there are."""
        return self._opened(split).has_label

    def labels(self, split: str, label: str | None = None) -> np.ndarray:
        """(N,) float64 labels of the split, in row order: the column ``label``, by default the first of the labels."""
        return self._column(split, label or self.feature_map.labels[0]).astype(np.float64)

    def group_ids(self, split: str) -> np.ndarray | None:
        """(N,) ids by which grouped metrics group the split's rows; None without a ``group_id``."""
        return self._column(split, self.feature_map.group_id) if self.feature_map.group_id else None

    def targets(self, split: str) -> np.ndarray:
        """(N,) target items of the split, in row order.

        Raises:
            ConfigError: the dataset has named fields, of which none is the item.
        """
        loader = self._opened(split)
        if not isinstance(loader, ItemTableLoader):
            raise ConfigError(f"Dataset '{self._params['dataset_id']}' has no item table: its rows name no items.")
        return loader.target.take(slice(None))

    def used_rows(self, split: str) -> np.ndarray:
        """The rows of the split that loaders give, (n,) int64: all, but of training those that a variation leaves."""
        loader = self._opened(split)
        return loader.table_rows(np.arange(loader.num_samples))

    def fingerprints(self) -> dict[str, dict]:
        """Name, rows and content hash of every file, for the record of a run."""
        return {split: self._opened(split).fingerprint for split in SPLITS if self.has(split)}

    @property
    def encoder_file(self) -> Path | None:
        """What was fitted to the training rows while raw files were encoded; None where there were none."""
        return None if has_item_table(self._params) else encoder_file(self._params)

    def sizes(self) -> dict[str, dict[str, int]]:
        """Feature -> the sizes that a model's weights depend on, and that may have been taken from the data."""
        keys = ("vocab_size", "max_len", "pretrain_dim")
        specs = {n: {k: s[k] for k in keys if s.get(k)} for n, s in self.feature_map.features.items()}
        return {name: sizes for name, sizes in specs.items() if sizes}

    def _opened(self, split: str) -> ColumnLoader:
        if split not in self._loaders:
            self._loaders[split] = self.loader(split, shuffle=False)
        return self._loaders[split]

    def _column(self, split: str, name: str) -> np.ndarray:
        return self._opened(split).table[name].take(slice(None))


def open_feature_map(params: Mapping[str, Any]):
    """The feature map of a dataset from its configuration, or its ``feature_map.json``; no rows are read.

    Raises:
        QinZooError: the configuration leaves sizes to the data, or the file is missing or of another dataset.
    """
    if has_item_table(params):
        return build_feature_map(params)
    params = find_encoded(params) or params
    default = Path(params.get("data_root", "./data/")) / params["dataset_id"] / "feature_map.json"
    return load_feature_map(params.get("feature_map_json", default), params)


def tables_beside(params: Mapping[str, Any]) -> dict[str, str]:
    """``user_info`` and ``item_info`` of a per-user dataset whose configuration leaves them out, as LongCTR's may.

    They are the files of these names beside the training rows, where the features are those of such a dataset.
    """
    columns = expanded(params.get("feature_cols") or [])
    if not {"user_index", "item_index", "seq_len"} <= {column.get("name") for column in columns}:
        return {}
    folder = Path(str(params.get("train_data") or "")).parent
    files = {key: folder / f"{key}.parquet" for key in ("user_info", "item_info") if not params.get(key)}
    return {key: str(file) for key, file in files.items() if file.is_file()}


def count_rows(params: Mapping[str, Any]) -> int:
    """Number of training rows in the file of a configuration, or its folder of raw ones; nothing else is read.

    Raises:
        DataError: the file is missing or has no rows.
        ConfigError: none is named.
    """
    path = data_file(params.get("train_data"), (".parquet", ".npz", ".csv"))
    return raw_rows(params) if not has_item_table(params) and is_raw(params) else open_source(path).num_rows


def relocate(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same dataset with all its files in another folder; DataError where there is no such folder.

    Files of one name, as ``train/part.csv`` and ``test/part.csv``, keep the folders by which they are told apart.
    """
    columns = params.get("feature_cols") or []
    vectors = [c["pretrained_emb"] for c in columns if c.get("pretrained_emb")]
    names = _names_of([*(params[key] for key in _FILES if params.get(key)), *vectors])
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with {', '.join(map(str, names.values()))}.")
    moved: dict[str, Any] = {key: str(folder / names[params[key]]) for key in _FILES if params.get(key)}
    if columns:
        moved["feature_cols"] = [
            {**c, "pretrained_emb": str(folder / names[c["pretrained_emb"]])} if c.get("pretrained_emb") else c
            for c in columns
        ]
    return {**params, **moved, "feature_map_json": str(folder / "feature_map.json")}


def _names_of(files: Iterable[str | Path]) -> dict[str | Path, Path]:
    """File -> its name; with the folders by which they differ where several have the same."""
    places, folders = {file: Path(os.path.abspath(file)) for file in files}, defaultdict(set)
    for place in places.values():
        folders[place.name].add(place.parent)
    return {file: place.relative_to(os.path.commonpath(folders[place.name])) for file, place in places.items()}
