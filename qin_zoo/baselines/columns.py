"""The columns that line and trees read, as one vector of each row: a dataset from which networks learn, too.

A network sees users and items as numbers of tables, and what is counted of them only as far as it has learned to count.
Given the counted columns besides, it begins where the trees end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from qin_zoo.baselines.models import Data
from qin_zoo.config.blocks import check_id
from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset, has_item_table
from qin_zoo.data.import_files import ID_FILE, WORD_FILE
from qin_zoo.errors import ConfigError
from qin_zoo.files import replace_file, replace_text, sole_writer

COLUMN = "counted"
_LARGEST = 5.0  # deviations
_EMBEDDED = 64  # numbers that a model makes of them
_OF_DATASET = ("data_format", "label_col", "group_id", "rebuild_dataset", "max_len")
_TABLES = ("item_info", "user_info")
_BESIDE = (ID_FILE, "ids_user.parquet", "item_text.parquet", WORD_FILE)  # what numbers stand for


def write_columns(params: dict, dataset: Dataset, data: Data, out: Path, echo: Callable[[str], None]) -> None:
    """Writes the splits with a vector :data:`COLUMN` in each row, a configuration that names it as a feature, and
    copies of the tables of items and users.

    Training rows before which there was too little to count are left out. Each number is scaled to the others'
    mean 0 and deviation 1 and cut at five; names, means and deviations are in ``counted.json``. The name of the folder
    ``out`` becomes the dataset's id.

    Raises:
        ConfigError: the dataset has no item table, or ``out`` is the folder of its files or cannot name a dataset.
    """
    if not has_item_table(params):
        raise ConfigError(
            f"--columns: dataset '{params['dataset_id']}' has named fields; only rows that name items of an item table "
            "can be written with their columns."
        )
    check_id(out.name, "--columns, name of the folder")
    files = {split: Path(params[f"{split}_data"]) for split in SPLITS if dataset.has(split)}
    if any(file.resolve().parent == out.resolve() for file in files.values()):
        raise ConfigError(f"--columns: {out} holds the dataset itself. Name another folder.")
    tables = {split: data.table(split) for split in files}
    train = tables["train"].values[data.with_a_past]
    mean, deviation = train.mean(0), train.std(0)
    kept = np.flatnonzero(deviation > 1e-6)
    names = [tables["train"].names[i] for i in kept]
    with sole_writer(out / COLUMN, "columns are being written"):
        for split, file in files.items():
            rows = dataset.used_rows(split)
            index = data.with_a_past if split == "train" else np.arange(len(rows))
            values = np.clip((tables[split].values[index][:, kept] - mean[kept]) / deviation[kept], -_LARGEST, _LARGEST)
            frame = pl.read_parquet(file, glob=False)[rows[index]]
            vectors = pl.Series(COLUMN, values.astype(np.float32), pl.Array(pl.Float32, len(kept)))
            with replace_file(out / f"{split}.parquet") as temporary:
                frame.with_columns(vectors.cast(pl.List(pl.Float32))).write_parquet(temporary)
            echo(f"{out / f'{split}.parquet'}: {len(frame):,} rows, {len(kept)} columns")
        scales = {"names": names, "mean": mean[kept].tolist(), "deviation": deviation[kept].tolist()}
        replace_text(out / f"{COLUMN}.json", json.dumps(scales, indent=1))
        tables = {key: Path(params[key]) for key in _TABLES if params.get(key)}
        for path in (*tables.values(), *(dataset.folder / name for name in _BESIDE)):
            if path.is_file():
                with replace_file(out / path.name) as temporary:
                    shutil.copyfile(path, temporary)
        size = {"pretrain_dim": len(kept), "embedding_dim": _EMBEDDED}
        feature = {"name": COLUMN, "active": True, "dtype": "float", "type": "embedding", **size}
        block = {key: params[key] for key in _OF_DATASET if params.get(key) is not None}
        block |= {key: str(out / path.name) for key, path in tables.items()}
        block |= {f"{split}_data": str(out / f"{split}.parquet") for split in files}
        block["feature_cols"] = [*params["feature_cols"], feature]
        text = yaml.safe_dump({out.name: block}, sort_keys=False, allow_unicode=True)
        replace_text(out / "dataset_config.yaml", text)
    echo(f"{out / 'dataset_config.yaml'}: the dataset '{out.name}', for any model")
