"""A feature of rows and items at once, as the published DIN_att6 has likes and views: one table, two places."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from conftest import shared_data

import qin_zoo
from qin_zoo.batch import ItemBatch
from qin_zoo.data.feature_map import build_feature_map
from qin_zoo.data.item_layout import open_data
from qin_zoo.data.loader import ItemTableLoader
from qin_zoo.layers import dense

LEVELS = ["likes_level", "views_level"]
TABLES = "embedding_layer.embedding_layer."


@pytest.fixture
def golden():
    path = shared_data().parent / "golden" / "din_att6_published.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    return np.load(path, allow_pickle=False)


def dataset(folder, arrays):
    """The golden problem's columns as files, and as the published configuration with its loader's columns beside it."""
    meta = json.loads(arrays["meta"].item())
    rows = {k.removeprefix("input/"): arrays[k].tolist() for k in arrays.files if k.startswith("input/")}
    items = {k.removeprefix("item/"): arrays[k].tolist() for k in arrays.files if k.startswith("item/")}
    pl.DataFrame(rows).write_parquet(folder / "train.parquet")
    pl.DataFrame({"item_id": range(meta["vocab"]["item_id"]), **items}).write_parquet(folder / "item_info.parquet")
    vocab, size = meta["vocab"], meta["item_emb_dim"]
    columns = [
        {"name": "user_id", "type": "categorical", "vocab_size": vocab["user_id"]},
        {"name": LEVELS, "type": "categorical", "vocab_size": 11},
        {"name": LEVELS, "type": "categorical", "vocab_size": 11, "source": "item"},
        {"name": "item_id", "type": "categorical", "source": "item", "vocab_size": vocab["item_id"]},
        {"name": "item_tags", "type": "sequence", "source": "item", "vocab_size": vocab["item_tags"], "max_len": 5},
        {"name": "item_emb_d128", "type": "embedding", "source": "item", "embedding_dim": size, "pretrain_dim": size},
    ]
    params = {"dataset_id": "x", "train_data": str(folder / "train.parquet"), "feature_cols": columns}
    return params | {"label_col": {"name": "label", "dtype": "float"}, "data_root": str(folder)}, meta


def test_the_published_state_and_inputs(golden, tmp_path):
    params, meta = dataset(tmp_path, golden)
    feature_map = build_feature_map(params, open_data(params))
    model = qin_zoo.create_model("DIN", feature_map, embedding_dim=meta["embedding_dim"], verbose=0)
    published = {k[6:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith(f"state/{TABLES}")}
    assert {name for name in model.state_dict() if name.startswith(TABLES)} == set(published)
    model.load_state_dict(published, strict=False)
    assert list(model.context_dims) == ["user_id", *LEVELS]
    assert list(model.item_dims) == [*LEVELS, "item_id", "item_tags", "item_emb_d128"]

    table = {name.split(".")[-2]: weight for name, weight in published.items()}
    encoder = published[f"{TABLES}feature_encoders.item_emb_d128.weight"]
    tags = torch.from_numpy(golden["item/item_tags"])
    mean = table["item_tags"][tags].sum(dim=1) / (tags > 0).sum(dim=1, keepdim=True).clamp(min=1)
    parts = [table[name][torch.from_numpy(golden[f"item/{name}"])] for name in LEVELS]
    vectors = torch.from_numpy(golden["item/item_emb_d128"]) @ encoder.T
    items = torch.cat([*parts, table["item_id"], mean, vectors], dim=1)
    context = [table[name][torch.from_numpy(golden[f"input/{name}"])] for name in ("user_id", *LEVELS)]

    for layout in ("index", "triple"):
        loader = ItemTableLoader(feature_map, params["train_data"], "train", 16, max_len=5, batch_layout=layout)
        batch = next(iter(loader))
        assert isinstance(batch, ItemBatch if layout == "index" else tuple)
        x = model._inputs(batch)
        torch.testing.assert_close(x.context, torch.cat(context, dim=1))
        torch.testing.assert_close(x.target, items[torch.from_numpy(golden["input/item_id"])])
        torch.testing.assert_close(dense(x.history), items[torch.from_numpy(golden["input/item_seq"])])
