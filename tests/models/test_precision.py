"""Training and scoring in lower precision, and compiled."""

import shutil

import pytest
import torch
from conftest import MODELS, VOCAB, item_table_feature_map, random_item_batch
from torch import nn

from qin_zoo.models.precision import Precision
from qin_zoo.registry import create_model

MANY = {**VOCAB, "item_id": 1000}


def build(name="QIN", vocab=VOCAB, **params):
    torch.manual_seed(0)
    defaults = {"metrics": ["AUC"], "embedding_dim": 8, "model_root": ".", "verbose": 0}
    return create_model(name, item_table_feature_map(vocab, 8), **defaults, **params)


def train(model, batch, steps):
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    model.train()
    return [model.train_step(batch).item() for _ in range(steps)]


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_close_and_the_rest_stays_float32(name):
    batch = random_item_batch(VOCAB, 8, batch=64)
    exact, short = build(name), build(name, precision="bf16")
    assert exact.state_dict().keys() == short.state_dict().keys()
    short.load_state_dict(exact.state_dict())
    for model in (exact, short):
        model.eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05)  # away from the tiny initial embeddings
    a, b = exact(batch)["logits"], short(batch)["logits"]
    assert b.dtype == torch.float32
    torch.testing.assert_close(b, a, atol=0.05, rtol=0.05)
    losses = train(short, batch, 3)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert {p.dtype for p in short.parameters()} == {torch.float32}


def test_layers_of_one_number_are_float32():
    layer = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))
    x = torch.randn(16, 64)
    precision = Precision("bf16", torch.device("cpu"))
    precision.prepare(layer)
    with precision.context():
        hidden, logits = layer[0](x), layer(x)
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(logits, hidden.float() @ layer[1].weight.T + layer[1].bias)


def test_unknown_precision():
    with pytest.raises(ValueError, match="fp32, tf32, bf16"):
        Precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize(("slow", "told"), [(torch.bfloat16, True), (None, False), (torch.float32, False)])
def test_a_processor_without_bfloat16_is_told_of(slow, told, monkeypatch, caplog):
    """An EPYC without AVX-512 takes 45 times as long: 53 minutes for an epoch that takes one."""
    monkeypatch.setattr("qin_zoo.models.precision._seconds", lambda dtype: 45.0 if dtype == slow else 1.0)
    for name in ("fp32", "tf32"):
        Precision(name, torch.device("cpu"))
    assert not caplog.text
    Precision("bf16", torch.device("cpu"))
    assert ("45 times as long" in caplog.text and "--set precision=fp32" in caplog.text) == told == bool(caplog.text)


def test_tf32_is_float32_on_a_cpu():
    batch = random_item_batch(VOCAB, 8)
    exact, short = build(), build(precision="tf32")
    assert torch.equal(exact(batch)["logits"], short(batch)["logits"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("name", ["QIN", "DIN"])
def test_compiled_model_is_the_same_model_compiled_once(name):
    batches = [random_item_batch(MANY, 8, batch=64, seed=seed) for seed in range(3)]
    plain, compiled = build(name, MANY), build(name, MANY, compile=True)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for batch in batches:  # of which each has as many distinct items as it happens to have
        assert train(plain, batch, 1) == pytest.approx(train(compiled, batch, 1), abs=1e-5)
    counted = torch._dynamo.utils.counters
    assert (counted["stats"]["unique_graphs"], dict(counted["graph_break"])) == (1, {})
    plain.load_state_dict(compiled.state_dict())
    batch = random_item_batch(MANY, 8, batch=640)  # DIN's places are scored in parts
    with torch.no_grad():
        ours, theirs = (model.eval()(batch)["logits"] for model in (compiled, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
