"""The weights that are shown are those of the formulas, and those that the model sums with."""

import pytest
import reference
import torch
from explaining import LENGTH, make_model, model_input, one_row

from qin_zoo.explain.attention import attention_weights
from qin_zoo.layers import dense
from qin_zoo.layers.target_attention import head_sums

ROWS = [0, 1, 2]  # without a history, with a full one, with padding


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_asta(row):
    model = make_model("QIN", num_layers=1)
    x = model_input(model, one_row(row))
    weights = attention_weights(model, x)
    assert list(weights) == ["attention_layers"]
    found = weights["attention_layers"]
    close(found, reference.asta_weights(model.attention_layers, x.target, dense(x.history), x.mask))
    if row == 1:
        assert (found == 0).any()  # sparse
        assert found.sum() != pytest.approx(1)  # and not normalised


@pytest.mark.parametrize("row", ROWS)
def test_softmax(row):
    model = make_model("QIN", num_layers=1, attention="softmax")
    x, layer = model_input(model, one_row(row)), model.attention_layers
    found = attention_weights(model, x)["attention_layers"]
    score = (
        (dense(x.history)[0] @ layer.W_k.weight.T) @ (layer.W_q.weight @ x.target[0]) / (2 * x.target.shape[1]) ** 0.5
    )
    expected = torch.zeros(LENGTH)
    expected[x.mask[0]] = score[x.mask[0]].softmax(0)
    close(found[0], expected)


@pytest.mark.parametrize("row", ROWS)
def test_mean(row):
    model = make_model("QIN", num_layers=1, attention="mean")
    x = model_input(model, one_row(row))
    found = attention_weights(model, x)["attention_layers"]
    close(found, x.mask.float() / max(int(x.mask.sum()), 1))


@pytest.mark.parametrize(
    ("name", "params"),
    [("QIN", {"attention": "none"}), ("MLP", {}), ("QNN", {}), ("Transformer_DCN", {})],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_models_without_such_a_layer(name, params):
    model = make_model(name, **params)
    assert attention_weights(model, model_input(model, one_row())) == {}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", ["SIM", "ETA", "SDIM", "TWIN"])
def test_what_a_search_finds(name, row):
    """Weights of the few places that are looked up, at these places of the whole history."""
    model = make_model(name, num_heads=2, short_seq_len=2, **({} if name == "SDIM" else {"topk": 2}))
    x, seen = model_input(model, one_row(row)), {}
    names = ["short_attention"] if name == "SDIM" else ["short_attention", "long_attention"]
    layers = {key: model.get_submodule(key) for key in names}
    for key, layer in layers.items():
        layer.register_forward_hook(lambda _, __, output, key=key: seen.update({key: output}))
    found = attention_weights(model, x)
    assert set(found) == set(layers)
    for key, layer in layers.items():
        assert found[key].shape == (2, LENGTH)
        assert ((found[key] > 0).sum(1) == min(int(x.mask.sum()), 2)).all()
        assert not (found[key] * ~x.mask).any()
        sums = head_sums(found[key][None], layer.by_head(layer.W_v, x.target), dense(x.history))
        close(layer.W_o(sums.flatten(1)), seen[key])
    assert not found["short_attention"][:, :-2].any()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("softmax", [False, True])
def test_din(row, softmax):
    if softmax and row == 0:
        pytest.skip("with nothing to attend to, the formula's softmax is defined by its rounding only")
    model = make_model("DIN", din_use_softmax=softmax)
    x = model_input(model, one_row(row))
    found = attention_weights(model, x)["attention_layers"]
    close(found, reference.din_weights(model.attention_layers, x.target, dense(x.history), x.mask))


@pytest.mark.parametrize("row", ROWS)
def test_several_heads(row):
    model = make_model("DIN_DCN", num_heads=2)
    x, layer = model_input(model, one_row(row)), model.attention_layers
    found = attention_weights(model, x)["attention_layers"]
    assert found.shape == (2, LENGTH)
    d = x.target.shape[1] // 2
    for head in range(2):
        part = slice(head * d, (head + 1) * d)
        key, query = dense(x.history)[0] @ layer.W_k.weight[part].T, layer.W_q.weight[part] @ x.target[0]
        expected = torch.zeros(LENGTH)
        expected[x.mask[0]] = (key @ query / d**0.5)[x.mask[0]].softmax(0)
        close(found[head], expected)


@pytest.mark.parametrize("row", ROWS)
def test_each_layer_of_an_encoder(row):
    """PyTorch's own weights, on what the layer before makes of the target."""
    model = make_model("DIN_CrossAttention", num_heads=2, rms_norm="shared")
    x = model_input(model, one_row(row))
    found, query, history = attention_weights(model, x), x.target, dense(x.history)
    layers = model.cross_attention_layers.layers
    assert list(found) == ["attention_layers", *(f"cross_attention_layers.layers.{n}.cross_attn" for n in (0, 1))]
    for n, layer in enumerate(layers):
        attention, items = layer.cross_attn, layer.attn_norm(history)
        maps = ((attention.query_proj, query.unsqueeze(0)), (attention.key_proj, items), (attention.value_proj, items))
        expected = attention.multihead_attn(
            *(linear(values) for linear, values in maps), key_padding_mask=~x.mask, average_attn_weights=False
        )[1][0, :, 0]
        close(found[f"cross_attention_layers.layers.{n}.cross_attn"], expected.nan_to_num())
        query = layer(query, x.history, x.mask)


def test_the_pooling_of_fused_items():
    model = make_model("FusionNet")
    x = model_input(model, one_row(1))
    found = attention_weights(model, x)["pooling"]
    target, history = model.fusion(x.target)[0], model.fusion(dense(x.history))[0]
    close(found[0], (history @ (model.pooling.query.weight @ target) / len(target) ** 0.5).softmax(0).detach())


def test_the_model_is_left_as_it_was():
    model = make_model("QIN")
    before = model(one_row())["logits"]
    attention_weights(model, model_input(model, one_row()))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(one_row())["logits"], before)
