"""DIN_SENet and DIN_DCN: the whole model against its formula, every switch, both kinds of input, training."""

import re
from pathlib import Path

import pytest
import reference_target_attention as reference
import torch
from conftest import REPOSITORY, VOCAB, item_table_feature_map, make_feature_map, random_item_batch
from torch.nn import functional as F

import qin_zoo
from qin_zoo.batch import ItemBatch

SENET = {"num_heads": 3, "dnn_hidden_units": [8]}
DCN = {"num_heads": 2, "num_cross_layers": 2, "parallel_dnn_hidden_units": [8], "stacked_dnn_hidden_units": [7, 5]}
MIX = {"use_low_rank_mixture": True, "low_rank": 3, "num_experts": 2}
CASES = {
    "senet": ("DIN_SENet", SENET),
    "senet_relu": ("DIN_SENet", {**SENET, "excitation_activation": "ReLU", "reduction_ratio": 2}),
    "senet_cross": ("DIN_SENet", {**SENET, "use_cross_net": True, "num_cross_layers": 2}),
    "senet_bilinear": ("DIN_SENet", {**SENET, "use_bilinear": True}),
    "senet_all": ("DIN_SENet", {**SENET, "use_cross_net": True, "use_bilinear": True, "bilinear_type": "field_each"}),
    "dcn_parallel": ("DIN_DCN", DCN),
    "dcn_stacked": ("DIN_DCN", {**DCN, "model_structure": "stacked"}),
    "dcn_mix_parallel": ("DIN_DCN", {**DCN, **MIX}),
    "dcn_mix_stacked": ("DIN_DCN", {**DCN, **MIX, "model_structure": "stacked"}),
}
REFERENCES = {"DIN_SENet": reference.din_senet, "DIN_DCN": reference.din_dcn}
FIELDS = {"target_field": ("item", "cate"), "sequence_field": ("clicks", "cates")}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def build(case, feature_map, **params):
    torch.manual_seed(0)
    name, own = case
    return qin_zoo.create_model(name, feature_map, **{"embedding_dim": 6, **own, **params})


@pytest.fixture
def batch():
    return random_item_batch(VOCAB, 8, batch=7, length=4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", ["index", "triple"])
def test_formula(case, feature_map, batch, form, training):
    model = build(case, feature_map, embedding_initializer="partial(nn.init.normal_, std=0.5)").train(training)
    want = REFERENCES[case[0]](model, batch)
    got = model(batch if form == "index" else batch.triple())["logits"]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    labels = batch.rows["label"].view(-1, 1)
    gradients = [
        torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, labels), parameters) for logits in (got, want)
    ]
    for g, w in zip(*gradients):
        torch.testing.assert_close(g, w, atol=1e-6, rtol=1e-4)


def fields_problem(rows=24):
    categorical = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 10}
    sequence = {**categorical, "type": "sequence", "max_len": 4}
    feature_map = make_feature_map(
        {
            "age": categorical,
            "price": {"type": "numeric", "source": ""},
            "item": {**categorical, "embedding_dim": 4},
            "cate": categorical,
            "clicks": {**sequence, "share_embedding": "item"},
            "cates": {**sequence, "share_embedding": "cate"},
        }
    )
    g = torch.Generator().manual_seed(0)
    ids = lambda *shape: torch.randint(1, 10, shape, generator=g)  # noqa: E731
    clicks = ids(rows, 4)
    clicks[:, 2:] *= torch.randint(0, 2, (rows, 1), generator=g)
    return feature_map, {
        "age": ids(rows), "price": torch.rand(rows, generator=g), "item": ids(rows), "cate": ids(rows),
        "clicks": clicks, "cates": ids(rows, 4) * (clicks > 0),
        "label": torch.randint(0, 2, (rows,), generator=g).float(),
    }  # fmt: skip


def losses(model, batch, steps=40):
    model._batch_index, model._steps_per_epoch, model._max_gradient_norm = 0, steps, 10.0
    model.train()
    return [model.train_step(batch).item() for _ in range(steps)]


def test_trains_on_an_item_table(case, feature_map):
    loss = losses(build(case, feature_map, learning_rate=0.01), random_item_batch(VOCAB, 8, batch=24))
    assert loss[-1] < 0.6 * loss[0]


def test_trains_on_named_fields(case):
    feature_map, batch = fields_problem()
    params = {**FIELDS, "learning_rate": 0.01, "num_heads": 2, "batch_norm": True, "attention_dropout": 0.1}
    model = build(case, feature_map, **params)
    loss = losses(model, batch)
    assert loss[-1] < 0.6 * loss[0]


def test_training_is_deterministic(case, feature_map, batch):
    runs = [losses(build(case, feature_map, net_dropout=0.1, attention_dropout=0.1), batch, 3) for _ in range(2)]
    assert runs[0] == runs[1]


def test_blind_to_history(case, feature_map, batch):
    model = build(case, feature_map).eval()
    blind = ItemBatch(batch.rows, batch.history[:, :0], batch.target, batch.items)
    none = ItemBatch(batch.rows, batch.history * 0, batch.target, batch.items)
    torch.testing.assert_close(model(blind)["logits"], model(none)["logits"])
    torch.testing.assert_close(model(blind)["logits"], model(blind.triple())["logits"])


def test_one_row_and_no_row_features(case):
    feature_map = item_table_feature_map(VOCAB, 8)
    for name in ("likes_level", "views_level"):
        del feature_map.features[name]
    model = build(case, feature_map).eval()
    batch = random_item_batch(VOCAB, 8, batch=3)
    one = ItemBatch({k: v[:1] for k, v in batch.rows.items()}, batch.history[:1], batch.target[:1], batch.items)
    torch.testing.assert_close(model(one)["y_pred"], model(batch)["y_pred"][:1])


def test_each_distinct_item_is_projected_once(feature_map, batch):
    model = build(CASES["senet"], feature_map)
    seen = []
    model.item_embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    model(batch)
    assert seen == [len(batch), batch.item_ids.unique().numel()]


def test_switches_add_what_they_name(feature_map):
    def width(**params):
        return build(("DIN_SENet", {**SENET, **params}), feature_map).dnn.mlp[0].in_features

    flat, pairs = 8 * 6, 28 * 6  # 2 context, 3 target and 3 interest fields of size 6
    assert width() == flat
    assert width(use_cross_net=True) == 2 * flat
    assert width(use_bilinear=True) == flat + 2 * pairs
    assert width(use_cross_net=True, use_bilinear=True) == 2 * flat + 2 * pairs


def test_strategies_differ_in_their_item_table_only():
    import yaml

    folder = Path(REPOSITORY) / "dataset_configs"
    own = yaml.safe_load((folder / "MicroLens_1M_x1.yaml").read_text())["MicroLens_1M_x1"]
    others = yaml.safe_load((folder / "MicroLens_1M_x1_embeddings.yaml").read_text())
    assert set(others) == {f"MicroLens_1M_x1_{s}" for s in ("text_only", "image_only", "pca_then_concat")}
    for name, config in others.items():
        strategy = re.sub("^MicroLens_1M_x1_", "", name)
        assert config == {**own, "item_info": f"./data/MicroLens_1M_x1/item_info_{strategy}.parquet"}
