"""MUSE's published numbers: predictions, loss, gradients of weights and embedded inputs, and what its search finds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, make_feature_map, random_item_batch

import qin_zoo
from qin_zoo.batch import ItemBatch
from qin_zoo.layers import best_places, cosines

ARRAYS = np.load(Path(__file__).parent.parent / "golden" / "muse_aux.npz", allow_pickle=False)
META = json.loads(ARRAYS["meta"].item())
ROWS, LENGTH, DIM = META["batch"], META["long_len"], META["D"]
NAMES = {
    "short_tiers.weight": "all_seq_image_res.rt_simtier.emb",
    "long_tiers.weight": "all_seq_image_res.uni_v2_simtier.emb",
    "long_attention.tau": "uni_att_v2.cosine_tau1",
    "long_attention.beta": "uni_att_v2.cosine_tau2",
}
for _kind in ("weight", "bias"):
    NAMES |= {f"short_attention.query.{_kind}": f"realtime_att.query_fcs.0.linears.0.{_kind}"}
    NAMES |= {f"short_attention.key.{_kind}": f"realtime_att.fact_fcs.0.linears.0.{_kind}"}
    for _ours, _theirs in (("query", "query"), ("key", "fact"), ("value", "value")):
        NAMES |= {f"long_attention.{_ours}.0.{_kind}": f"uni_att_v2.{_theirs}_layers.0.linears.0.{_kind}"}
    for _ours, _theirs, _layers in (("tower", "fc_tower", 4), ("aux_tower", "fc_tower_aux", 3)):
        for _n in range(_layers):
            NAMES |= {f"{_ours}.{2 * _n}.{_kind}": f"{_theirs}.linears.{_n}.{_kind}"}
            NAMES |= {f"{_ours}.{2 * _n + 1}.gamma": f"{_theirs}.act_layers.{_n}.dice_gamma"}


def array(name):
    return torch.from_numpy(ARRAYS[name])


def published(group, name, like):
    """Theirs under our name: they keep two τ, of which the first counts, and rows of one."""
    return array(f"{group}/{NAMES[name]}").flatten()[: like.numel()].view_as(like)


@pytest.fixture
def golden():
    """The model and its batch: the embedded inputs are rows of tables, each place of a history an item of its own."""
    fields = {name: array(f"input/{name}") for name in ("ad.2", "ad.3", *(f"user.{n}" for n in range(6)))}
    count = 1 + ROWS + ROWS * LENGTH

    def ids(source, size, dim):
        return {
            "type": "categorical", "source": source, "vocab_size": size, "padding_idx": 0, "embedding_dim": dim
        }  # fmt: skip

    specs = {name.replace(".", "_"): ids("", ROWS + 1, values.shape[1]) for name, values in fields.items()}
    specs |= {name: ids("item", count, DIM) for name in ("item_id", "cate")}
    specs["image"] = {"type": "meta", "source": "item", "pretrain_dim": 128}
    params = {"short_seq_len": META["short_len"], "topk": META["keep_top"], "content": "image", "verbose": 0}
    model = qin_zoo.create_model("MUSE", make_feature_map(specs), published=True, embedding_dim=DIM, **params)
    tables = model.embedding_layer.embedding_layer.embedding_layers
    with torch.no_grad():
        for name, values in fields.items():
            tables[name.replace(".", "_")].weight[1:] = values
        for name, ad, long in (("item_id", "ad.0", "long_id.0"), ("cate", "ad.1", "long_cat.0")):
            tables[name].weight[1:] = torch.cat([array(f"input/{ad}"), array(f"input/{long}").flatten(0, 1)])
        for name, parameter in model.named_parameters():
            if name in NAMES:
                parameter.copy_(published("state", name, parameter))
    target = torch.arange(1, ROWS + 1)
    real = array("input/long_content").any(dim=2)
    history = torch.where(real, torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) + ROWS + 1, 0)
    vectors = torch.cat([array("input/target_content"), array("input/long_content").flatten(0, 1)]).float()
    numbers = torch.arange(count)
    items = {"item_id": numbers, "cate": numbers, "image": torch.cat([vectors.new_zeros(1, 128), vectors])}
    rows = {name: target for name in specs if specs[name]["source"] == ""} | {"label": array("input/label").float()}
    return model, ItemBatch(rows, history, target, items)


@pytest.mark.parametrize("form", ["index", "triple"])
def test_published_numbers(golden, form):
    model, batch = golden
    given = batch if form == "index" else batch.triple()
    model.eval()
    y_pred = model(given)["y_pred"].detach().view(-1)
    np.testing.assert_allclose(y_pred, ARRAYS["eval/y_pred"], atol=1e-6, rtol=0)
    model.train()
    found = model(given)
    loss = model.compute_loss(found, model.get_labels(given))
    np.testing.assert_allclose(found["y_pred"].detach().view(-1), ARRAYS["train/y_pred"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(loss.detach(), ARRAYS["train/loss"], atol=1e-6, rtol=0)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in NAMES:
            same(parameter.grad, published("grad", name, parameter), name)
    tables = model.embedding_layer.embedding_layer.embedding_layers
    for name in [name for name in tables if name.startswith(("ad", "user"))]:
        same(tables[name].weight.grad[1:], array(f"grad_input/{name.replace('_', '.')}"), name)
    real = batch.history.flatten() > 0
    for name, ad, long in (("item_id", "ad.0", "long_id.0"), ("cate", "ad.1", "long_cat.0")):
        same(tables[name].weight.grad[1 : ROWS + 1], array(f"grad_input/{ad}"), ad)
        same(tables[name].weight.grad[ROWS + 1 :][real], array(f"grad_input/{long}").flatten(0, 1)[real], long)


def same(found, expected, name):
    tolerance = max(1e-5 * expected.abs().max().item(), 1e-7)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0, err_msg=name)


def test_its_search_finds_the_same(golden):
    model, batch = golden
    cosine = cosines(*model._inputs(batch).content("image"))
    places = best_places(cosine.masked_fill(cosine == 0, -1.1), torch.ones_like(batch.mask), META["keep_top"])
    for row, (found, expected) in enumerate(zip(places, array("gsu/top_k"))):
        items = sorted(batch.history[row, found].tolist())
        assert items == sorted(batch.history[row, expected].tolist())


# ---- without the quirks


def build(**params):
    torch.manual_seed(0)
    features = item_table_feature_map(VOCAB, 8)
    small = {"embedding_dim": 4, "short_seq_len": 3, "topk": 4, "dnn_hidden_units": [8], "aux_hidden_units": [5]}
    return qin_zoo.create_model("MUSE", features, verbose=0, **{**small, **params})


def test_padding_changes_nothing():
    model, batch = build().eval(), random_item_batch(VOCAB, 8)
    longer = torch.nn.functional.pad(batch.history, (5, 0))
    padded = ItemBatch(batch.rows, longer, batch.target, batch.items)
    torch.testing.assert_close(model(batch)["y_pred"], model(padded)["y_pred"])
    assert torch.isfinite(model(batch)["y_pred"]).all()  # the first row has no history
    assert len(model(batch)["logits"].unique()) > 10  # and not two values, as behind the last Dice


def test_the_search_is_by_content_and_the_newest_by_place():
    """Items that neither finds change nothing but the tiers, which do not see them either."""
    model, batch = build().eval(), random_item_batch(VOCAB, 8, length=12)
    vectors = batch.items["item_emb_d128"] / batch.items["item_emb_d128"].norm(dim=1, keepdim=True).clamp(min=1e-9)
    cosine = (vectors[batch.history] * vectors[batch.target].unsqueeze(1)).sum(dim=2)
    best = cosine.masked_fill(batch.history == 0, -2).topk(4).indices
    kept = torch.zeros_like(batch.mask).scatter(1, best, True)
    kept[:, -3:] = True
    thinned = ItemBatch(batch.rows, torch.where(kept, batch.history, 0), batch.target, batch.items)
    full = batch.mask[:, -3:].all(dim=1)
    torch.testing.assert_close(model(batch)["y_pred"][full], model(thinned)["y_pred"][full])


def test_the_second_tower_is_for_training_alone():
    model, batch = build(), random_item_batch(VOCAB, 8)
    assert "logits_aux" in model.train()(batch)
    assert "logits_aux" not in model.eval()(batch)
    alone = build(use_aux_loss=False)
    alone.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("aux_tower")})
    torch.testing.assert_close(alone.eval()(batch)["y_pred"], model(batch)["y_pred"])
    found = model.train()(batch)
    labels = model.get_labels(batch)
    both = [torch.nn.functional.binary_cross_entropy_with_logits(found[k], labels) for k in ("logits", "logits_aux")]
    torch.testing.assert_close(model.compute_loss(found, labels), sum(both))
