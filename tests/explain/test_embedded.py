"""Integrated gradients of models from elsewhere: exact where the exact answer is known, and complete."""

import numpy as np
import pytest
import torch
from foreign import foreign

from qin_zoo.errors import ModelError
from qin_zoo.experiment.prepare import build_model
from qin_zoo.explain.explanation import explain
from qin_zoo.explain.report import render_report


def make(name, data, folder):
    """A model with weights that make every part count."""
    prepared = foreign(name, data, folder)
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0  # padding, as in training
    return model, dataset


def contributions(explanation, part):
    return {feature.name: feature.contribution for feature in explanation.features if feature.part == part}


def test_a_wide_model_in_closed_form(tiny_seq, tmp_path):
    """The contribution of a value is its weight, that of the sequence the sum of its items'."""
    model, dataset = make("WideOnly", tiny_seq, tmp_path)
    batch = dataset.loader("valid").batch(np.array([4]))
    tables = model.wide.embedding_layer.embedding_layer.embedding_layers
    found = explain(model, dataset, "valid", 4, "x")
    expected = {name: float(tables[name](batch[name].long()).detach().sum()) for name in tables}
    assert contributions(found, "context") == pytest.approx(expected, abs=1e-5)
    assert found.baseline == pytest.approx(float(model.wide.bias.detach()), abs=1e-6)
    assert found.logit == pytest.approx(found.baseline + sum(expected.values()), abs=1e-5)


def test_the_triple_in_closed_form(sample, tmp_path):
    """With crossing and deep part at zero the logit is linear in context, target, and the history's mean."""
    model, dataset = make("TripleNet", sample, tmp_path)
    with torch.no_grad():
        for parameter in model.cross.parameters():
            parameter.zero_()
        model.out.weight[:, -16:] = 0
    loader = dataset.loader("valid")
    row = next(r for r in range(50) if 2 <= int(loader.batch(np.array([r]))[2].sum()) < 20)
    rows, items, mask = loader.batch(np.array([row]))
    found = explain(model, dataset, "valid", row, "x")
    embed = model.embedding_layer.embedding_layer
    w_context, w_target, w_history = model.out.weight[0, :-16].detach().split([16, model.item_dim, model.item_dim])
    with torch.no_grad():
        context = {n: e[0] for n, e in embed({n: rows[n] for n in ("likes_level", "views_level")}).items()}
        item = embed(items)
    for place, (name, values) in enumerate(context.items()):
        share = float((values * w_context[8 * place : 8 * place + 8]).sum())
        assert contributions(found, "context")[name] == pytest.approx(share, abs=1e-5)
    first = 0
    for name in ("item_id", "item_tags", "item_emb_d128"):
        size = item[name].shape[1]
        target = float((item[name][-1] * w_target[first : first + size]).sum())
        history = (item[name][:-1] * w_history[first : first + size]).sum(1) * mask[0] / mask.sum()
        assert contributions(found, "target")[name] == pytest.approx(target, abs=1e-5)
        assert contributions(found, "history")[name] == pytest.approx(float(history.sum()), abs=1e-5)
        for item_of_history in found.history:
            share = float(history[item_of_history.place - 1])
            assert item_of_history.features[name] == pytest.approx(share, abs=1e-5)
        first += size
    assert len(found.history) == int(mask.sum())
    assert found.target.item == int(dataset.targets("valid")[row])
    assert found.prediction == pytest.approx(float(torch.tensor(found.logit).sigmoid()), abs=1e-6)


@pytest.mark.parametrize("name", ["TripleNet", "FieldsNet"])
def test_complete(name, sample, tiny_seq, tmp_path):
    model, dataset = make(name, tiny_seq if name == "FieldsNet" else sample, tmp_path)
    found = explain(model, dataset, "valid", 3, "x")
    total = sum(feature.contribution for feature in found.features)
    assert total - (found.logit - found.baseline) == pytest.approx(found.delta, abs=1e-6)
    assert abs(found.logit - found.baseline) > 0.1
    assert found.complete


def test_what_is_not_embedded_is_said(sample, tmp_path):
    """And a model whose code fails on one row alone is explained with two."""
    model, dataset = make("RawContext", sample, tmp_path)
    found = explain(model, dataset, "valid", 1, "x")
    assert found.left_out == ["views_level"]
    assert "Read past FuxiCTR's embedding layers, so what they add there is not known: views_level." in render_report(
        found, "x"
    )


def test_a_model_that_embeds_nothing_through_fuxictr(sample, tmp_path):
    model, dataset = make("PastFuxiCTR", sample, tmp_path)
    with pytest.raises(ModelError, match="PastFuxiCTR embeds no feature through FuxiCTR's FeatureEmbedding"):
        explain(model, dataset, "valid", 1, "x")


def test_what_fails_is_named(sample, tmp_path):
    model, dataset = make("TripleNet", sample, tmp_path)
    model.item_dim += 1
    with pytest.raises(ModelError, match=r"TripleNet cannot compute this row: .*foreign_models.py, line \d+, in forw"):
        explain(model, dataset, "valid", 1, "x")
