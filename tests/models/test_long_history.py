"""SIM, ETA, SDIM, TWIN beside LongCTR's own code, and beside plain references of what that code does not do."""

import importlib
import math

import pytest
import torch
import yaml
from conftest import VOCAB, item_table_feature_map, random_item_batch, shared_data
from public_files import write_public
from test_pairs import PAIRS
from test_pairs import batch as fields_batch
from test_pairs import feature_map as fields

import qin_zoo
from qin_zoo.config.schema import check_params
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.layers import ItemRows, SharedHistory, dense
from qin_zoo.models import ModelInput
from qin_zoo.registry import get_model

LONG = 9
SMALL = {"embedding_dim": 6, "attention_dim": 8, "num_heads": 2, "short_seq_len": 4, "dnn_hidden_units": [8]}
TOP = {"topk": 3}
OWN = {"SIM": TOP, "ETA": {**TOP, "hash_bits": 8}, "SDIM": {"num_hashes": 3, "hash_bits": 2}, "TWIN": TOP}
SETTINGS = [
    ("SIM", {}),
    ("SIM", {"topk": 50, "num_heads": 1, "batch_norm": True, "alpha": 0.3, "beta": 2.0}),
    ("ETA", {"use_scale": False, "hash_bits": 32}),
    ("ETA", {"topk": 50}),
    ("SDIM", {"use_qkvo": False, "l2_norm": True}),
    ("SDIM", {"num_hashes": 1, "hash_bits": 4, "use_scale": False}),
    ("TWIN", {"topk": 50, "num_heads": 1}),
    ("TWIN", {}),
]


def build(name, **params):
    torch.manual_seed(0)
    model = qin_zoo.create_model(name, item_table_feature_map(VOCAB, 8), **{**SMALL, **OWN[name], **params})
    for table in model.embedding_layer.embedding_layer.embedding_layers.values():
        if isinstance(table, torch.nn.Embedding):
            torch.nn.init.normal_(table.weight[1:], std=0.5)
    return model


def a_batch(rows=24, length=LONG, seed=1):
    return random_item_batch(VOCAB, 8, batch=rows, length=length, seed=seed)


@pytest.mark.parametrize("form", ["index", "triple"])
@pytest.mark.parametrize(("name", "params"), SETTINGS, ids=lambda value: value if isinstance(value, str) else "")
def test_published_is_longctrs_code(name, params, form):
    """Rows without any item included; its code stands in FuxiCTR's wheel."""
    theirs = getattr(importlib.import_module(f"model_zoo.LongCTR.{name}.{name}"), name)
    model, batch = build(name, published=True, **params), a_batch()
    options = {**SMALL, **OWN[name], **params, "optimizer": "adam", "loss": "binary_crossentropy"}
    options |= {"task": "binary_classification", "metrics": ["AUC"], "verbose": 0, "model_root": "."}
    model.feature_map.default_emb_dim = SMALL["embedding_dim"]
    other = theirs(model.feature_map, gpu=-1, **options)
    state = {theirs_named(name, key): weight for key, weight in model.state_dict().items()}
    assert other.load_state_dict(state, strict=False).missing_keys == ["powers_of_two"] * (name == "SDIM")
    model.train(), other.train()
    if name == "ETA":  # which of equally far items are found is left open there
        other.topk_retrieval = lambda r, target, history, mask, k: newest_of_the_nearest(r[0], target, history, mask, k)
    losses = []
    for one, given in ((model, batch if form == "index" else batch.triple()), (other, batch.triple())):
        found = one(given)
        losses.append(one.compute_loss(found, one.get_labels(given)))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    found = {key: weight.grad for key, weight in other.named_parameters() if weight.grad is not None}
    for key, weight in model.named_parameters():
        want = found.pop(theirs_named(name, key))
        torch.testing.assert_close(weight.grad, want, atol=1e-6, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    assert not found


def theirs_named(name, weight):
    return weight.replace("long_attention.W_k", "long_attention.W_h") if name == "TWIN" else weight


def newest_of_the_nearest(rotations, target, history, mask, k):
    """Sorted, row by row: the nearest first, of equals the newest."""
    bits = lambda x: x @ rotations > 0  # noqa: E731
    index = []
    for t, h, m in zip(target, history, mask):
        far = (bits(h) != bits(t)).sum(-1).masked_fill(m == 0, rotations.shape[1] + 1).tolist()
        index.append(sorted(range(len(far)), key=lambda i, far=far: (far[i], -i))[:k])
    index = torch.tensor(index)
    return history.gather(1, index.unsqueeze(2).expand(-1, -1, history.shape[2])), mask.gather(1, index)


def attention(layer, target, items, topk=0):
    """Of one row, head by head, each of its own best items; zeros without items."""
    heads = []
    for head in range(layer.num_heads):
        part = lambda linear: linear.weight.unflatten(0, (layer.num_heads, -1))[head]  # noqa: E731, B023
        query = part(layer.W_q) @ target
        chosen = items
        if topk and len(items):
            score = items @ part(layer.W_k).t() @ query
            chosen = items[score.argsort(descending=True)[:topk]]
        score = chosen @ part(layer.W_k).t() @ query / math.sqrt(len(query))
        heads.append(score.softmax(0) @ (chosen @ part(layer.W_v).t()))
    return layer.W_o(torch.cat(heads))


def reference(name, model, x):
    """Row by row, of the items that are there, in the order of their time."""
    rows = []
    for context, target, history, mask in zip(x.context, x.target, dense(x.history), x.mask):
        items = history[mask]
        newest = items[-model.short_seq_len :] if mask[-model.short_seq_len :].any() else items[:0]
        short = attention(model.short_attention, target, newest)
        if name == "SIM":
            score = model.W_b(items) @ model.W_a(target)
            long = attention(model.long_attention, target, items[score.argsort(descending=True)[: model.topk]])
        elif name == "ETA":
            near = newest_of_the_nearest(
                model.random_rotations[0], target[None], items[None], torch.ones(1, len(items)), model.topk
            )[0][0] if len(items) else items
            long = attention(model.long_attention, target, near)
        elif name == "TWIN":
            long = attention(model.long_attention, target, items, model.long_attention.topk)
        else:
            bits = lambda v: torch.einsum("...d,dhb->...hb", v, model.random_rotations[0]) > 0  # noqa: E731
            same = (bits(items) == bits(target)).all(-1).to(items.dtype)  # (L, hashes)
            long = (same.t() @ items).mean(0)
        both = [long, short] if name == "SDIM" else [short, long]
        rows.append(torch.cat([context, target, *both]))
    return model.dnn(torch.stack(rows))


@pytest.mark.parametrize("form", ["index", "triple"])
@pytest.mark.parametrize("name", OWN)
def test_formula(name, form):
    """Not the published code's: every item of the newest is seen, under its own mask, and padding is never found."""
    model = build(name).eval()
    x = model._inputs(a_batch())
    table, target = (t.detach().double().requires_grad_() for t in (x.history.table, x.target))
    rows = ItemRows(table, x.history.index)
    x = ModelInput(x.context.detach().double(), target, rows if form == "index" else rows.dense(), x.mask)
    model.double()
    got, want = model.logits(x), reference(name, model, x)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-7)
    weights = [target, table, *model.short_attention.parameters(), *model.dnn.parameters()]
    weights += list(model.long_attention.parameters()) if name != "SDIM" else []
    how = torch.randn(want.shape, dtype=want.dtype)
    grads = (torch.autograd.grad((logits * how).sum(), weights, retain_graph=True) for logits in (got, want))
    for g, w in zip(*grads):
        torch.testing.assert_close(g, w, atol=1e-9, rtol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_one_history_for_all_rows(name, published):
    model = build(name, published=published).eval()
    for length in (0, 1, 3, LONG):
        x = model._inputs(a_batch())
        items = x.history.table[x.history.index[1]].clone()
        items[: LONG - length] = 0.0
        mask = (torch.arange(LONG) >= LONG - length).expand(len(x.target), -1)
        rows = ItemRows(items, torch.arange(LONG).expand(len(x.target), -1))
        want, *others = (
            model.logits(type(x)(x.context, x.target, history, mask))
            for history in (rows, rows.dense(), SharedHistory(items, len(x.target)))
        )
        for other in others:
            torch.testing.assert_close(other, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_histories_of_no_items_and_shorter_than_asked_for(name):
    """LongCTR's code fails on them."""
    for length in (0, 1, 2):
        for published in (False, True):
            model, batch = build(name, short_seq_len=4, published=published), a_batch(length=length)
            for given in (batch, batch.triple()):
                model.zero_grad()
                loss = model.compute_loss(model.train()(given), model.get_labels(given))
                loss.backward()
                assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
                assert torch.isfinite(model.eval()(given)["logits"]).all()


@pytest.mark.parametrize("name", OWN)
def test_no_vector_is_looked_up_but_of_what_is_found(name):
    """Of a long history there is never more in float than a number for each place, and each head or hash."""
    model, batch = build(name), a_batch(rows=8, length=200)
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, (tuple, list)) else [found]:
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    largest.append(tensor.numel())
            return found

    with Sizes():
        model.compute_loss(model.train()(batch), model.get_labels(batch)).backward()
    assert max(largest) <= 8 * 200 * (OWN["SDIM"]["num_hashes"] if name == "SDIM" else SMALL["num_heads"])


@pytest.mark.parametrize("name", OWN)
def test_two_pairs_of_fields(name):
    """The long interest of each pair is that of a model of this pair alone, with its share of the weights."""
    torch.manual_seed(0)
    params = {**SMALL, **OWN[name], "embedding_dim": 4, "learning_rate": 0.01}
    model = qin_zoo.create_model(name, fields(), **PAIRS, **params)
    batch = fields_batch()
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    losses = [model.train().train_step(batch).item() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    model.eval()
    x = model._inputs(batch)
    assert model.long_interest(x).shape == x.target.shape
    blind = type(x)(x.context, x.target, x.history, [x.mask[0], x.mask[1] & False])
    dim = sum(model.pairs[0].values())
    torch.testing.assert_close(model.long_interest(blind)[:, :dim], model.long_interest(x)[:, :dim])
    assert not model.long_interest(blind)[:, dim:].any()


@pytest.mark.parametrize("name", OWN)
def test_fields_without_a_history(name):
    model = qin_zoo.create_model(name, fields(), **{**SMALL, **OWN[name], "embedding_dim": 4})
    batch = fields_batch()
    assert torch.isfinite(model.compute_loss(model.train()(batch), model.get_labels(batch)))


def test_training_draws_new_hashes_and_scoring_keeps_to_one():
    for name in ("ETA", "SDIM"):
        model, x = build(name, reuse_hash=False), None
        x = model._inputs(a_batch())
        drawn = [model.train().long_interest(x) for _ in range(2)]
        assert not torch.equal(*drawn)
        kept = [model.eval().long_interest(x) for _ in range(2)]
        assert torch.equal(*kept)
        assert torch.equal(kept[0], build(name).eval().long_interest(x))


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("SIM", {"gsu_type": "hard"}, r"gsu_type.*'soft'.*'hard'"),
        ("TWIN", {"Kc_cross_features": 2}, r"Kc_cross_features.*0.*2"),
    ],
)
def test_what_longctr_cannot_either_is_refused_by_name(name, params, said):
    with pytest.raises(ConfigError, match=said):
        check_params({"model": name, **params}, get_model(name))


PUBLIC = shared_data().parent / "configs" / "longctr"


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="LongCTR's configurations are not at hand")
@pytest.mark.parametrize(
    "folder",
    ["SIM_ebnerd_small_x1_tuner_config_01_500", "SIM_microvideo1.7m_x2_tuner_config_01_50",
     "ETA_kuaivideo_x2_tuner_config_01_50_2", "TWIN_ebnerd_small_x1_tuner_config_01_200"],
)  # fmt: skip
def test_longctrs_configurations(folder, tmp_path):
    """Every one is taken as it is, on histories shorter than its short_seq_len, too; one of them takes a step."""
    blocks = yaml.safe_load((PUBLIC / folder / "model_config.yaml").read_text())
    first, *others = blocks
    data = write_public(blocks[first]["dataset_id"], tmp_path / "data")
    prepared = prepare(first, PUBLIC / folder, data=data, overrides=["verbose=0", "batch_size=20"])
    assert prepared.model_class.__module__.startswith("model_zoo.")
    for name in others:
        changed = {key: value for key, value in blocks[name].items() if blocks[first][key] != value}
        assert check_params({**prepared.params, **changed}, prepared.model_class).items() >= changed.items()
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset)
    batch = next(iter(dataset.loader("train")))
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    assert torch.isfinite(model.train().train_step(batch))
