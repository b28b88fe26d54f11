"""The shared base class: both kinds of input, training semantics, checkpoints, and errors at its border."""

import numpy as np
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, make_feature_map, random_item_batch
from torch import nn

import qin_zoo
from qin_zoo.batch import ItemBatch
from qin_zoo.errors import CheckpointError, ModelError, QinZooError

SMALL = {"QIN": {"num_layers": 2}, "DIN": {"dnn_hidden_units": [8], "attention_hidden_units": [4]}}


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def build(name, feature_map, **params):
    torch.manual_seed(0)
    return qin_zoo.create_model(name, feature_map, embedding_dim=4, **{**SMALL[name], **params})


def fields_feature_map(order=("age", "price", "item", "cate", "clicks", "cates", "tags", "text")):
    categorical = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 10}
    specs = {
        "age": categorical,
        "price": {"type": "numeric", "source": ""},
        "item": {**categorical, "embedding_dim": 6},
        "cate": categorical,
        "clicks": {**categorical, "type": "sequence", "max_len": 4, "share_embedding": "item"},
        "cates": {
            **categorical, "type": "sequence", "max_len": 4, "share_embedding": "cate",
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
        "tags": {**categorical, "type": "sequence", "max_len": 3},
        "text": {"type": "embedding", "source": "", "pretrain_dim": 5, "embedding_dim": 3},
    }  # fmt: skip
    return make_feature_map({n: dict(specs[n]) for n in order}, labels=["clk"])


def fields_batch(batch=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = lambda *shape: torch.randint(1, 10, shape, generator=g)  # noqa: E731
    clicks = ids(batch, 4)
    clicks[:, 2:] *= torch.randint(0, 2, (batch, 1), generator=g)  # FuxiCTR pads at the end
    return {
        "age": ids(batch), "price": torch.rand(batch, generator=g), "item": ids(batch), "cate": ids(batch),
        "clicks": clicks, "cates": ids(batch, 4) * (clicks > 0), "tags": ids(batch, 3),
        "text": torch.randn(batch, 5, generator=g), "clk": torch.randint(0, 2, (batch,), generator=g),
    }  # fmt: skip


FIELDS = {"target_field": ("item", "cate"), "sequence_field": ("clicks", "cates")}


class TestInputs:
    def test_triple_and_index_agree(self, name, feature_map, item_batch):
        model = build(name, feature_map).eval()
        torch.testing.assert_close(model(item_batch)["y_pred"], model(item_batch.triple())["y_pred"])

    def test_each_distinct_item_is_represented_once(self, feature_map, item_batch, monkeypatch):
        model = build("QIN", feature_map)
        seen = []
        embed = model._inputs.embedder.embed
        monkeypatch.setattr(
            model._inputs.embedder, "embed", lambda n, v: seen.append(next(iter(v.values())).shape[0]) or embed(n, v)
        )
        model(item_batch)
        assert seen == [item_batch.item_ids.unique().numel(), len(item_batch)]

    def test_fields_reach_the_model_as_context_target_history(self):
        model = build("QIN", fields_feature_map(), **FIELDS)
        batch = fields_batch()
        x = model._inputs(batch)
        emb = model.embedding_layer.embedding_layer.embedding_layers
        assert model.item_dims == {"item": 6, "cate": 4}
        assert model.context_dims == {"age": 4, "price": 4, "tags": 4, "text": 3}
        assert (model.item_dim, model.context_dim) == (10, 15)
        torch.testing.assert_close(x.target, torch.cat([emb["item"](batch["item"]), emb["cate"](batch["cate"])], 1))
        last = (batch["clicks"] > 0).sort(dim=1, stable=True).indices  # the newest last, wherever the padding stands
        clicks, cates = batch["clicks"].gather(1, last), batch["cates"].gather(1, last)
        torch.testing.assert_close(x.history, torch.cat([emb["item"](clicks), emb["cate"](cates)], dim=-1))
        assert torch.equal(x.mask, clicks > 0)
        parts = [
            emb["age"](batch["age"]),
            emb["price"](batch["price"].view(-1, 1)),
            emb["tags"](batch["tags"]).mean(1),
            batch["text"] @ model.embedding_layer.embedding_layer.feature_encoders["text"].weight.T,
        ]
        torch.testing.assert_close(x.context, torch.cat(parts, dim=-1))

    def test_models_train_on_fields(self, name):
        model = build(name, fields_feature_map(), learning_rate=0.01, **FIELDS)
        train(model, [fields_batch()] * 40)
        first, last = model.losses[0], model.losses[-1]
        assert last < 0.7 * first

    def test_without_row_features(self, name):
        features = item_table_feature_map(VOCAB, 8)
        for gone in ("likes_level", "views_level"):
            del features.features[gone]
        model = build(name, features)
        assert model.context_dim == 0
        assert model(random_item_batch(VOCAB, 8))["y_pred"].shape == (16, 1)

    def test_blind_to_history(self, name, feature_map, item_batch):
        model = build(name, feature_map).eval()
        blind = ItemBatch(item_batch.rows, item_batch.history[:, :0], item_batch.target, item_batch.items)
        none = ItemBatch(item_batch.rows, item_batch.history * 0, item_batch.target, item_batch.items)
        torch.testing.assert_close(model(blind)["y_pred"], model(none)["y_pred"])
        torch.testing.assert_close(model(blind)["y_pred"], model(blind.triple())["y_pred"])

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"target_field": "itm", "sequence_field": "clicks"}, ["target_field", "'itm'", "Did you mean 'item'"]),
            ({"target_field": "item"}, ["sequence_field"]),
            ({"target_field": "item", "sequence_field": "cates"}, ["6", "4", "share_embedding"]),
        ],
    )
    def test_layouts_that_cannot_be_read(self, params, words):
        with pytest.raises(ModelError) as error:
            build("QIN", fields_feature_map(), **params)
        assert all(w in str(error.value) for w in words)

    def test_wrong_kind_of_batch(self, feature_map, item_batch):
        with pytest.raises(ModelError, match="target_field"):
            build("QIN", feature_map)(fields_batch())
        with pytest.raises(ModelError, match="one dictionary"):
            build("QIN", fields_feature_map(), **FIELDS)(item_batch)
        rows = {k: v for k, v in item_batch.rows.items() if k != "likes_level"}
        with pytest.raises(ModelError, match="no feature 'likes_level'"):
            build("QIN", feature_map)(ItemBatch(rows, item_batch.history, item_batch.target, item_batch.items))


def train(model, batches):
    """A bare loop over train_step, as FuxiCTR's fit would call it."""
    model.train()
    model._max_gradient_norm, model._steps_per_epoch = 10.0, len(batches)
    model.losses = []
    for model._batch_index, batch in enumerate(batches):
        model.losses.append(float(model.train_step(batch)))


class TestTraining:
    def test_accumulation_equals_one_large_batch(self, feature_map):
        large = random_item_batch(VOCAB, 8, batch=24)
        parts = [
            ItemBatch({k: v[i::2] for k, v in large.rows.items()}, large.history[i::2], large.target[i::2], large.items)
            for i in range(2)
        ]
        one = build("QIN", feature_map, optimizer="SGD", learning_rate=0.1)
        two = build("QIN", feature_map, optimizer="SGD", learning_rate=0.1, accumulation_steps=2)
        train(one, [large])
        train(two, parts)
        for a, b in zip(one.parameters(), two.parameters()):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)

    def test_last_batches_of_an_epoch_are_not_lost(self, feature_map, item_batch):
        model = build("QIN", feature_map, optimizer="SGD", learning_rate=0.1, accumulation_steps=2)
        train(model, [item_batch] * 3)
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())

    def test_regularisation_is_fuxictrs(self, feature_map, item_batch):
        plain = build("QIN", feature_map)
        both = build("QIN", feature_map, embedding_regularizer=0.1, net_regularizer="l1(0.01)")
        for model in (plain, both):
            nn.init.normal_(model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight)
        both.load_state_dict(plain.state_dict())
        y = {"y_pred": torch.full((16, 1), 0.5)}
        extra = both.compute_loss(y, torch.ones(16, 1)) - plain.compute_loss(y, torch.ones(16, 1))
        l2 = sum((p**2).sum() for p in plain.embedding_layer.parameters())
        l1 = sum(p.abs().sum() for n, p in plain.named_parameters() if not n.startswith("embedding_layer"))
        torch.testing.assert_close(extra, 0.1 / 2 * l2 + 0.01 * l1)

    def test_learning_rate_decay(self, feature_map):
        model = build("QIN", feature_map, learning_rate=1e-2, factor=0.5, min_lr=4e-3)
        assert [model.lr_decay(), model.lr_decay(), model.lr_decay()] == [5e-3, 4e-3, 4e-3]

    def test_evaluate_and_predict(self, feature_map, item_batch):
        model = build("QIN", feature_map, metrics=["AUC", "logloss", "gAUC"])
        second = random_item_batch(VOCAB, 8, batch=9, seed=5)
        logs = model.evaluate([item_batch, second])
        model.eval()
        y = torch.cat([model(item_batch)["y_pred"], model(second)["y_pred"]]).detach().view(-1)
        t = torch.cat([item_batch.rows["label"], second.rows["label"]])
        assert list(logs) == ["AUC", "logloss", "gAUC"]
        assert logs["logloss"] == pytest.approx(nn.functional.binary_cross_entropy(y, t).item(), abs=1e-6)
        unlabelled = [
            ItemBatch({k: v for k, v in b.rows.items() if k != "label"}, b.history, b.target, b.items)
            for b in (item_batch, second)
        ]
        np.testing.assert_array_equal(model.predict(unlabelled), y.double())


class TestCheckpoints:
    def test_round_trip(self, name, feature_map, item_batch, tmp_path):
        model = build(name, feature_map, model_root=str(tmp_path))
        model.save_weights(model.checkpoint)
        other = build(name, feature_map)
        nn.init.ones_(next(other.parameters()))
        other.load_weights(model.checkpoint)
        model.eval(), other.eval()
        assert torch.equal(model(item_batch)["y_pred"], other(item_batch)["y_pred"])
        assert [f.name for f in (tmp_path / "test").iterdir()] == [f"{name}.model"]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, ["No checkpoint"]),
            (b"", ["cannot be read"]),
            (b"PK\x03\x04 cut short", ["cannot be read"]),
            ({"params": {"lr": 1}}, ["no state_dict"]),
            ({"qnn.fc.weight": torch.ones(1, 3)}, ["another model", "weights missing", "other shapes", "(1, 3)"]),
        ],
    )
    def test_bad_files(self, feature_map, tmp_path, content, words):
        path = tmp_path / "bad.model"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(CheckpointError) as error:
            build("QIN", feature_map).load_weights(str(path))
        assert all(w in str(error.value) for w in [str(path), *words])

    def test_objects_are_never_unpickled(self, feature_map, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "planted"), "w"))

        torch.save({"weight": Evil()}, tmp_path / "evil.model")
        with pytest.raises(CheckpointError):
            build("QIN", feature_map).load_weights(str(tmp_path / "evil.model"))
        assert not (tmp_path / "planted").exists()

    def test_disk_full_keeps_the_old_one(self, feature_map, tmp_path, monkeypatch):
        model = build("QIN", feature_map, model_root=str(tmp_path))
        model.save_weights(model.checkpoint)
        before = open(model.checkpoint, "rb").read()

        def full(state, file):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(QinZooError, match="No space left"):
            model.save_weights(model.checkpoint)
        assert open(model.checkpoint, "rb").read() == before
        assert len(list((tmp_path / "test").iterdir())) == 1


def test_a_gpu_that_is_not_there(feature_map):
    with pytest.raises(QinZooError, match="GPU 99"):
        build("QIN", feature_map, gpu=99)


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    """With batches large enough for several threads: scattered gradients must be summed in a fixed order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    vocab = {**VOCAB, "item_id": 3000}
    batch = random_item_batch(vocab, 8, batch=4096, length=32)
    states = []
    for _ in range(3):
        model = build("QIN", item_table_feature_map(vocab, 8), net_dropout=0.1, batch_norm=True)
        train(model, [batch] * 3)
        states.append(model.state_dict())
    torch.set_num_threads(threads)
    for name, weight in states[0].items():
        assert all(torch.equal(weight, state[name]) for state in states[1:]), name
