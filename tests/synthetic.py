"""A few random rows for any dataset configuration, in the files and columns that it names."""

from pathlib import Path

import numpy as np
import polars as pl

ROWS, ITEMS, USERS = 40, 30, 12


def write_dataset(params: dict, folder: Path) -> Path:
    """Writes the dataset's files into ``folder``; returns it."""
    folder.mkdir(parents=True)
    g = np.random.default_rng(0)
    described = [c for entry in params["feature_cols"] for c in _expanded(entry)]
    sources = {c.get("codes_of") or c.get("neighbours_of") for c in described} - {None, *(c["name"] for c in described)}
    columns = [c for c in described if not c.get("codes_of") and not c.get("neighbours_of")]
    columns += [{"name": name, "type": "embedding", "source": "item"} for name in sources]
    label = {params["label_col"]["name"]: np.arange(ROWS) % 2}
    row_columns = [c for c in columns if c.get("source") not in ("item", "history")]
    for split in ("train", "valid", "test"):
        if not params.get(f"{split}_data"):
            continue
        values = {c["name"]: _column(c, ROWS, g, params) for c in row_columns} | label
        if params.get("item_info") and not params.get("user_info"):
            values["item_id"] = g.integers(1, ITEMS, ROWS)
        for c in (c for c in columns if c.get("source") == "history"):  # a value for each item
            values[c["name"]] = [[i % (c["vocab_size"] - 1) + 1 if i else 0 for i in row] for row in values["item_seq"]]
        file = folder / Path(params[f"{split}_data"]).name
        frame = pl.DataFrame(values)
        frame.write_csv(file) if file.suffix == ".csv" else frame.write_parquet(file)
    if params.get("item_info"):
        index = "item_index" if params.get("user_info") else "item_id"
        items = {c["name"]: _column(c, ITEMS, g, params) for c in columns if c.get("source") == "item"}
        items[index] = np.arange(ITEMS)
        pl.DataFrame(items).write_parquet(folder / Path(params["item_info"]).name)
    if params.get("user_info"):
        lists = [g.integers(1, ITEMS, 9).tolist() for _ in range(USERS)]
        pl.DataFrame({"full_item_seq": lists}).write_parquet(folder / Path(params["user_info"]).name)
    return folder


def _expanded(entry: dict) -> list[dict]:
    names = entry["name"] if isinstance(entry["name"], list) else [entry["name"]]
    return [{**entry, "name": name} for name in names]


def _column(spec: dict, rows: int, g: np.random.Generator, params: dict):
    text = params.get("data_format") == "csv"
    if spec["name"] == "seq_len":
        return g.integers(0, 9, rows)
    if spec["name"] == "user_index":
        return g.integers(0, USERS, rows)
    if spec["type"] == "sequence" or spec["name"] == "item_seq":
        lists = [g.integers(1, 10, 5).tolist() for _ in range(rows)]
        return [spec.get("splitter", "^").join(map(str, row)) for row in lists] if text else lists
    if spec["type"] == "embedding":
        vectors = g.normal(size=(rows, spec.get("pretrain_dim", 8))).astype(np.float32).tolist()
        return [spec.get("splitter", "^").join(map(str, row)) for row in vectors] if text else vectors
    if spec["type"] == "numeric":
        return g.random(rows)
    return g.integers(1, min(10, spec.get("vocab_size", 10)), rows)
