"""FuxiCTR feature maps: built from a dataset configuration, or read from a checked ``feature_map.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr.features import FeatureMap

from qin_zoo.data.item_layout import HISTORY, ItemTableData, row_specs
from qin_zoo.data.rows import check_spec
from qin_zoo.data.sources import at
from qin_zoo.data.specs import (
    Spec,
    check_feature_name,
    check_known,
    check_spec_shape,
    feature_specs,
    field_groups,
    label_names,
)
from qin_zoo.data.stored import Column
from qin_zoo.errors import ConfigError, DataError, first_line
from qin_zoo.feature_types import can_be_embedded, has_table, names_of, type_of

_DENSE = 1_000_000  # ids that may be left out of: their embeddings are small
_SPARSE = 10  # ids for each value that there is
MAX_BYTES = 16_000_000  # of a feature_map.json: those of thousands of features have a hundredth of it


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
    group = params.get("group_id")
    if group in features and group not in row_specs(features):
        raise ConfigError(
            f"{where}: group_id names '{group}', which is of items alone, not of rows. Group by a column of rows, or "
            "by a copy of one: {name: group, dtype: int, type: meta, preprocess: copy_from(item_id)}."
        )
    for name, spec in feature_map.features.items():
        if spec["type"] == "sequence" and "max_len" not in spec:
            spec["max_len"] = 0  # as in FuxiCTR: the item table itself says how long its lists are
        check_spec_shape(spec, f"{where}, feature '{name}'", complete=True)
        if data is not None:
            for column in data.columns_of(name, spec):
                check_spec(column, name, spec)
    if data is not None:
        for name in data.layout.kinds:
            spec = feature_map.features.get(name)
            if name != HISTORY and spec and type_of(spec).width:
                raise ConfigError(
                    f"{where}, feature '{name}': expected type categorical or meta, as the column holds one id in each "
                    f"row, found {spec['type']}."
                )
        what = f"the rows of the item table {data.items.path}"
        for table in data.splits.values():
            for name in {data.layout.target, HISTORY} & table.columns.keys():
                table[name].check_below(data.items.num_rows, what)
    _check_together(feature_map, params, where, features)
    own = (spec for spec in features.values() if "share_embedding" not in spec)
    feature_map.total_features = sum(s.get("vocab_size", type_of(s).form == "number") for s in own)
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
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("features"), list):
        raise DataError(f"{path}: expected an object with a list of features, found {str(content)[:60]!r}.")
    labels = content.get("labels")
    if not isinstance(labels, list) or not labels:
        raise DataError(f"{path}: expected labels to be a list of names, found {labels!r:.80}.")
    for label in labels:
        check_feature_name(label, f"{path}, labels")
    if content.get("dataset_id") != params.get("dataset_id"):
        raise ConfigError(
            f"{path}: expected the dataset_id {params.get('dataset_id')!r} of the configuration, found "
            f"{content.get('dataset_id')!r:.80}. Name the feature map of that data set."
        )
    total = content.get("total_features", 0)
    if type(total) is not int:
        raise DataError(f"{path}: expected total_features to be a whole number, found {total!r:.80}.")
    features = _features_of(content["features"], path)

    # Not FuxiCTR's own ``load``: it would read the file again, which may by then be another than the one checked.
    feature_map = FeatureMap(content["dataset_id"], str(path.parent))
    feature_map.labels = labels
    feature_map.total_features = total
    feature_map.group_id = params.get("group_id")
    feature_map.default_emb_dim = params.get("embedding_dim")
    feature_map.features.update(features)
    feature_map.num_fields = feature_map.get_num_fields()
    if feature_map.group_id is not None:
        check_known([feature_map.group_id], features, f"{path}, group_id")
    feature_map.features.clear()
    feature_map.features.update(_overridden(features, params, str(path)))
    for name, spec in feature_map.features.items():
        check_spec_shape(spec, f"{path}, feature '{name}'", complete=True)
        spec.setdefault("source", "")  # FuxiCTR's embedding layer looks it up
        if "pretrained_emb" in spec or spec.get("unknown_rate"):
            words = _vocabulary(path.with_name("feature_vocab.json"), name, spec)
            spec["oov_idx"] = spec.get("oov_idx", words.get("__OOV__"))
    _check_together(feature_map, params, str(path), features)
    feature_map.set_column_index()
    return feature_map


def _read_json(path: Path) -> object:
    def refuse(constant: str):
        raise ValueError(f"the number {constant}")

    def once(pairs: list[tuple[str, object]]) -> dict:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r:.80} stands there twice")
        return mapping

    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            raise DataError(f"{path}: expected a file, found a folder or a device.")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES:,} bytes; no feature map is. Is it a data file?")
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=once, parse_constant=refuse)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). FuxiCTR's preprocessing writes this "
            "file beside the encoded data."
        ) from None
    except RecursionError:
        raise DataError(f"{path}: nested too deep for a feature map.") from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found something else ({error}).") from None


def _vocabulary(path: Path, name: str, spec: Spec) -> dict[str, int]:
    """The ids of a feature's words, which FuxiCTR's preprocessing wrote to ``path``; DataError where it did not."""
    content = _read_json(path)
    words = content.get(name) if isinstance(content, dict) else None
    if not isinstance(words, dict) or ("oov_idx" not in spec and "__OOV__" not in words):
        what = f"the words of feature '{name}', __OOV__ among them, with their ids"
        raise DataError(f"{path}: expected {what}, found {words!r:.80}.")
    for word, number in words.items():
        if type(number) is not int or not 0 <= number < spec["vocab_size"]:
            raise DataError(
                f"{path}, feature '{name}': expected the id of {word!r:.80} to be a whole number below the vocab_size "
                f"{spec['vocab_size']}, found {number!r:.80}."
            )
    return words


def _features_of(entries: list, path: Path) -> dict[str, Spec]:
    """The features of a ``feature_map.json``, checked one by one; what is null counts as not given."""
    features: dict[str, Spec] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{path}: expected each of features to be {{name: {{type: …}}}}, found {entry!r:.80}.")
        for name, spec in entry.items():
            check_feature_name(name, f"{path}, features")
            if name in features:
                raise DataError(f"{path}: feature '{name}' is given twice. Keep one of them.")
            check_spec_shape(spec, f"{path}, feature '{name}'")
            features[name] = {key: value for key, value in spec.items() if value is not None}
    return features


def _overridden(features: Mapping[str, Spec], params: Mapping[str, Any], where: str) -> dict[str, Spec]:
    """The features as ``use_features`` selects and ``feature_specs`` changes them."""
    chosen = params.get("use_features") or list(features)
    check_known(chosen, features, f"{where}, use_features")
    out = {name: dict(features[name]) for name in chosen}
    for change in params.get("feature_specs") or []:
        if not isinstance(change, Mapping) or not change.get("name"):
            raise ConfigError(f"{where}, feature_specs: expected entries {{name: …, …}}, found {change!r}.")
        names = names_of(change)
        check_known(names, out, f"{where}, feature_specs")
        for name in names:
            out[name].update((key, value) for key, value in change.items() if key != "name")
    return out


def _check_together(feature_map: FeatureMap, params: Mapping[str, Any], where: str, known: Mapping[str, Spec]) -> None:
    """Raises ConfigError where the features in use, of all ``known`` ones, or the configuration do not fit together."""
    features = feature_map.features
    for label in feature_map.labels:
        if features.get(label, {}).get("type", "meta") != "meta":
            raise ConfigError(f"{where}: '{label}' is the label and a feature too; the model would see its answer.")
    seen: dict[str, Spec] = {}
    for name, spec in features.items():
        at = f"{where}, feature '{name}'"
        if type_of(spec).embedded and not can_be_embedded(name):
            raise ConfigError(f"{at}: torch cannot keep an embedding under this name. Rename the column.")
        shared = spec.get("share_embedding")
        if shared is not None:
            check_known([shared], known, f"{at}, share_embedding")
        if shared in features:
            if not has_table(spec):
                raise ConfigError(f"{at}: share_embedding is for categorical and sequence features. Remove it.")
            check_known([shared], seen, f"{at}, share_embedding (it must come earlier)")
            for key in ("vocab_size", "embedding_dim"):
                own, other = (s.get(key, feature_map.default_emb_dim) for s in (spec, seen[shared]))
                if own != other and (key == "embedding_dim" or own > other) and key in spec:
                    raise ConfigError(
                        f"{at}: {key} {own} does not fit the {other} of '{shared}', whose embedding it shares."
                    )
        if has_table(spec):
            seen[name] = seen.get(shared, spec)
        _check_encoder_output(name, spec, features, feature_map.default_emb_dim, at)
    _check_fields(features, params, where)


def _check_fields(features: Mapping[str, Spec], params: Mapping[str, Any], where: str) -> None:
    """Targets and histories of named fields: which types they can have."""
    for key in ("target_field", "sequence_field"):
        groups = field_groups(params.get(key))
        names = [name for group in groups for name in group]
        once = groups if key == "target_field" else [names]  # a target may have several histories
        if any(len(set(part)) < len(part) for part in once):
            raise ConfigError(f"{where}, {key}: expected each feature once, found {params[key]}.")
        for name in names:
            check_known([name], features, f"{where}, {key}")
            kind = features[name]["type"]
            if kind == "meta" or (key == "sequence_field" and kind != "sequence"):
                wanted = "a sequence" if key == "sequence_field" else "a feature with an embedding"
                raise ConfigError(f"{where}, {key}: expected {wanted}, found '{name}', which is of type {kind}.")
        for group in groups if key == "sequence_field" else ():
            lengths = {name: features[name]["max_len"] for name in group}
            if len(set(lengths.values())) > 1 or 0 in lengths.values():
                raise ConfigError(f"{where}, {key}: expected sequences of one length, found the max_len {lengths}.")


def _check_encoder_output(
    name: str, spec: Spec, features: Mapping[str, Spec], default_dim: int | None, where: str
) -> None:
    """Raises ConfigError unless the feature's encoder returns vectors of the size that the specification says."""
    encoder = spec.get("feature_encoder")
    dim = features.get(spec.get("share_embedding", ""), spec).get("embedding_dim", default_dim)
    usual = encoder in (None, type_of(spec).feature_encoder)
    expected = spec.get("emb_output_dim", dim)
    if not type_of(spec).embedded or dim is None or (usual and expected == dim):
        return
    import torch

    from qin_zoo.fuxi import FeatureEmbeddingDict

    one = FeatureMap("one", ".")
    one.features[name] = {key: spec[key] for key in ("type", "source", "feature_encoder") if key in spec} | {
        "vocab_size": 2,
        "pretrain_dim": spec.get("pretrain_dim"),
    }
    shape = type_of(spec).shape(2, {"max_len": spec.get("max_len") or 1, "dim": spec.get("pretrain_dim")})
    try:
        with torch.device("meta"):  # sizes only: nothing is allocated or computed
            returned = FeatureEmbeddingDict(one, dim)({name: torch.zeros(shape)})[name].shape
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(f"{where}: feature_encoder {encoder!r} does not fit. {first_line(error)}") from error
    if len(returned) not in (2, 3) or returned[-1] != expected:
        raise ConfigError(
            f"{where}: expected feature_encoder {encoder!r} to return vectors of {expected} numbers (emb_output_dim, "
            f"or embedding_dim where that is not given), found the shape {tuple(returned)} for two rows."
        )


def _fill(name: str, spec: Spec, data: ItemTableData) -> None:
    """Fills the sizes that the configuration leaves to the data."""
    columns = data.columns_of(name, spec)
    if not columns or name == HISTORY:
        return
    kind = type_of(spec)
    if has_table(spec) and "vocab_size" not in spec:
        spec["vocab_size"] = _vocab_size(name, columns)
    if kind.width_key and not spec.get(kind.width_key):
        spec[kind.width_key] = max(column.longest for column in columns) if kind.ids else columns[0].width


def _vocab_size(name: str, columns: list[Column]) -> int:
    """One more than the greatest id; raises DataError where nearly all ids below it cannot occur."""
    greatest = max(columns, key=lambda column: column.max)
    size, entries = int(greatest.max) + 1, sum(column.values.size for column in columns)
    if size > max(_DENSE, _SPARSE * entries):
        raise DataError(
            f"{at(greatest.path, greatest.name)}: expected ids numbered from 1, found {size - 1} among {entries} "
            f"values: an embedding for every id up to it would be a table of {size} rows, most of them never used. "
            f"Number those of feature '{name}' from 1 (qin-zoo encodes named fields itself), or leave it out of "
            "feature_cols (active: False)" + (", or set its vocab_size." if size < 2**31 else ".")
        )
    return size


def _share(features: Mapping[str, Spec], where: str) -> None:
    """Gives features that share an embedding the size of the largest among them."""
    owner_of: dict[str, str] = {}  # of the features so far that have ids
    for name, spec in features.items():
        shared = spec.get("share_embedding")
        if shared is not None:
            check_known([shared], owner_of, f"{where}, feature '{name}', share_embedding (it must come earlier)")
        if has_table(spec):
            owner_of[name] = owner_of[shared] if shared else name
    for owner in owner_of.values():
        group = [features[name] for name, other in owner_of.items() if other == owner]
        sizes = [spec["vocab_size"] for spec in group if "vocab_size" in spec]
        for spec in group:
            spec.update({"vocab_size": max(sizes)} if sizes else {})
