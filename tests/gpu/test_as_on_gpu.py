"""What a GPU would do, without one: the branches for it give the same numbers, and nothing in a step waits for it.

A tensor of the meta device has no values: whoever asks for one, or mixes devices, raises an error, as a GPU would have
to be waited for. That is of the forward pass and the loss: backward, torch itself cannot do without values there.
Time and the GPU's own kernels are matters of ``test_on_gpu.py``.
"""

import pytest
import torch
from conftest import MODELS, VOCAB, item_table_feature_map, random_item_batch

from qin_zoo.batch import ItemBatch
from qin_zoo.registry import create_model

PARAMS = {"metrics": ["AUC"], "embedding_dim": 8, "model_root": ".", "verbose": 0, "embedding_regularizer": 1e-3}
ONLY_TRAINED = {"SIM"}  # has no second output without training, which its loss is of
NO_META = {"SIM", "QIN", "QNN"}  # QNN's layers leave autocast, which torch cannot do on the meta device
LEAVE_PADDING_OUT = {"DIN", "DIN_CrossAttention"}  # and wait, to know how much is left
CATALOGUES = {"fewer items than places": VOCAB, "more": {**VOCAB, "item_id": 500}}


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Every tensor says that it lies on a GPU from now on."""
    return lambda: monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)


def build(name, vocab, **params):
    torch.manual_seed(0)
    model = create_model(name, item_table_feature_map(vocab, 8, "user_id"), **PARAMS, **params)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def on(device, batch):
    rows, items = ({n: t.to(device) for n, t in part.items()} for part in (batch.rows, batch.items))
    return ItemBatch(rows, batch.history.to(device), batch.target.to(device), items)


def gradients(model, batch):
    loss = model.compute_loss(model.forward(batch), model.get_labels(batch))
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("vocab", CATALOGUES.values(), ids=CATALOGUES)
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ONLY_TRAINED])
def test_the_branches_for_a_gpu_give_the_same_numbers(name, vocab, as_on_gpu):
    model, batch = build(name, vocab), random_item_batch(vocab, 8)
    model.eval()  # without dropout
    loss, expected = gradients(model, batch)
    as_on_gpu()
    again, found = gradients(model, batch)
    torch.testing.assert_close(again, loss)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, atol=2e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("loss", ["binary_crossentropy", "published", "pairwise", "focal", "jrc"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in NO_META | LEAVE_PADDING_OUT])
def test_a_step_waits_for_no_value(name, loss, as_on_gpu):
    if loss != "binary_crossentropy" and name != "MLP":
        pytest.skip("the loss is the same for all")
    model, batch = build(name, CATALOGUES["more"], loss=loss), random_item_batch(CATALOGUES["more"], 8)
    meta = torch.device("meta")
    model.to(meta)
    model.device = model._inputs.embedder.device = meta
    model._regularize()  # of the weights that are there now
    as_on_gpu()
    for training in (True, False):
        model.train(training)
        loss = model.compute_loss(model.forward(on(meta, batch)), model.get_labels(on(meta, batch)))
        assert loss.device.type == "meta"
