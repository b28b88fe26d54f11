"""Small data sets in both layouts, written for the tests of the data path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.feature_map import build_feature_map

ITEMS, ROWS = 40, 53


def write(path: Path, columns: dict, **options) -> Path:
    """A parquet file of the columns; lists become list columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def feature_cols(layout: str = "row") -> list[dict]:
    keys = ["user_id"] if layout == "row" else ["user_index", "item_index", "seq_len"]
    return [
        {"name": [*keys], "active": True, "dtype": "int", "type": "meta"},
        {"name": ["likes_level", "views_level"], "active": True, "dtype": "int", "type": "categorical"},
        {"name": "unused", "active": False, "dtype": "int", "type": "categorical"},
        {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
        {"name": "item_tags", "active": True, "dtype": "int", "type": "sequence", "source": "item", "max_len": 5},
        {"name": "item_emb", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
        {"name": "price", "active": True, "dtype": "float", "type": "numeric", "source": "item"},
    ]


def item_columns(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    tags = [[0] if i == 0 else rng.integers(1, 12, rng.integers(0, 6)).tolist() for i in range(ITEMS)]
    emb = rng.standard_normal((ITEMS, 3)).astype(np.float32)
    emb[0] = 0
    return {"item_id": list(range(ITEMS)), "item_tags": tags, "item_emb": emb.tolist(),
            "price": rng.random(ITEMS).tolist()}  # fmt: skip


def row_columns(rows: int = ROWS, seed: int = 1, width: int | None = None) -> dict:
    """Rows with ragged histories, or of one width, padded on the left."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, ITEMS, rng.integers(0, 9)).tolist() for _ in range(rows)]
    if width is not None:
        histories = [[0] * (width - len(h)) + h for h in histories]
    return {
        "user_id": rng.integers(0, 1000, rows).tolist(),
        "item_id": rng.integers(1, ITEMS, rows).tolist(),
        "item_seq": histories,
        "likes_level": rng.integers(0, 11, rows).tolist(),
        "views_level": rng.integers(0, 11, rows).tolist(),
        "label": rng.integers(0, 2, rows).tolist(),
    }


def user_columns(seed: int = 2) -> dict:
    rng = np.random.default_rng(seed)
    return {"full_item_seq": [rng.integers(1, ITEMS, rng.integers(0, 20)).tolist() for _ in range(9)]}


def per_user_rows(users: dict, rows: int = ROWS, seed: int = 3) -> dict:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 9, rows)
    seen = [int(rng.integers(0, len(users["full_item_seq"][u]) + 1)) for u in index]
    kept = {k: v for k, v in row_columns(rows).items() if k in ("likes_level", "views_level", "label")}
    return {"user_index": index, "item_index": rng.integers(1, ITEMS, rows), "seq_len": seen, **kept}


class DataSet:
    """The files of a small data set, its configuration and its feature map."""

    def __init__(self, folder: Path, layout: str = "row", width: int | None = None) -> None:
        self.items = item_columns()
        self.params = {
            "dataset_id": "small", "data_root": str(folder), "feature_cols": feature_cols(layout),
            "label_col": {"name": "label", "dtype": "float"}, "group_id": "user_id", "embedding_dim": 8,
            "item_info": str(folder / "item_info.parquet"),
        }  # fmt: skip
        self.users = user_columns()
        if layout == "user":
            self.items = {"item_index": self.items["item_id"], **self.items}
            self.params["user_info"] = str(write(folder / "user_info.parquet", self.users))
        write(folder / "item_info.parquet", self.items)
        self.rows = {}
        for seed, split in enumerate(("train", "valid", "test")):
            columns = row_columns(ROWS, seed, width) if layout == "row" else per_user_rows(self.users, ROWS, seed)
            if split == "test":
                del columns["label"]
            self.rows[split] = columns
            self.params[f"{split}_data"] = str(write(folder / f"{split}.parquet", columns))

    def feature_map(self):
        cols = [dict(c) for c in self.params["feature_cols"]]
        sizes = {"item_id": ITEMS, "item_tags": 12}
        for col in cols:
            if col["type"] in ("categorical", "sequence"):
                col["vocab_size"] = sizes.get(str(col["name"]), 11)
            if col["type"] == "embedding":
                col["pretrain_dim"] = 3
        return build_feature_map({**self.params, "feature_cols": cols})
