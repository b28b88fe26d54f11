"""Features of the history's items (``source: history``): read, embedded, exported and scored.

What they must give is known from elsewhere: a table in which every item stands once for each value, whose plain item
features say the same.
"""

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch, samples

from qin_zoo.batch import ItemBatch
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.specs import feature_specs
from qin_zoo.errors import ConfigError, DataError, RequestError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.export.export import export_model
from qin_zoo.registry import create_model
from qin_zoo.serving.scorer import Scorer

WIDE = "partial(nn.init.normal_, std=0.5)"
RATED = {"type": "categorical", "source": "history", "padding_idx": 0, "vocab_size": 6}


def rated(batch, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(1, 6, batch.history.shape, generator=g) * (batch.history != 0)
    return ItemBatch(batch.rows, batch.history, batch.target, batch.items, {"rated": values})


@pytest.mark.parametrize("name", ["QIN", "DIN", "Transformer_DCN"])
def test_as_items_of_their_own(name):
    """The same scores as with a table that holds each item once for each rating."""
    beside, table = item_table_feature_map(VOCAB, 8), item_table_feature_map(VOCAB, 8)
    beside.features["rated"], table.features["rated"] = RATED, {**RATED, "source": "item"}
    batch = rated(random_item_batch(VOCAB, 8))
    count = VOCAB["item_id"]
    number = torch.arange(6 * count)
    items = {name: values[number % count] for name, values in batch.items.items()} | {"rated": number // count}
    items["item_id"] = number % count
    history = batch.history + count * batch.beside["rated"]
    torch.manual_seed(0)
    ours = create_model(name, beside, embedding_initializer=WIDE).eval()
    other = create_model(name, table).eval()
    other.load_state_dict(ours.state_dict())
    expected = other(ItemBatch(batch.rows, history, batch.target, items))["logits"]
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(batch)["logits"], expected)
    torch.testing.assert_close(ours(batch.triple())["logits"], expected)
    unrated = ours(replace(batch, beside={"rated": batch.beside["rated"] * 0}))
    assert not torch.allclose(unrated["logits"], expected)


@pytest.fixture
def folder(sample, tmp_path):
    """The sample, each item of a history rated by its number."""
    for split in ("train", "valid", "test"):
        rows = pl.read_parquet(sample / f"{split}.parquet")
        values = [[i % 5 + 1 if i else 0 for i in ids] for ids in rows["item_seq"].to_list()]
        rows.with_columns(item_seq_rating=pl.Series(values, dtype=rows["item_seq"].dtype)).write_parquet(
            tmp_path / f"{split}.parquet"
        )
    (tmp_path / "item_info.parquet").write_bytes((sample / "item_info.parquet").read_bytes())
    return tmp_path


def params(folder, **more):
    experiment = samples()["DIN"]
    settings = {"max_len": 8, "embedding_dim": 4, "model_root": str(folder / "out"), **more}
    found = prepare("DIN_sample", experiment.config_dir, data=folder, overrides=settings)
    column = {"name": "item_seq_rating", "active": True, "dtype": "int", "type": "categorical", "source": "history"}
    found.params["feature_cols"] = [*copy.deepcopy(found.params["feature_cols"]), column]
    return found


@pytest.mark.parametrize("more", [{}, {"shuffle_history": True}, {"unseen_items": 0.3}])
def test_values_stay_with_their_items(folder, more):
    dataset = Dataset(params(folder, **more).params)
    assert dataset.feature_map.features["item_seq_rating"]["vocab_size"] == 6
    rows = 0
    for batch in dataset.loader("train", shuffle=False):
        expected = torch.where(batch.history != 0, batch.history % 5 + 1, 0)
        assert torch.equal(batch.beside["item_seq_rating"], expected)
        rows += int((batch.history != 0).any(dim=1).sum())
    assert rows


def test_a_value_that_is_missing(folder):
    rows = pl.read_parquet(folder / "train.parquet")
    lists = rows["item_seq_rating"].to_list()
    row = next(i for i, values in enumerate(lists) if any(values))
    lists[row] = [0] * len(lists[row])
    rows.with_columns(item_seq_rating=pl.Series(lists, dtype=pl.List(pl.Int32))).write_parquet(folder / "train.parquet")
    with pytest.raises(DataError, match=rf"'item_seq_rating', row {row}: expected \d+ values other than 0, one"):
        Dataset(params(folder).params).loader("train", shuffle=False)


def test_only_ids(folder):
    column = {"name": "x", "active": True, "type": "numeric", "source": "history"}
    with pytest.raises(ConfigError, match="expected type categorical, an id for each item of the history"):
        feature_specs({"dataset_id": "d", "feature_cols": [column]})


@pytest.mark.parametrize("history_matches", [False, True])
def test_exported(history_matches, folder, tmp_path):
    """A file of its own scores rows as torch does, and says what it wants."""
    prepared = params(folder, history_matches=history_matches)
    dataset = Dataset(prepared.params)
    torch.manual_seed(0)
    settings = {"embedding_initializer": WIDE, "embedding_dim": 4, "history_matches": history_matches}
    model = create_model("DIN", dataset.feature_map, **settings).eval()
    model.save_weights(tmp_path / "w.model")
    exported = export_model(prepared, dataset, model, tmp_path / "w.model", tmp_path / "x.onnx", echo=lambda line: None)
    assert exported.difference < 1e-5
    scorer = Scorer(exported.path)
    batch = next(iter(dataset.loader("test", shuffle=False)))
    expected = model(batch)["y_pred"].view(-1).detach().numpy()
    for row in range(20):
        values = batch.beside["item_seq_rating"][row]
        history = {"item_seq": batch.history[row].numpy(), "item_seq_rating": values.numpy()}
        context = {d["name"]: batch.rows[d["name"]][row : row + 1].numpy() for d in scorer.inputs}
        score = scorer.score(history, batch.target[row : row + 1].numpy(), context)
        np.testing.assert_allclose(score, expected[row], atol=1e-6)
    # An item outside the table, with the features of one inside, whose number nothing was learnt for.
    items = {name: torch.cat([values, values[[9]]]) for name, values in batch.items.items()}
    items["item_id"][-1] = 0
    outside = replace(batch, items=items, target=torch.full_like(batch.target, scorer.items))
    expected = model(outside)["y_pred"].view(-1).detach().numpy()
    features = {name: values[9].tolist() for name, values in batch.items.items() if name != "item_id"}
    for row in range(10):
        values = batch.beside["item_seq_rating"][row]
        history = {"item_seq": batch.history[row].numpy(), "item_seq_rating": values.numpy()}
        context = {d["name"]: batch.rows[d["name"]][row : row + 1].numpy() for d in scorer.inputs}
        score = scorer.score(history, [scorer.items], context, {scorer.items: features})
        np.testing.assert_allclose(score, expected[row], atol=1e-6)
    context = {d["name"]: 0 for d in scorer.inputs}
    with pytest.raises(RequestError, match=r"expected lists by name, item_seq, item_seq_rating, found \[1\]"):
        scorer.score([1], [1], context)
    with pytest.raises(RequestError, match="item_seq_rating: expected a list of 2 values, one for each item"):
        scorer.score({"item_seq": [1, 2], "item_seq_rating": [1]}, [1], context)
    with pytest.raises(RequestError, match="item_seq_rating: expected ids from 0 to 5, found 6"):
        scorer.score({"item_seq": [1], "item_seq_rating": [6]}, [1], context)
