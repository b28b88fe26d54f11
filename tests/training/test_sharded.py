"""Tables split among processes: same losses, same weights, same files as whole ones; and what is refused."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch
from processes import together

import qin_zoo
from qin_zoo.distributed import joined
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.predict import feed_split, predict_split
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.models.sharded import ShardedTable, require_engine

INSTALLED = importlib.util.find_spec("torchrec") is not None
engine = pytest.mark.skipif(not INSTALLED, reason="TorchRec is not installed")
TABLES = ["item_id", "item_tags"]
SETTINGS = {
    "batch_size": 127, "embedding_dim": 4, "max_len": 8, "net_dropout": 0.0, "early_stop_patience": 1000,
    "reduce_lr_on_plateau": False, "learning_rate": 1e-3, "embedding_regularizer": 1e-3, "num_layers": 1, "num_row": 2,
}  # fmt: skip
FIELDS = {
    "batch_size": 24, "embedding_dim": 4, "net_dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 1e-3,
    "embedding_regularizer": "l1_l2(1.e-3,1.e-2)", "early_stop_patience": 1000, "reduce_lr_on_plateau": False,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    if INSTALLED:
        require_engine()  # the processes that are forked have it imported
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(expid, data, folder, settings, resume=False, stop_after=None, **changes):
    """The record of a run, and the random state behind it."""
    prepared = prepare(expid, data=data, overrides={**settings, "model_root": str(folder), **changes})
    seen = []

    def note(evaluation):
        seen.append(evaluation)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    try:
        record = run_experiment(prepared, folder, echo=lambda text: None, on_evaluation=note, resume=resume)
    except KeyboardInterrupt:
        return None
    return json.loads(json.dumps(record, default=str))


def losses(record):
    return np.array([e["train_loss"] for e in record["evaluations"]])


def weights(folder, name):
    return torch.load(folder / f"{name}.model", weights_only=True)


def assert_same_training(whole, split, whole_file, split_file, steps):
    assert len(losses(whole)) >= steps
    for record in split:
        np.testing.assert_allclose(losses(record), losses(whole), atol=1e-5)
        np.testing.assert_allclose(
            [e["gradient_norm"] for e in record["evaluations"]],
            [e["gradient_norm"] for e in whole["evaluations"]],
            rtol=1e-3,
        )
    assert list(split_file) == list(whole_file)
    for name, values in whole_file.items():
        torch.testing.assert_close(split_file[name], values, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def alone(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    record = run("QIN_sample", sample, folder, SETTINGS, epochs=3, eval_steps=1, save_best_only=False)
    return record, weights(folder / "sample", "QIN_sample")


@engine
@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_item_table(size, sample, tmp_path, alone):
    """3,000 rows in batches of 127: the last one has 79. The history's items are looked up, and their lists of tags."""
    changes = {"epochs": 3, "eval_steps": 1, "save_best_only": False, "sharded_tables": TABLES}
    records = together(size, lambda: run("QIN_sample", sample, tmp_path, SETTINGS, **changes))
    assert_same_training(alone[0], records, alone[1], weights(tmp_path / "sample", "QIN_sample"), steps=70)
    assert records[0]["valid"]["AUC"] == pytest.approx(alone[0]["valid"]["AUC"], abs=1e-4)
    again = prepare(
        "QIN_sample", data=sample, overrides={**SETTINGS, "model_root": str(tmp_path), "sharded_tables": TABLES}
    )
    predictions = np.loadtxt(tmp_path / "sample/QIN_sample.prediction.csv", delimiter=",", skiprows=1)
    files = predict_split(again, "test", out=tmp_path / "again", echo=lambda text: None)  # one process, whole tables
    np.testing.assert_array_equal(np.loadtxt(files.prediction, delimiter=",", skiprows=1), predictions)


@engine
@pytest.mark.parametrize(
    ("size", "more"), [(2, {}), (4, {}), (2, {"accumulation_steps": 3}), (2, {"precision": "bf16"})]
)
def test_named_fields(size, more, tiny_seq, tmp_path):
    """The sequence shares the target's table; 100 rows in batches of 24: every process has all of the last four."""
    changes = {"epochs": 3 if more else 10, "eval_steps": 1, "save_best_only": False, **more}
    whole = run("DIN_tiny_seq", tiny_seq, tmp_path / "one", FIELDS, **changes)
    changes["sharded_tables"] = ["click_sequence", "userid"]
    split = together(size, lambda: run("DIN_tiny_seq", tiny_seq, tmp_path / "split", FIELDS, **changes))
    files = [weights(tmp_path / kind / "tiny_seq", "DIN_tiny_seq") for kind in ("one", "split")]
    if "precision" in more:  # products are rounded otherwise, the look-ups are not
        np.testing.assert_allclose(losses(split[0])[:5], losses(whole)[:5], atol=1e-3)
    elif "accumulation_steps" in more:
        np.testing.assert_allclose(losses(split[0]), losses(whole), atol=1e-5)
    else:
        assert_same_training(whole, split, *files, steps=50)


@engine
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("batch_size", [127, 400, 1000])
def test_scores_are_exact(size, batch_size, sample, tmp_path):
    """Whoever has fewer batches, or none, helps the others: the same bits as with whole tables."""

    def score(tables):
        overrides = {**SETTINGS, "batch_size": batch_size, "sharded_tables": tables, "model_root": str(tmp_path)}
        prepared = prepare("QIN_sample", data=sample, overrides=overrides)
        dataset = prepared.open_dataset()
        with joined(-1) as group:
            model = build_model(prepared, dataset)
            model.join(group)
            predictions = model.predict(feed_split(dataset, "test", model))
            rows = [len(m.weight) for m in model.modules() if isinstance(m, ShardedTable)]
            return model.evaluate(feed_split(dataset, "valid", model)), predictions.tolist(), rows

    found, whole = together(size, score, TABLES), score([])
    assert all(one[:2] == whole[:2] for one in found)
    held = np.array([one[2] for one in found])  # (processes, tables)
    assert held.sum(0).tolist() == [t.num_embeddings for t in tables_of(sample, tmp_path)]
    assert (held <= -(-held.sum(0) // size)).all()


def tables_of(sample, folder):
    prepared = prepare("QIN_sample", data=sample, overrides={**SETTINGS, "model_root": str(folder)})
    layers = build_model(prepared, prepared.open_dataset()).embedding_layer.embedding_layer.embedding_layers
    return [layers[name] for name in TABLES]


def make_model(**changes):
    torch.manual_seed(0)
    settings = {"embedding_dim": 4, "verbose": 0, "batch_norm": True, "learning_rate": 0.1, "net_dropout": 0.0}
    model = qin_zoo.create_model("QIN", item_table_feature_map(VOCAB, 8), model_id="t", **settings | changes)
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 0.01, 1, 0
    return model.train()


def one_step(**changes):
    """One step on 16 rows: the loss, the norm, and the weights by name, split ones with their first row."""
    model = make_model(optimizer="SGD", embedding_regularizer=0.1, **changes)
    batch = random_item_batch(VOCAB, 8, seed=3)
    with joined(-1) as group:
        model.join(group)
        parts = np.array_split(np.arange(3, 16), group.size - 1) if group.size > 1 else []
        part = [np.arange(3), *parts][group.rank] if parts else np.arange(16)  # the first one has fewer rows
        own = type(batch)(
            {k: v[part] for k, v in batch.rows.items()}, batch.history[part], batch.target[part], batch.items
        )
        loss = float(model.train_step(own))
        firsts = {m.weight: m.first for m in model.modules() if isinstance(m, ShardedTable)}
        found = {n: (firsts.get(p), p.detach().numpy()) for n, p in model.named_parameters()}
        return loss, float(model.gradient_norm), found


@engine
@pytest.mark.parametrize("size", [2, 4])
def test_a_step_is_clipped_by_the_norm_of_all_rows(size):
    loss, norm, expected = one_step()
    assert norm > 0.01, "it is clipped"
    for found in together(size, lambda: one_step(sharded_tables=["item_id", "item_tags", "likes_level"])):
        assert found[0] == pytest.approx(loss, rel=1e-6)
        assert found[1] == pytest.approx(norm, rel=1e-5)
        for name, (first, values) in found[2].items():
            whole = expected[name][1]
            whole = whole if first is None else whole[first : first + len(values)]
            np.testing.assert_allclose(values, whole, atol=1e-7, err_msg=name)
    assert sum(first is not None for first, _ in found[2].values()) == 3


@engine
def test_a_bad_row_stops_all_and_moves_nothing():
    """Of two processes the second holds rows 15 to 29; both see its NaN, and only it can name the row."""
    from qin_zoo.training.stability import trace

    def step():
        model, batch = make_model(sharded_tables=["item_id"]), random_item_batch(VOCAB, 8, seed=3)
        batch.target[0] = 18
        with joined(-1) as group:
            model.join(group)
            if group.rank == 1:
                model.shards[0].data[18 - 15] = float("nan")
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            model.train_step(batch)
            finite = bool(torch.isfinite(model.gradient_norm))
            same = all(torch.equal(p.nan_to_num(), before[n].nan_to_num()) for n, p in model.named_parameters())
            with group.paused():
                return finite, same, trace(model, batch, None)

    (*first, other), (*second, owner) = together(2, step)
    assert first == second == [False, True]
    assert "of this process are finite" in other
    assert "item_id.weight are not finite in row 18 already" in owner


@engine
@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_resume_is_exact(accumulation_steps, sample, tmp_path):
    """Stopped and resumed: the same bits, step by step and in between the updates of several."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"epochs": 2, "eval_steps": 6, "checkpoint_steps": 5, "sharded_tables": TABLES, "net_dropout": 0.2}
    changes |= {"accumulation_steps": accumulation_steps, "ema_decay": 0.9}

    def go(folder, **more):
        return run("QIN_sample", sample, folder, SETTINGS, **changes | more)

    together(2, lambda: go(whole))
    together(2, lambda: go(parts, stop_after=4))
    assert (parts / "sample/QIN_sample.checkpoints").is_dir()
    resumed = together(2, lambda: go(parts, resume=True))
    states = [weights(folder / "sample", "QIN_sample") for folder in (whole, parts)]
    assert len(resumed[0]["evaluations"]) == 8
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@engine
def test_resumed_by_another_number_of_processes(sample, tmp_path, alone):
    """Four begin, one process goes on with whole tables, two end it: without dropout the losses stay those of one."""
    changes = {"epochs": 3, "eval_steps": 1, "save_best_only": False, "sharded_tables": TABLES}

    def go(stop_after=None, resume=True):
        return run("QIN_sample", sample, tmp_path, SETTINGS, stop_after=stop_after, resume=resume, **changes)

    together(4, lambda: go(5, resume=False))
    go(5)
    found = losses(together(2, go)[0])
    np.testing.assert_allclose(found, losses(alone[0])[: len(found)], atol=1e-5)


@engine
def test_init_from(sample, tmp_path, alone):
    """The older table had ten items fewer: two processes begin and go on as one does."""
    old = dict(alone[1])
    name = "embedding_layer.embedding_layer.embedding_layers.item_id.weight"
    old[name] = old[name][:-10].clone()
    torch.save(old, tmp_path / "old")
    changes = {"epochs": 1, "eval_steps": 1, "init_from": str(tmp_path / "old")}
    one = run("QIN_sample", sample, tmp_path / "one", SETTINGS, **changes)
    two = together(2, lambda: run("QIN_sample", sample, tmp_path / "two", SETTINGS, sharded_tables=TABLES, **changes))
    assert losses(one)[0] < losses(alone[0])[0] - 0.05
    np.testing.assert_allclose(losses(two[0]), losses(one), atol=1e-5)


@engine
def test_a_process_without_rows(tmp_path):
    """9 rows in shares of 3 leave the last of four processes none; what is saved and loaded is what was there."""
    vocab = {**VOCAB, "likes_level": 9}
    batch = random_item_batch(vocab, 8, seed=3)
    batch.rows["likes_level"].clamp_(max=8)

    def work():
        torch.manual_seed(0)
        model = qin_zoo.create_model(
            "QIN", item_table_feature_map(vocab, 8), model_id="t", embedding_dim=4, verbose=0,
            sharded_tables=["likes_level"], model_root=str(tmp_path),
        )  # fmt: skip
        expected = {k: v.clone() for k, v in model.state_dict().items()}
        with joined(-1) as group:
            model.join(group)
            model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10, 1, 0
            path = str(tmp_path / "weights")
            model.save_weights(path)
            model.train().train_step(batch)
            group.wait()
            model.load_weights(path)
            held = len(model.shards[0])
            model.save_weights(path)
            group.wait()
            saved = torch.load(path, weights_only=True)
            return held, all(torch.equal(saved[k], expected[k]) for k in expected)

    assert together(4, work) == [(3, True), (3, True), (3, True), (0, True)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("item_idx", "'item_idx' is no feature of the dataset. Did you mean 'item_id'?"),
        ("item_emb_d128", "'item_emb_d128' is of type embedding, which has no table."),
        ("user_id", "'user_id' is of type meta, which has no table."),
    ],
)
def test_features_without_a_table(name, reason):
    with pytest.raises(ConfigError) as error:
        make_model(sharded_tables=[name])
    assert reason in str(error.value)
    assert "likes_level, views_level, item_id, item_tags" in str(error.value)


def test_one_process_keeps_whole_tables(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    assert one_step(sharded_tables=TABLES)[:2] == one_step()[:2]


def test_without_torchrec(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(ConfigError, match=r"TorchRec, which cannot be imported.*fbgemm-gpu-cpu.*fit on one device"):
        require_engine()


def test_the_command_without_torchrec(sample, tmp_path):
    """One message, before anything starts; in a folder where a module that cannot be loaded stands for TorchRec."""
    (tmp_path / "torchrec.py").write_text("raise ImportError('not here')")
    command = [sys.executable, "-m", "qin_zoo", "run", "QIN_sample", "--data", str(sample), "--devices", "2"]
    done = subprocess.run(
        [*command, "--set", "sharded_tables=[item_id]"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "not here" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "checkpoints").exists()


@engine
def test_optimisers_that_need_whole_tables():
    def join():
        with joined(-1) as group:
            model = make_model(sharded_tables=["item_id"], optimizer="Adafactor")
            with pytest.raises(ConfigError, match="Adafactor needs whole tables"):
                model.join(group)
        return True

    assert together(2, join) == [True, True]
