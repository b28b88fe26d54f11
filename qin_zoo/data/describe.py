"""What a folder of data says of itself by its files, where nobody has written a dataset configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qin_zoo.data import SPLITS, USERS
from qin_zoo.data.importers.write import EMBEDDING_DIM
from qin_zoo.data.item_layout import HISTORY, PER_ROW, PER_USER
from qin_zoo.data.sources import Source, open_source
from qin_zoo.data.specs import active_columns
from qin_zoo.errors import DataError
from qin_zoo.files import read_json

_LABELS = ("label", "is_click", "click", "clk")
_NO_FEATURES = ("ID",)
# (listed, element) of a column -> type and dtype of the feature
_TYPES = {
    (False, "int"): ("categorical", "int"),
    (False, "float"): ("numeric", "float"),
    (True, "int"): ("sequence", "int"),
    (True, "float"): ("embedding", "float"),
}


def describe_folder(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A dataset configuration, with ``dataset_id``, from the columns of a folder's files; and lines that say what was
    taken for what, and what was left out.

    The challenge's layout (``train.parquet``, ``item_info.parquet``), the per-user one (``user_info.parquet`` beside
    them), and encoded named fields (``feature_map.json``) say what their columns are.

    Raises:
        DataError: there is no such folder, or its files do not tell what their columns are.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder. `qin-zoo data import` makes one of a data set, `qin-zoo data sample {folder}` "
            "one to try."
        )
    files = {
        s: file for suffix in (".npz", ".parquet") for s in SPLITS if (file := folder / f"{s}{suffix}").is_file()
    }  # parquet, where there are both
    named = {f"{s}_data": str(files[s]) for s in SPLITS if s in files}
    if (folder / "item_info.parquet").is_file() and "train" in files:
        return _item_table(folder, files["train"], named)
    if (folder / "feature_map.json").is_file() and "train" in files:
        return _encoded_fields(folder, files["train"].suffix[1:], named)
    found = ", ".join(sorted(f.name for f in folder.iterdir() if not f.name.startswith("."))[:6]) or "nothing"
    raise DataError(
        f"{folder}: expected a data set that says what its columns are: a dataset_config.yaml, as `qin-zoo data "
        "import` writes it, or train.parquet with item_info.parquet, or train.* with feature_map.json; found "
        f"{found}. Import it (one's own tables: `qin-zoo data import table {folder} OUT`), or write a "
        "dataset_config.yaml beside the files."
    )


def user_column(params: Mapping[str, Any]) -> str | None:
    """Of the active features of a dataset configuration, the one that says whose row it is, by its name."""
    names = {name for name, _ in active_columns(params)}
    return next((name for name in USERS if name in names), None)


def _item_table(folder: Path, train: Path, named: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    users = folder / "user_info.parquet"
    layout = PER_USER if users.is_file() else PER_ROW
    rows, items = open_source(train), open_source(folder / "item_info.parquet")
    label = next((name for name in _LABELS if name in rows.names), None)
    if label is None:
        raise DataError(
            f"{rows.path}: expected a label, a column {' or '.join(_LABELS)}, found {', '.join(rows.names)}. Rename "
            "it, or write a dataset_config.yaml beside the files, whose label_col names it."
        )
    left_out: list[str] = []
    ids = ["user_index", "item_index", "seq_len"] if layout is PER_USER else [*USERS, HISTORY]
    meta = [name for name in ids if name in rows.names]
    columns = [{"name": meta, "active": True, "dtype": "int", "type": "meta"}]
    columns += _features(rows, {*ids, label, layout.target, *_LABELS, *_NO_FEATURES}, left_out)
    columns += _features(items, {"item_index"} if layout is PER_USER else set(), left_out, source="item")
    notes = [
        f"{folder} has no dataset_config.yaml: whole numbers are taken for categories, lists of them for tags, lists "
        "of fractions for embeddings."
    ]
    notes += [f"Left out, as neither numbers nor lists of numbers: {', '.join(left_out)}."] if left_out else []
    return {
        "dataset_id": folder.resolve().name,
        "data_format": "parquet",
        **named,
        "item_info": str(items.path),
        **({"user_info": str(users)} if layout is PER_USER else {}),
        "rebuild_dataset": False,
        "feature_cols": columns,
        "label_col": {"name": label, "dtype": "float"},
    }, notes


def _features(file: Source, others: Collection[str], left_out: list[str], **more: str) -> list[dict[str, Any]]:
    columns = []
    for name in file.names:
        if name in others:
            continue
        kind = _TYPES.get(file.element(name))
        if kind is None:
            left_out.append(name)
            continue
        size = {"embedding_dim": EMBEDDING_DIM} if kind[0] == "embedding" else {}
        columns.append({"name": name, "active": True, "dtype": kind[1], "type": kind[0], **more, **size})
    return columns


def _encoded_fields(folder: Path, suffix: str, named: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    file = folder / "feature_map.json"
    try:
        content = read_json(file)
        dataset_id = content["dataset_id"]
        specs = {name: spec for feature in content["features"] for name, spec in feature.items()}
        shared = {name: spec.get("share_embedding") for name, spec in specs.items() if spec.get("type") == "sequence"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: expected FuxiCTR's feature map, found something else ({error!r:.80}).") from None
    pairs = {history: target for history, target in shared.items() if target}
    told = "; ".join(f"{history} the history of {target}" for history, target in pairs.items())
    return {
        "dataset_id": dataset_id,
        "data_format": suffix,
        **named,
        "feature_map_json": str(file),
        **({"target_field": [*pairs.values()], "sequence_field": [*pairs]} if pairs else {}),
        "group_id": next((name for name in USERS if name in specs), None),
    }, [f"{folder} has no dataset_config.yaml: by its feature_map.json {told or 'there is no history'}."]
