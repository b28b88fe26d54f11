"""A small run and the periods that come after it, for tests of what continues it."""

import numpy as np
import polars as pl
import pytest

from qin_zoo.experiment.prepare import prepare_params
from qin_zoo.experiment.run import run_experiment

SMALL = {
    "model": "MLP", "dnn_hidden_units": [4], "embedding_dim": 2, "batch_size": 32, "epochs": 1, "verbose": 0,
    "optimizer": "SGD", "learning_rate": 0.5, "embedding_initializer": "partial(nn.init.normal_, std=0.1)",
}  # fmt: skip
COLUMNS = [
    {"name": "user", "dtype": "int", "type": "categorical", "vocab_size": 40},
    {"name": "item_seq", "dtype": "int", "type": "meta"},
    {"name": "item_id", "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "tags", "dtype": "int", "type": "sequence", "source": "item"},
]


def write_items(folder, items: int, seed: int, rows: int = 48, oldest: int = 1):
    """A period: rows of users and items from ``oldest`` on, an item table, and what its numbers stand for."""
    g = np.random.default_rng(seed)
    folder.mkdir()
    for split in ("train", "valid", "test"):
        pl.DataFrame(
            {
                "user": g.integers(1, 40, rows),
                "item_id": g.integers(oldest, items + 1, rows),
                "item_seq": [g.integers(oldest, items + 1, g.integers(0, 3)).tolist() for _ in range(rows)],
                "label": np.arange(rows) % 2,
            }
        ).write_parquet(folder / f"{split}.parquet")
    ids = np.arange(items + 1)
    tags = [[0, 0], *([1 + i % 7, 1 + i // 3] for i in range(items))]
    pl.DataFrame({"item_id": ids, "tags": tags}).write_parquet(folder / "item_info.parquet")
    named = pl.DataFrame({"item_id": ids[1:], "original_id": [f"film {i}" for i in ids[1:]]})
    named.write_parquet(folder / "ids_item.parquet")
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Pictures take longer than these trainings."""
    monkeypatch.setattr("qin_zoo.experiment.curves.draw_curves", lambda *_: None)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on 30 items, and later periods in which the oldest items do not occur and others come."""
    monkeypatch.chdir(tmp_path)
    periods = ((30, 1), (34, 9), (36, 20))
    folders = [write_items(tmp_path / f"p{t}", items, t, oldest=old) for t, (items, old) in enumerate(periods)]
    params = SMALL | {"dataset_id": "d", "feature_cols": COLUMNS, "label_col": {"name": "label", "dtype": "float"}}
    params |= {f"{s}_data": str(folders[0] / f"{s}.parquet") for s in ("train", "valid", "test")}
    params |= {"item_info": str(folders[0] / "item_info.parquet"), "max_len": 4}
    record = run_experiment(prepare_params("r", params, tmp_path), tmp_path, echo=lambda _: None)
    return record, folders
