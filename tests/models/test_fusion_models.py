"""FusionNet, QIN's ablations and the heads without history: formula, training, and both kinds of input."""

import pytest
import reference
import reference_fusion
import torch
from conftest import REPOSITORY, VOCAB, item_table_feature_map, random_item_batch

import qin_zoo
from qin_zoo.batch import ItemBatch
from qin_zoo.config.experiments import load_experiment
from qin_zoo.config.schema import check_params
from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.layers import FUSIONS

QIN = {"num_layers": 2, "dnn_hidden_units": [6, 5]}
FUSION_NET = {"fusion_dim": 5, "dnn_hidden_units": [6], "rank": 2, "tensor_dim": 2}
VARIANTS = {
    **{f"QIN {a} {i}": ("QIN", {**QIN, "attention": a, "interaction": i})
       for a in ("asta", "softmax", "mean", "none") for i in ("qnn", "mlp", "cross")},
    **{f"FusionNet {f} {p}": ("FusionNet", {**FUSION_NET, "fusion": f, "pooling": p})
       for f in FUSIONS for p in ("mean", "attention")},
    "FusionNet gate softmax": ("FusionNet", {**FUSION_NET, "fusion": "gate", "gate_activation": "softmax"}),
    "QNN": ("QNN", {"num_layers": 2}),
    "MLP": ("MLP", {"dnn_hidden_units": [6, 5]}),
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


def build(variant, feature_map=None, **params):
    name, own = VARIANTS[variant]
    torch.manual_seed(0)
    return qin_zoo.create_model(
        name,
        feature_map or item_table_feature_map(VOCAB, 8),
        embedding_dim=4,
        **{"embedding_initializer": "partial(nn.init.normal_, std=0.3)", **own, **params},
    )


# ---- plain references


def reference_head(model, features):
    kind, head = next((k, getattr(model, k)) for k in ("qnn", "mlp", "cross", "dnn") if hasattr(model, k))
    plain = {"qnn": reference.qnn, "mlp": reference_fusion.mlp, "cross": reference_fusion.cross}
    return plain.get(kind, reference_fusion.mlp)(head, features)


def reference_logits(variant, model, x):
    history = x.history.table[x.history.index]
    _, own = VARIANTS[variant]
    if variant in ("QNN", "MLP"):
        return reference_head(model, torch.cat([x.context, x.target], 1))
    if variant.startswith("QIN"):
        interest = {
            "asta": lambda: [reference.asta(model.attention_layers, x.target, history, x.mask)],
            "softmax": lambda: [reference_fusion.softmax_asta(model.attention_layers, x.target, history, x.mask)],
            "mean": lambda: [reference_fusion.mean_pooling(None, x.target, history, x.mask)],
            "none": list,
        }[own["attention"]]()
        return reference_head(model, torch.cat([x.context, x.target, *interest], 1))
    sizes = list(model.item_dims.values())
    plain_fusion = {**reference_fusion.FUSIONS, "lmf": reference_fusion.lmf_of_products}[own["fusion"]]
    fuse = lambda item: plain_fusion(model.fusion, item.split(sizes))  # noqa: E731
    target = torch.stack([fuse(t) for t in x.target])
    fused = torch.stack([torch.stack([fuse(h_l) for h_l in h]) for h in history])
    pooling = own.get("pooling", "attention")
    plain = {"mean": reference_fusion.mean_pooling, "attention": reference_fusion.target_attention_pooling}[pooling]
    return reference_head(model, torch.cat([x.context, target, plain(model.pooling, target, fused, x.mask)], 1))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_formula_and_gradients(variant, training, batch_norm):
    model = build(variant, batch_norm=batch_norm).train(training)
    batch = random_item_batch(VOCAB, 8, batch=5, length=3)
    parameters = [p for p in model.parameters() if p.requires_grad]
    results = []
    for logits in (model(batch)["logits"], reference_logits(variant, model, model._inputs(batch))):
        gradients = torch.autograd.grad(logits.sigmoid().pow(2).sum(), parameters, allow_unused=True)
        results.append((logits, gradients))
    (got, got_gradients), (want, want_gradients) = results
    torch.testing.assert_close(got, want.view(-1, 1), atol=1e-5, rtol=1e-5)
    for g, w in zip(got_gradients, want_gradients):
        assert (g is None) == (w is None)
        if g is not None:
            torch.testing.assert_close(g, w, atol=1e-5, rtol=1e-4)


# ---- inputs


def test_blind_and_triple(variant):
    model = build(variant).eval()
    batch = random_item_batch(VOCAB, 8)
    torch.testing.assert_close(model(batch)["y_pred"], model(batch.triple())["y_pred"])
    blind = ItemBatch(batch.rows, batch.history[:, :0], batch.target, batch.items)
    none = ItemBatch(batch.rows, batch.history * 0, batch.target, batch.items)
    torch.testing.assert_close(model(blind)["y_pred"], model(none)["y_pred"])
    torch.testing.assert_close(model(blind)["y_pred"], model(blind.triple())["y_pred"])
    sees_history = not ("none" in variant or variant in ("QNN", "MLP"))
    assert torch.allclose(model(batch)["y_pred"], model(blind)["y_pred"]) != sees_history


def test_each_distinct_item_is_fused_once():
    model = build("FusionNet lmf mean")
    batch = random_item_batch(VOCAB, 8)
    rows = []
    model.fusion.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[0]))
    model(batch)
    assert rows == [len(batch), batch.item_ids.unique().numel()]


def train(model, batch, steps=60):
    model.train()
    model._max_gradient_norm, model._steps_per_epoch = 10.0, steps
    losses = []
    for model._batch_index in range(steps):
        losses.append(float(model.train_step(batch)))
    return losses


def test_trains_on_an_item_table(variant):
    losses = train(build(variant, learning_rate=0.01, embedding_initializer="partial(nn.init.normal_, std=1e-4)"),
                   random_item_batch(VOCAB, 8, batch=32))  # fmt: skip
    assert losses[-1] < 0.6 * losses[0]


def fields_feature_map():
    from conftest import make_feature_map

    categorical = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 10}
    sequence = {**categorical, "type": "sequence", "max_len": 4}
    return make_feature_map(
        {
            "age": dict(categorical),
            "item": {**categorical, "embedding_dim": 6},
            "cate": dict(categorical),
            "clicks": {**sequence, "share_embedding": "item"},
            "cates": {**sequence, "share_embedding": "cate"},
        },
        labels=["clk"],
    )


def test_trains_on_named_fields(variant):
    model = build(variant, fields_feature_map(), learning_rate=0.01, target_field=("item", "cate"),
                  sequence_field=("clicks", "cates"))  # fmt: skip
    assert model.item_dims == {"item": 6, "cate": 4}
    g = torch.Generator().manual_seed(0)
    ids = lambda *shape: torch.randint(1, 10, shape, generator=g)  # noqa: E731
    clicks = ids(12, 4) * torch.tensor([1, 1, 0, 0])
    clicks[0] = 0
    batch = {"age": ids(12), "item": ids(12), "cate": ids(12), "clicks": clicks, "cates": ids(12, 4) * (clicks > 0),
             "clk": torch.randint(0, 2, (12,), generator=g)}  # fmt: skip
    losses = train(model, batch)
    assert losses[-1] < 0.6 * losses[0]


# ---- configuration


def test_default_qin_is_the_published_one():
    model = build("QIN asta qnn")
    assert type(model.attention_layers).__name__ == "ASTA"
    assert not model.attention_layers.normalize
    names = {n.split(".")[0] for n in model.state_dict()}
    assert names == {"embedding_layer", "attention_layers", "qnn"}


@pytest.mark.parametrize(
    ("expid", "key", "choices"),
    [
        ("QIN_sample", "attention", ["asta", "softmax", "mean", "none"]),
        ("QIN_sample", "interaction", ["qnn", "mlp", "cross"]),
        ("FusionNet_sample", "fusion", list(FUSIONS)),
        ("FusionNet_sample", "pooling", ["mean", "attention"]),
        ("FusionNet_sample", "gate_activation", ["sigmoid", "softmax"]),
    ],
)
def test_the_configuration_check_lists_the_choices(expid, key, choices):
    name = expid.split("_")[0]
    params = load_experiment(REPOSITORY / "experiments" / name, expid)
    with pytest.raises(ConfigError) as error:
        check_params({**params, key: "other"}, qin_zoo.get_model(name))
    assert all(repr(choice) in str(error.value) for choice in choices)


@pytest.mark.parametrize("base", ["QIN_MicroLens_1M_x1", "QIN_sample"])
def test_the_ablation_table_is_six_experiments_that_differ_in_one_part(base):
    read = lambda expid: load_experiment(REPOSITORY / "experiments" / "QIN", expid)  # noqa: E731
    published = read(base)
    for ending, part in (
        ("softmax", {"attention": "softmax"}),
        ("mean", {"attention": "mean"}),
        ("none", {"attention": "none"}),
        ("mlp", {"interaction": "mlp"}),
        ("cross", {"interaction": "cross"}),
    ):
        params = read(f"{base}_{ending}")
        changed = {k: v for k, v in params.items() if published.get(k, "") != v}
        assert {k: v for k, v in changed.items() if k not in ("model_id", "dnn_hidden_units")} == part


def test_a_tensor_too_large_is_the_users_mistake():
    with pytest.raises(ModelError, match="tensor_dim"):
        build("FusionNet mtfn mean", tensor_dim=500)
