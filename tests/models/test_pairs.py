"""Named fields with several pairs of target and history, and with none."""

import logging

import pytest
import reference_fusion
import reference_target_attention
import reference_transformer
import torch
from conftest import make_feature_map

import qin_zoo
from qin_zoo.errors import ModelError

ATTENTION = {"num_heads": 2}
MODELS = {
    "QIN": {"num_layers": 2, "batch_norm": True, "attention": "softmax"},
    "DIN": {"dnn_hidden_units": [8], "attention_hidden_units": [4]},
    "DIN_DCN": {**ATTENTION, "parallel_dnn_hidden_units": [8]},
    "DIN_SENet": {**ATTENTION, "dnn_hidden_units": [8], "use_cross_net": True, "use_bilinear": True},
    "FusionNet": {"fusion": "lmf", "fusion_dim": 5, "dnn_hidden_units": [8]},
    "Transformer_DCN": {
        "first_k_cols": 2, "mask_convention": "history", "dcn_hidden_units": [8], "mlp_hidden_units": [4]
    },
    "MLP": {"dnn_hidden_units": [8]},
    "QNN": {"num_layers": 2},
}  # fmt: skip
PAIRS = {"target_field": [("item", "cate"), "brand"], "sequence_field": [("clicks", "cates"), "brands"]}
LAYERS = {"FusionNet": "pooling", "Transformer_DCN": "transformer_encoder"}
REFERENCES = {
    "QIN": reference_fusion.softmax_asta,
    "DIN_DCN": reference_target_attention.multi_head_target_attention,
    "FusionNet": reference_fusion.target_attention_pooling,
    "Transformer_DCN": lambda *x: reference_transformer.target_transformer(*x, "history"),
}


def build(name, features=None, **params):
    torch.manual_seed(0)
    options = {"embedding_dim": 4, "learning_rate": 0.01, **MODELS[name], **params}
    model = qin_zoo.create_model(name, features or feature_map(), **options)
    with torch.no_grad():
        for table in model.embedding_layer.embedding_layer.embedding_layers.values():
            if isinstance(table, torch.nn.Embedding):
                table.weight[1:] = 0.5 * torch.randn(table.weight[1:].shape)
    return model


def feature_map():
    one = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 12}
    many = {**one, "type": "sequence"}
    return make_feature_map(
        {
            "item": {**one, "embedding_dim": 6},
            "clicks": {**many, "max_len": 5, "share_embedding": "item"},
            "age": dict(one),
            "brand": dict(one),
            "price": {"type": "numeric", "source": ""},
            "brands": {**many, "max_len": 3, "share_embedding": "brand"},
            "cate": dict(one),
            "cates": {**many, "max_len": 5, "share_embedding": "cate"},
            "tags": {**many, "max_len": 2, "feature_encoder": "layers.MaskedAveragePooling()"},
        },
        labels=["clk"],
    )


def batch(rows=32, seed=0):
    """Histories of two lengths, each with a padding of its own; row 0 has none of the first, row 1 of the second."""
    g = torch.Generator().manual_seed(seed)
    ids = lambda *shape: torch.randint(1, 12, shape, generator=g)  # noqa: E731
    clicks, brands = ids(rows, 5), ids(rows, 3)
    clicks *= torch.arange(5) < torch.randint(0, 6, (rows, 1), generator=g)
    brands *= torch.arange(3) < torch.randint(0, 4, (rows, 1), generator=g)
    clicks[0], brands[1] = 0, 0
    label = torch.randint(0, 2, (rows,), generator=g)
    return {
        "clicks": clicks, "brands": brands, "price": torch.rand(rows, generator=g),
        "age": ids(rows), "brand": ids(rows), "item": ids(rows), "cate": ids(rows),
        "cates": ids(rows, 5) * (clicks > 0), "tags": ids(rows, 2), "clk": label,
    }  # fmt: skip


def newest_last(data, *names):
    """The lists of ids, a row at a time: what is there stands last."""
    by = {"cates": "clicks"}
    out = []
    for name in names:
        rows = zip(data[name].tolist(), data[by.get(name, name)].tolist())
        kept = [[x for x, real in zip(row, of) if real] for row, of in rows]
        out.append(torch.tensor([[0] * (data[name].shape[1] - len(row)) + row for row in kept]))
    return out


def train(model, data, steps):
    model.train()
    model._max_gradient_norm, model._steps_per_epoch = 10.0, steps
    losses = []
    for model._batch_index in range(steps):
        losses.append(float(model.train_step(data)))
    return losses


@pytest.mark.parametrize("fields", [PAIRS, {}], ids=["pairs", "none"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns(name, fields):
    losses = train(build(name, **fields), batch(), 60)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", REFERENCES)
def test_each_pair_has_an_interest_of_its_own(name):
    """What the layer returns, beside the published formulas for one pair, row by row."""
    model, data = build(name, **PAIRS).eval(), batch()
    emb = model.embedding_layer.embedding_layer.embedding_layers
    targets = [torch.cat([emb["item"](data["item"]), emb["cate"](data["cate"])], 1), emb["brand"](data["brand"])]
    clicks, cates, brands = newest_last(data, "clicks", "cates", "brands")
    histories = [torch.cat([emb["item"](clicks), emb["cate"](cates)], 2), emb["brand"](brands)]
    masks = [clicks > 0, brands > 0]
    layer = getattr(model, LAYERS.get(name, "attention_layers"))
    found = []
    layer.register_forward_hook(lambda module, inputs, output: found.append(output.detach()))
    model(data)
    if name == "FusionNet":
        fuse = [lambda x, own=own: own(x) for own in model.fusion]
        targets, histories = ([f(x) for f, x in zip(fuse, xs)] for xs in (targets, histories))
    expected = [REFERENCES[name](*pair) for pair in zip(layer, targets, histories, masks)]
    expected = torch.cat([e if isinstance(e, torch.Tensor) else torch.stack(e) for e in expected], dim=1)
    assert model.interest_dim == found[0].shape[1]
    torch.testing.assert_close(found[0], expected.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_padding_may_stand_anywhere(name):
    """FuxiCTR pads at the end by default; a model's newest items are the last that there are."""
    model, data = build(name, **PAIRS).eval(), batch()
    before = dict(zip(("clicks", "cates", "brands"), newest_last(data, "clicks", "cates", "brands")))
    expected = model({**data, **before})["y_pred"]
    assert torch.equal(model(data)["y_pred"], expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_list_of_one_pair_is_that_pair(name):
    """With the state names of the published checkpoints, so that their weights and ours are the same."""
    pair = {"target_field": ("item", "cate"), "sequence_field": ("clicks", "cates")}
    one, listed = build(name, **pair), build(name, **{key: [value] for key, value in pair.items()})
    assert list(one.state_dict()) == list(listed.state_dict())
    assert torch.equal(one.eval()(batch())["y_pred"], listed.eval()(batch())["y_pred"])


def test_without_a_history_all_fields_are_the_context():
    model = build("QIN")
    assert (model.item_dim, model.interest_dim, model.pairs) == (0, 0, [])
    assert list(model.context_dims) == ["item", "clicks", "age", "brand", "price", "brands", "cate", "cates", "tags"]
    assert model.qnn.fc.in_features == sum(model.context_dims.values()) == 38 + 2  # clicks share the item's 6


@pytest.mark.parametrize(("name", "said"), [("QIN", 1), ("MLP", 0)])
def test_a_model_without_its_history_says_so(name, said, caplog):
    with caplog.at_level(logging.INFO):
        build(name)
    assert sum("runs without a history" in line for line in caplog.messages) == said


def test_numbers_and_categories_alone():
    """As Criteo's: 13 numbers, 26 categories."""
    features = {f"I{i}": {"type": "numeric", "source": ""} for i in range(1, 14)}
    features |= {f"C{i}": {"type": "categorical", "source": "", "vocab_size": 9} for i in range(1, 27)}
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 9, (26, 40), generator=g)
    data = {f"I{i}": torch.rand(40, generator=g) for i in range(1, 14)} | {f"C{i + 1}": ids[i] for i in range(26)}
    data["clk"] = torch.randint(0, 2, (40,), generator=g)
    for name in MODELS:
        losses = train(build(name, make_feature_map(features, labels=["clk"])), data, 40)
        assert losses[-1] < 0.7 * losses[0], name


def test_position_wise_encoders_reach_the_history():
    """As FuxiCTR applies them: a linear map of each position's (pretrained) embedding."""
    features = feature_map()
    features.features["brands"]["feature_encoder"] = "nn.Linear(4, 4, bias=False)"
    model, data = build("DIN", features, target_field="brand", sequence_field="brands"), batch()
    parts = model.embedding_layer.embedding_layer
    expected = parts.embedding_layers["brand"](*newest_last(data, "brands")) @ parts.feature_encoders["brands"].weight.T
    torch.testing.assert_close(model._inputs(data).history, expected)


@pytest.mark.parametrize(
    ("target", "sequence", "words"),
    [
        (["item", "brand"], ["clicks"], ["2 targets", "1 histories", "tuple"]),
        (["item", "brand"], ["brands", "clicks"], ["[6]", "[4]", "share_embedding"]),
        (["item", "brnd"], ["clicks", "brands"], ["target_field", "'brnd'", "Did you mean 'brand'"]),
    ],
)
def test_fields_that_do_not_pair(target, sequence, words):
    with pytest.raises(ModelError) as error:
        build("QIN", target_field=target, sequence_field=sequence)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", ["QIN", "DIN", "MLP"])
def test_any_id_may_be_the_padding(name):
    """Numbers 0 and 11 of a feature change places, in its table and in the data: nothing else does."""
    fields = {"target_field": "brand", "sequence_field": "brands"}
    model, data = build(name, **fields).eval(), batch()
    features = feature_map()
    for feature in ("brand", "brands"):
        features.features[feature]["padding_idx"] = 11
    other = build(name, features, **fields).eval()
    other.load_state_dict(model.state_dict())
    order = torch.tensor([11, *range(1, 11), 0])
    with torch.no_grad():
        table = other.embedding_layer.embedding_layer.embedding_layers["brand"].weight
        table.copy_(table[order])
    renamed = data | {feature: order[data[feature]] for feature in ("brand", "brands")}
    torch.testing.assert_close(other(renamed)["logits"], model(data)["logits"])
