"""Integrated gradients: complete for every model, and exact where the exact answer is known."""

import numpy as np
import pytest
import torch
from explaining import disturb, make_model, model_input, one_row
from torch import nn

from qin_zoo import ZooModel
from qin_zoo.errors import QinZooError
from qin_zoo.explain.contributions import Contributions, integrated_gradients
from qin_zoo.layers import MeanPooling, dense

MODELS = (
    "QIN", "DIN", "DIN_CrossAttention", "DIN_DCN", "DIN_SENet", "FusionNet", "MLP", "QNN", "Transformer_DCN",
    "Transformer_DCN_Quant", "DCNv2", "DeepFM", "FSDNet", "FCN", "SIM", "ETA", "SDIM", "TWIN",
)  # fmt: skip


class Linear(ZooModel):
    """w·[context; target; mean of the history] + b."""

    def __init__(self, feature_map, **kwargs):
        super().__init__(feature_map, **kwargs)
        self.pooling = MeanPooling()
        self.out = nn.Linear(self.context_dim + 2 * self.item_dim, 1)

    def logits(self, x):
        return self.out(torch.cat([x.context, x.target, self.pooling(x.target, x.history, x.mask)], dim=-1))


class OnlyLikes(ZooModel):
    """Sees likes_level alone, through a bend."""

    def __init__(self, feature_map, **kwargs):
        super().__init__(feature_map, **kwargs)
        self.out = nn.Sequential(nn.Linear(self.context_dims["likes_level"], 4), nn.Tanh(), nn.Linear(4, 1))

    def logits(self, x):
        return self.out(x.context[:, : self.context_dims["likes_level"]])


def toy(kind, feature_map):
    torch.manual_seed(1)
    return disturb(kind(feature_map, embedding_dim=4, verbose=0))


@pytest.mark.parametrize("name", MODELS)
def test_complete(name):
    params = {"batch_norm": True} if name != "Transformer_DCN_Quant" else {"mask_convention": "history"}
    params |= {"short_seq_len": 3} if name in ("SIM", "ETA", "SDIM", "TWIN") else {}
    params |= {"topk": 3} if name in ("SIM", "ETA", "TWIN") else {}
    model = make_model(name, **params)
    batch = one_row()
    found = integrated_gradients(model, model_input(model, batch))
    assert found.logit == pytest.approx(float(model(batch)["logits"].detach()), abs=1e-5)
    total = sum([*found.context.values(), *found.target.values(), *(v.sum() for v in found.history.values())])
    assert total - (found.logit - found.baseline) == pytest.approx(found.delta, abs=1e-9)
    assert abs(found.delta) < 5e-3
    assert found.complete
    assert list(found.context) == ["likes_level", "views_level"]
    assert list(found.target)[:3] == list(found.history)[:3] == ["item_id", "item_tags", "item_emb_d128"]


def test_stored_vectors_are_held():
    """What SimTier counts is no embedding: the baseline has it, and the rest still adds up."""
    model, batch = make_model("DIN", simtier_content="item_emb_d128", simtier_tiers=4), one_row()
    seen = []
    model.simtier.register_forward_hook(lambda _, args, out: seen.append(out.sum(dim=1)))
    found = integrated_gradients(model, model_input(model, batch))
    assert found.complete
    assert all((counts == batch.mask.sum()).all() for counts in seen)
    assert found.logit == pytest.approx(float(model(batch)["logits"].detach()), abs=1e-5)


def test_a_linear_model_in_closed_form(feature_map):
    model = toy(Linear, feature_map)
    x = model_input(model, one_row())
    found = integrated_gradients(model, x)
    w = model.out.weight[0].detach()
    of_context, of_target, of_history = w.split([model.context_dim, model.item_dim, model.item_dim])
    sizes = list(model.item_dims.values())
    context = (x.context[0] * of_context).split(list(model.context_dims.values()))
    target = (x.target[0] * of_target).split(sizes)
    mean = dense(x.history)[0] * x.mask[0].unsqueeze(1) / x.mask.sum()
    history = (mean * of_history).split(sizes, dim=1)
    assert list(found.context.values()) == pytest.approx([float(c.sum()) for c in context], abs=1e-5)
    assert list(found.target.values()) == pytest.approx([float(t.sum()) for t in target], abs=1e-5)
    for values, expected in zip(found.history.values(), history):
        np.testing.assert_allclose(values, expected.sum(dim=1).numpy(), atol=1e-5)
    assert found.baseline == pytest.approx(float(model.out.bias.detach()), abs=1e-6)


def test_what_a_model_does_not_see_contributes_nothing(feature_map):
    found = integrated_gradients(toy(OnlyLikes, feature_map), model_input(toy(OnlyLikes, feature_map), one_row()))
    assert found.context["likes_level"] == pytest.approx(found.logit - found.baseline, abs=1e-4)
    assert abs(found.context["likes_level"]) > 0.01
    assert found.context["views_level"] == 0
    assert not any(found.target.values())
    assert not any(values.any() for values in found.history.values())


def test_items_that_the_attention_leaves_out_contribute_nothing():
    """A linear output on ASTA: an item whose weight is 0 all along the path adds nothing."""
    model = make_model("QIN", num_layers=1)
    x = model_input(model, one_row(1))
    with torch.no_grad():  # the weight of item l has the sign of its score, from the row's to the baseline's zero
        weights = model.attention_layers.weights(x.target, x.history, x.mask)[0]
    found = integrated_gradients(model, x)
    items = sum(found.history.values())
    assert (weights == 0).any()
    np.testing.assert_array_equal(items[weights.numpy() == 0], 0)
    assert (items[weights.numpy() > 0] != 0).all()


def test_a_trained_model_gives_the_contribution_to_the_feature_that_decides():
    """Clicks follow views_level alone, and no other feature tells it."""
    model = make_model("MLP", dnn_hidden_units=[16], learning_rate=0.01, embedding_regularizer=1e-3)
    model.train()
    model._batch_index, model._steps_per_epoch, model._max_gradient_norm = 0, 1, 10.0
    g = torch.Generator().manual_seed(0)
    batch = one_row()
    for _ in range(150):
        n = 256
        rows = {name: torch.randint(0, 11, (n,), generator=g) for name in ("likes_level", "views_level")}
        rows["label"] = (rows["views_level"] > 5).float()
        target = torch.randint(1, 30, (n,), generator=g)
        history = batch.history.expand(n, -1)
        model.train_step(type(batch)(rows, history, target, batch.items))
    model.eval()
    batch.rows["views_level"] = torch.tensor([9])
    found = integrated_gradients(model, model_input(model, batch))
    others = [found.context["likes_level"], *found.target.values(), *(v.sum() for v in found.history.values())]
    assert found.context["views_level"] > 0.8 * (found.logit - found.baseline) > 2
    assert max(map(abs, others)) < 0.2 * found.context["views_level"]


def test_a_row_without_history_and_a_logit_that_is_no_number(feature_map):
    model = toy(Linear, feature_map)
    assert not any(v.any() for v in integrated_gradients(model, model_input(model, one_row(0))).history.values())
    nn.init.constant_(model.out.bias, float("nan"))
    with pytest.raises(QinZooError, match="the logit of this row is nan"):
        integrated_gradients(model, model_input(model, one_row()))


def test_a_sum_that_is_wrong_is_not_called_complete():
    assert Contributions(2.0, 0.0, {}, {}, {}, 0.015, 64).complete
    assert not Contributions(2.0, 0.0, {}, {}, {}, -0.025, 64).complete


def test_without_captum(monkeypatch, feature_map):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    model = toy(Linear, feature_map)
    with pytest.raises(QinZooError, match="needs captum"):
        integrated_gradients(model, model_input(model, one_row()))
