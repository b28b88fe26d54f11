"""FuxiCTR feature maps: built from a dataset configuration, or read from a checked ``feature_map.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr.features import FeatureMap

from qin_zoo.data.item_layout import HISTORY, ItemTableData
from qin_zoo.data.rows import check_spec
from qin_zoo.data.specs import Spec, check_known, check_spec_shape, feature_specs, label_names
from qin_zoo.errors import ConfigError, DataError


def build_feature_map(params: Mapping[str, Any], data: ItemTableData | None = None) -> FeatureMap:
    """The feature map of an item-table data set, straight from its configuration.

    Args:
        params: ``dataset_id``, ``feature_cols``, ``label_col``, and optionally ``data_root`` ("../data/"),
            ``group_id``, ``embedding_dim``, ``use_features``, ``feature_specs``, as FuxiCTR reads them.
        data: the open data set (``item_layout.open_data(params)``), from which a missing ``vocab_size``, ``max_len``
            or ``pretrain_dim`` is filled and against which given ones are checked. None: nothing is read, and
            nothing may be missing.

    Raises:
        ConfigError: a configuration that cannot be used, or lacks a size while ``data`` is None.
        DataError: a size that disagrees with the data.
    """
    dataset_id = params.get("dataset_id")
    if not isinstance(dataset_id, str) or not dataset_id:
        raise ConfigError(f"dataset_id: expected the name of a data set, found {dataset_id!r}.")
    where = f"dataset '{dataset_id}'"
    features = feature_specs(params)
    if data is not None:
        for name, spec in features.items():
            _fill(name, spec, data)
    _share(features, where)

    feature_map = FeatureMap(dataset_id, os.path.join(params.get("data_root") or "../data/", dataset_id))
    feature_map.labels = label_names(params)
    feature_map.group_id = params.get("group_id")
    feature_map.default_emb_dim = params.get("embedding_dim")
    feature_map.features.update(_overridden(features, params, where))
    for name, spec in feature_map.features.items():
        if spec["type"] == "sequence" and "max_len" not in spec:
            spec["max_len"] = 0  # as in FuxiCTR: the item table itself says how long its lists are
        check_spec_shape(spec, f"{where}, feature '{name}'", complete=True)
        if data is not None:
            for column in data.columns_of(name, spec):
                check_spec(column, name, spec)
    if data is not None:
        _check_items(data)
    feature_map.total_features = sum(_size(spec) for spec in features.values())
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.set_column_index()
    return feature_map


def load_feature_map(path: str | Path, params: Mapping[str, Any]) -> FeatureMap:
    """A ``feature_map.json`` of FuxiCTR's preprocessing, checked before FuxiCTR reads it.

    Args:
        path: the file.
        params: ``dataset_id``, which must be the file's, and optionally ``group_id``, ``embedding_dim``,
            ``use_features``, ``feature_specs``.

    Raises:
        DataError: no such file, or not JSON of a feature map.
        ConfigError: a feature that cannot be used, or a name that the file does not know.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). FuxiCTR's preprocessing writes this "
            "file beside the encoded data."
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found something else ({error}).") from None
    if not isinstance(content, dict) or not isinstance(content.get("features"), list):
        raise DataError(f"{path}: expected an object with a list of features, found {str(content)[:60]!r}.")
    labels = content.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{path}: expected labels to be a list of names, found {labels!r}.")
    if content.get("dataset_id") != params.get("dataset_id"):
        raise ConfigError(
            f"{path}: expected the dataset_id {params.get('dataset_id')!r} of the configuration, found "
            f"{content.get('dataset_id')!r}. Name the feature map of that data set."
        )
    features: dict[str, Spec] = {}
    for entry in content["features"]:
        if not isinstance(entry, dict):
            raise DataError(f"{path}: expected each of features to be {{name: {{type: …}}}}, found {entry!r}.")
        features.update(entry)
    for name, spec in features.items():
        check_spec_shape(spec, f"{path}, feature '{name}'")
    for name, spec in _overridden(features, params, str(path)).items():
        check_spec_shape(spec, f"{path}, feature '{name}'", complete=True)
    feature_map = FeatureMap(content["dataset_id"], str(path.parent))
    feature_map.load(str(path), dict(params))
    for spec in feature_map.features.values():
        spec.setdefault("source", "")  # FuxiCTR's embedding layer looks it up
    return feature_map


def _overridden(features: Mapping[str, Spec], params: Mapping[str, Any], where: str) -> dict[str, Spec]:
    """The features as ``use_features`` selects and ``feature_specs`` changes them."""
    chosen = params.get("use_features") or list(features)
    check_known(chosen, features, f"{where}, use_features")
    out = {name: dict(features[name]) for name in chosen}
    for change in params.get("feature_specs") or []:
        if not isinstance(change, Mapping) or not change.get("name"):
            raise ConfigError(f"{where}, feature_specs: expected entries {{name: …, …}}, found {change!r}.")
        names = change["name"] if isinstance(change["name"], list) else [change["name"]]
        check_known(names, out, f"{where}, feature_specs")
        for name in names:
            out[name].update((key, value) for key, value in change.items() if key != "name")
    return out


def _fill(name: str, spec: Spec, data: ItemTableData) -> None:
    """Fills the sizes that the configuration leaves to the data."""
    columns = data.columns_of(name, spec)
    if not columns or name == HISTORY:
        return
    if spec["type"] in ("categorical", "sequence") and "vocab_size" not in spec:
        spec["vocab_size"] = int(max(column.max for column in columns)) + 1
    if spec["type"] == "sequence" and not spec.get("max_len"):
        spec["max_len"] = max(column.longest for column in columns)
    if spec["type"] == "embedding" and "pretrain_dim" not in spec:
        spec["pretrain_dim"] = columns[0].width


def _share(features: Mapping[str, Spec], where: str) -> None:
    """Gives features that share an embedding the size of the largest among them."""
    owner_of: dict[str, str] = {}  # of the features so far that have ids
    for name, spec in features.items():
        shared = spec.get("share_embedding")
        if shared is not None:
            check_known([shared], owner_of, f"{where}, feature '{name}', share_embedding (it must come earlier)")
        if spec["type"] in ("categorical", "sequence"):
            owner_of[name] = owner_of[shared] if shared else name
    for owner in owner_of.values():
        group = [features[name] for name, other in owner_of.items() if other == owner]
        sizes = [spec["vocab_size"] for spec in group if "vocab_size" in spec]
        for spec in group:
            spec.update({"vocab_size": max(sizes)} if sizes else {})


def _check_items(data: ItemTableData) -> None:
    """Raises DataError when a row names an item beyond the item table."""
    what = f"the rows of the item table {data.items.path}"
    for table in data.splits.values():
        for name in (data.layout.target, HISTORY):
            if name in table:
                table[name].check_below(data.items.num_rows, what)


def _size(spec: Spec) -> int:
    """A feature's share in FuxiCTR's ``total_features``."""
    if spec["type"] == "numeric":
        return 1
    return 0 if "share_embedding" in spec else spec.get("vocab_size", 0)
