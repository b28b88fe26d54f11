"""Lazy embedding tables: torch's SparseAdam, the dense optimisers where both are the same, and whole trainings."""

import numpy as np
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch
from processes import together

import qin_zoo
from qin_zoo.distributed import joined
from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.periods.fesail import Restraint
from qin_zoo.training.checkpoint import CheckpointStore
from qin_zoo.training.stability import NotFinite
from qin_zoo.training.trainer import Trainer

SIZES = VOCAB | {"item_id": 400}
ITEMS = random_item_batch(SIZES, 8, batch=8, seed=0).items  # one item table


def batch(seed, rows=8):
    found = random_item_batch(SIZES, 8, batch=rows, seed=seed)
    found.items.update(ITEMS)
    return found


TRAIN = [batch(seed) for seed in range(7)]
VALID = [batch(9, rows=64)]
TABLES = ("likes_level", "views_level", "item_id", "item_tags")


def build(tmp_path, embedding_optimizer="lazy", model="QIN", **params):
    torch.manual_seed(0)
    options = {"learning_rate": 5e-3, "metrics": ["AUC"], "verbose": 0, "embedding_dim": 4, **params}
    feature_map = item_table_feature_map(SIZES, 8, group_id="user_id")
    return qin_zoo.create_model(
        model, feature_map, model_id="t", model_root=str(tmp_path), embedding_optimizer=embedding_optimizer, **options
    )


def fit(model, folder=None, epochs=3, **options):
    torch.manual_seed(1)
    store = None if folder is None else CheckpointStore(folder)
    return Trainer(model, epochs=epochs, max_gradient_norm=0.05, checkpoints=store, **options)


class Halting(list):
    """Batches that end in the tenth step."""

    left = 9

    def __iter__(self):
        for found in super().__iter__():
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield found


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, other, **tolerance):
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adam_is_torchs_sparse_adam(tmp_path, precision):
    """Two epochs of steps with clipping, beside a loop of torch's own optimisers."""
    ours, theirs = (build(tmp_path, precision=precision, net_regularizer=0.01) for _ in range(2))
    tables = [theirs._tables[name].weight for name in TABLES]
    others = [p for p in theirs.parameters() if all(p is not t for t in tables)]
    sparse, dense = torch.optim.SparseAdam(tables, lr=5e-3), torch.optim.Adam(others, lr=5e-3)
    ours._max_gradient_norm, ours._steps_per_epoch, ours._batch_index = 0.05, len(TRAIN), 0
    for step in TRAIN * 2:
        ours.train_step(step)
        theirs.compute_loss(theirs(step), theirs.get_labels(step)).backward()
        for table in tables:
            assert table.grad.is_sparse
            table.grad = table.grad.coalesce()
        gradients = [p.grad for p in others] + [t.grad.values() for t in tables]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        torch.testing.assert_close(ours.gradient_norm, norm, rtol=1e-4, atol=0)
        assert norm > 0.05
        for gradient in gradients:
            gradient.mul_(0.05 / (norm + 1e-6))
        sparse.step(), dense.step(), sparse.zero_grad(), dense.zero_grad()
    assert_same(ours, theirs, rtol=1e-4, atol={"fp32": 2e-6, "bf16": 1e-4}[precision])


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_is_the_dense_optimiser(tmp_path, optimizer, accumulation_steps):
    params = {"optimizer": optimizer, "accumulation_steps": accumulation_steps, "net_regularizer": 0.01}
    dense, lazy = (build(tmp_path / kind, kind, **params) for kind in ("dense", "lazy"))
    begun = lazy._tables["item_id"].weight.detach().clone()
    found = [fit(model).fit(TRAIN, VALID) for model in (dense, lazy)]
    assert_same(dense, lazy, rtol=1e-4, atol=1e-6)
    assert not torch.equal(begun, lazy._tables["item_id"].weight)
    for one, other in zip(*found):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("regularizer", [0.3, "l1_l2(0.1,0.2)"])
def test_the_penalty_of_the_rows_that_occur(tmp_path, regularizer):
    """Their gradients, of two accumulated batches, are those of the dense penalty; other rows and moments rest."""
    found = {}
    for kind in ("dense", "lazy"):
        model = build(tmp_path, kind, embedding_regularizer=regularizer, accumulation_steps=2, optimizer="SGD")
        with torch.no_grad():
            for name in TABLES:
                model._tables[name].weight.normal_(generator=torch.Generator().manual_seed(3))
        model._max_gradient_norm, model._steps_per_epoch, begun = 1e9, 2, weights(model)
        for model._batch_index, step in enumerate(TRAIN[:2]):
            model.train_step(step)
        moves = {name: (v - begun[name])[1:] for name, v in weights(model).items() if "layers.item_" in name}
        found[kind] = moves
    for name, dense in found["dense"].items():
        lazy = found["lazy"][name]
        moved = lazy.abs().sum(1) > 0
        assert moved.sum() > 0
        torch.testing.assert_close(lazy[moved], dense[moved], rtol=1e-4, atol=1e-6)
    assert (found["lazy"]["embedding_layer.embedding_layer.embedding_layers.item_id.weight"] == 0).any()


@pytest.mark.parametrize("optimizer", ["adam", "Adagrad"])
def test_resumes_in_the_middle(tmp_path, optimizer):
    """Bit for bit, with a gradient that waits for its second batch; the state is that of a dense Adam."""
    params = {"accumulation_steps": 2, "embedding_regularizer": 1e-3, "net_dropout": 0.2, "optimizer": optimizer}
    whole = build(tmp_path / "whole", **params)
    fit(whole).fit(TRAIN, VALID)
    halted = build(tmp_path / "halted", **params)
    with pytest.raises(KeyboardInterrupt):
        fit(halted, tmp_path / "checkpoints", checkpoint_steps=4).fit(Halting(TRAIN), VALID)
    waiting = CheckpointStore(tmp_path / "checkpoints").latest().tensors["gradients"]
    assert any(gradient.is_sparse for gradient in waiting.values())
    resumed = build(tmp_path / "halted", **params)
    fit(resumed, tmp_path / "checkpoints").fit(TRAIN, VALID, resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    if optimizer == "adam":
        dense = build(tmp_path / "dense", "dense", **params)
        fit(dense, epochs=1).fit(TRAIN, VALID)
        states = [model.optimizer.state_dict()["state"] for model in (dense, resumed)]
        forms = [{n: {k: (v.dtype, v.shape) for k, v in s.items()} for n, s in state.items()} for state in states]
        assert forms[0] == forms[1]
        dense.optimizer.load_state_dict(resumed.optimizer.state_dict())


def test_a_step_that_is_not_finite_moves_nothing(tmp_path):
    model = build(tmp_path)
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 1.0, 9, 0
    model.train_step(TRAIN[0])
    begun, step = weights(model), float(model.optimizer.state[model._tables["item_id"].weight]["step"])
    model.train(False)
    handle = model._tables["item_id"].weight.register_hook(lambda gradient: gradient * float("inf"))
    model.train_step(TRAIN[1])
    handle.remove()
    assert not torch.isfinite(model.gradient_norm)
    for name, value in weights(model).items():
        assert torch.equal(value, begun[name]), name
    assert float(model.optimizer.state[model._tables["item_id"].weight]["step"]) == step
    assert model._tables["item_id"].weight.grad is None


def test_says_which_row_is_not_finite(tmp_path):
    """A row of the item table is spoilt in the second epoch."""
    model = build(tmp_path)
    spoilt = []

    def spoil(evaluation):
        if not spoilt:
            spoilt.append(evaluation)
            model._tables["item_id"].weight.data[int(TRAIN[0].target[2])] = torch.inf

    with pytest.raises(NotFinite, match=r"embedding_layers.item_id.weight are not finite in row"):
        fit(model, on_evaluation=spoil).fit(TRAIN, VALID)


def test_hooks_of_others_see_the_rows_move(tmp_path):
    """FeSAIL's restraint takes small movements of stale rows back, those of lazy tables too."""
    model = build(tmp_path, learning_rate=1e-3)
    table = model._tables["item_id"].weight
    Restraint({"item_id": [table]}, {"item_id": np.arange(400) % 2}, strength=1e9).attach(model.optimizer)
    begun = table.detach().clone()
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 1.0, 9, 0
    model.train_step(TRAIN[0])
    moved = (table.detach() != begun).any(1)
    assert moved[::2].any()
    assert not moved[1::2].any()


@pytest.mark.parametrize("model", ["DIN", "DeepFM", "Transformer_DCN"])
def test_other_models(tmp_path, model):
    evaluations = fit(build(tmp_path, model=model, embedding_regularizer=1e-3), epochs=1).fit(TRAIN, VALID)
    assert np.isfinite(evaluations[0].train_loss)


def test_other_optimisers(tmp_path):
    with pytest.raises(ConfigError, match=r"Adagrad, Adam, SGD, not with AdamW"):
        build(tmp_path, optimizer="AdamW")


def test_several_processes(tmp_path):
    def join():
        with joined(-1) as group, pytest.raises(QinZooError, match="lazy trains in one process"):
            build(tmp_path).join(group)
        return True

    assert together(2, join) == [True, True]
