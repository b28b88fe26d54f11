"""Stored vectors as a model sees them: the file's own numbers, for targets and histories, from every kind of batch."""

import json

import h5py
import numpy as np
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, make_feature_map

import qin_zoo
from qin_zoo.errors import ModelError
from qin_zoo.layers import ItemRows, cosines, dense

DIN = {"embedding_dim": 4, "dnn_hidden_units": [8], "attention_hidden_units": [4], "verbose": 0}
CONTENT = "item_emb_d128"


def make(feature_map, content=CONTENT, **params):
    torch.manual_seed(0)
    return qin_zoo.create_model("DIN", feature_map, simtier_content=content, **DIN, **params).eval()


def test_rows_of_the_table_as_they_are(feature_map, item_batch):
    model, stored = make(feature_map), item_batch.items[CONTENT]
    x, y = model._inputs(item_batch), model._inputs(item_batch.triple())
    for found in (x, y):
        target, history = found.content(CONTENT)
        assert torch.equal(target, stored[item_batch.target])
        assert torch.equal(dense(history), stored[item_batch.history])
        assert not target.requires_grad
    rows = x.content(CONTENT)[1]
    assert isinstance(rows, ItemRows)
    assert len(rows.table) == item_batch.item_ids.unique().numel()
    torch.testing.assert_close(model(item_batch)["y_pred"], model(item_batch.triple())["y_pred"])


def test_a_meta_feature_is_content_only(item_batch):
    features = item_table_feature_map(VOCAB, 8)
    features.features[CONTENT] = {"type": "meta", "source": "item", "pretrain_dim": 8}
    model = make(features)
    assert CONTENT not in model.item_dims
    assert not any(CONTENT in name for name, _ in model.named_parameters())
    target, _ = model._inputs(item_batch).content(CONTENT)
    assert torch.equal(target, item_batch.items[CONTENT][item_batch.target])
    assert model(item_batch)["y_pred"].shape == (16, 1)


def test_what_is_counted_reaches_the_dnn(feature_map, item_batch):
    model, stored = make(feature_map, simtier_tiers=4), item_batch.items[CONTENT].numpy()
    seen = []
    model.dnn.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    model(item_batch)
    counts = seen[0][:, -4:].detach().numpy()
    unit = stored / np.maximum(np.linalg.norm(stored, axis=1, keepdims=True), 1e-12)
    for row, (history, target) in enumerate(zip(item_batch.history, item_batch.target)):
        real = history[history > 0].numpy()
        expected, _ = np.histogram(unit[real] @ unit[int(target)], bins=4, range=(-1 - 1e-6, 1 + 1e-6))
        np.testing.assert_array_equal(counts[row], expected)


@pytest.mark.parametrize("name", ["item_tags", "item_emb_d12", "likes_level"])
def test_what_has_no_vectors_is_refused(feature_map, name):
    with pytest.raises(ModelError, match=f"'{name}' names no stored vectors.*{CONTENT}"):
        make(feature_map, name)


# ---- named fields


@pytest.fixture
def fields(tmp_path):
    """A feature map whose items have vectors in a file of FuxiCTR's, and the vectors by id."""
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        file["key"], file["value"] = np.arange(1, 10), vectors
    (tmp_path / "feature_vocab.json").write_text(
        json.dumps({"age": {"1": 1, "2": 2}, "item": {str(i): i for i in range(1, 10)}})
    )
    item = {
        "type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 11, "oov_idx": 10, "freeze_emb": True,
        "pretrained_emb": "vectors.h5", "pretrain_dim": 5, "pretrain_usage": "sum",
    }  # fmt: skip
    features = make_feature_map({
        "age": {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 4},
        "item": item,
        "clicks": {**item, "type": "sequence", "max_len": 4, "share_embedding": "item"},
    })  # fmt: skip
    features.data_dir = str(tmp_path)
    return features, np.concatenate([np.zeros((1, 5)), vectors, np.zeros((1, 5))]).astype(np.float32)


def test_named_fields_have_those_of_a_frozen_pretrained_table(fields):
    features, vectors = fields
    model = make(features, "item", target_field="item", sequence_field="clicks")
    batch = {
        "age": torch.tensor([1, 2]), "item": torch.tensor([3, 10]), "clicks": torch.tensor([[0, 4, 0, 9], [1, 2, 0, 0]])
    }  # fmt: skip
    target, history = model._inputs(batch).content("item")
    np.testing.assert_array_equal(target, vectors[[3, 10]])
    np.testing.assert_array_equal(history, vectors[[[0, 0, 4, 9], [0, 0, 1, 2]]])
    assert cosines(target, history)[1].eq(0).all()  # an unknown item has no vector
    assert model(batch)["y_pred"].shape == (2, 1)


def test_named_fields_without_them_say_so(fields):
    features, _ = fields
    for spec in features.features.values():
        spec["freeze_emb"] = False
    with pytest.raises(ModelError, match="freeze_emb: True"):
        make(features, "item", target_field="item", sequence_field="clicks")
