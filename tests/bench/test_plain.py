"""The plain reference computes what the fast model computes, and learns the same; its reader reads the same rows."""

import copy
from dataclasses import astuple

import numpy as np
import pytest
import torch
from conftest import MODELS, REPOSITORY, VOCAB, item_table_feature_map, random_item_batch

from qin_zoo.bench.plain import PLAIN, PlainLoader, make_plain
from qin_zoo.bench.trajectory import trajectories
from qin_zoo.experiment.prepare import prepare
from qin_zoo.registry import create_model

PARAMS = {"metrics": ["AUC"], "embedding_dim": 8, "model_root": ".", "verbose": 0, "embedding_regularizer": 1e-3}


def pair(name, **params):
    torch.manual_seed(0)
    fast = create_model(name, item_table_feature_map(VOCAB, 8), **PARAMS, **params)
    for weight in fast.parameters():
        if weight.dim() > 1:
            torch.nn.init.xavier_normal_(weight)
    for module in fast.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            torch.nn.init.zeros_(module.weight[module.padding_idx].detach())
    plain = make_plain(create_model(name, item_table_feature_map(VOCAB, 8), **PARAMS, **params))
    plain.load_state_dict(copy.deepcopy(fast.state_dict()))
    return fast, plain


@pytest.mark.parametrize("name", MODELS)
def test_same_loss_and_gradients(name):
    fast, plain = pair(name)
    batch = random_item_batch(VOCAB, 8, batch=32)
    losses = []
    for model, given in ((fast, batch), (plain, batch.triple())):
        model.train()
        losses.append(model.compute_loss(model.forward(given), model.get_labels(given)))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    for (key, f), p in zip(fast.named_parameters(), plain.parameters()):
        found = torch.zeros_like(f) if f.grad is None else f.grad  # a key's bias is nothing to a softmax
        torch.testing.assert_close(found, p.grad, atol=1e-5, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_every_fast_layer_is_replaced():
    _, plain = pair("QIN")
    kinds = {type(m) for m in plain.modules()}
    assert not kinds & set(PLAIN)
    assert kinds & set(PLAIN.values())


@pytest.mark.slow
def test_200_steps_keep_together(sample, tmp_path):
    """In float64: in float32 two plain models one rounding error apart drift further than the 1e-4 asked for."""
    overrides = [
        f"cache_dir={tmp_path}",
        "batch_size=100",
        "max_len=16",
        "num_row=4",
        "net_dropout=0.3",
        "learning_rate=1e-3",
    ]
    losses = trajectories("QIN_sample", 200, REPOSITORY / "experiments" / "QIN", sample, overrides, double=True)
    plain, fast, nudged = np.array([astuple(step) for step in losses]).T
    assert plain[-20:].mean() < plain[:20].mean() - 0.05  # it learns something
    assert np.abs(plain - fast).max() < 1e-4
    assert 0 < np.abs(plain - nudged).max() < 1e-4
    in_float32 = trajectories("QIN_sample", 2, REPOSITORY / "experiments" / "QIN", sample, overrides)
    assert max(abs(step.plain - step.fast) for step in in_float32) < 1e-4


def test_plain_reader_reads_the_same_rows(sample, tmp_path):
    prepared = prepare(
        "QIN_sample",
        REPOSITORY / "experiments" / "QIN",
        data=sample,
        overrides=[f"cache_dir={tmp_path}", "batch_size=500"],
    )
    dataset = prepared.open_dataset()
    rows, items, mask = next(iter(PlainLoader(dataset.feature_map, prepared.params)))
    loader = dataset.loader("train", shuffle=False)
    known = loader.batch(np.arange(loader.num_samples))
    place = {(*h.tolist(), u, t): i for i, (h, u, t) in enumerate(
        zip(known.history, known.rows["user_id"].tolist(), known.target.tolist()))}  # fmt: skip
    history = items["item_id"].view(len(mask), -1)
    found = [place[(*h[:-1].tolist(), u, h[-1].item())] for h, u in zip(history, rows["user_id"].tolist())]
    want_rows, want_items, want_mask = loader.batch(np.array(found)).triple()
    assert torch.equal(mask, want_mask)
    for name, values in want_items.items():
        torch.testing.assert_close(items[name].to(values.dtype), values)
    assert torch.equal(rows["label"].float(), want_rows["label"])
