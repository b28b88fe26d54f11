"""Several processes train as one does: same losses, every row once, the very same metrics."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch
from processes import together
from torch import nn

import qin_zoo
from qin_zoo.distributed import joined
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.layers.synced_norm import SyncedBatchNorm1d

SETTINGS = {
    "epochs": 2, "batch_size": 127, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8,
    "net_dropout": 0.0, "eval_steps": 1, "early_stop_patience": 1000, "reduce_lr_on_plateau": False,
    "learning_rate": 1e-3,
}  # fmt: skip


def train(sample, folder, model="QIN", resume=False, **changes):
    expid = f"{model}_sample"
    settings = {k: v for k, v in SETTINGS.items() if model == "QIN" or k not in ("num_layers", "num_row")}
    prepared = prepare(expid, data=sample, overrides={**settings, "model_root": str(folder), **changes})
    record = run_experiment(prepared, folder, echo=lambda text: None, resume=resume)
    return json.loads(json.dumps(record, default=str))


@pytest.fixture(scope="module")
def alone(sample, tmp_path_factory):
    torch.set_num_threads(1)
    return train(sample, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_same_losses(size, sample, tmp_path, alone):
    """3,000 rows in batches of 127: the last one has 79."""
    records = together(size, train, sample, tmp_path)
    for record in records:
        assert [e["step"] for e in record["evaluations"]] == list(range(1, 49))
        apart = [abs(a["train_loss"] - b["train_loss"]) for a, b in zip(alone["evaluations"], record["evaluations"])]
        assert max(apart) < 1e-5
        assert record["valid"] == records[0]["valid"]
    assert records[0]["valid"]["AUC"] == pytest.approx(alone["valid"]["AUC"], abs=1e-4)
    predictions = np.loadtxt(tmp_path / "sample/QIN_sample.prediction.csv", delimiter=",", skiprows=1)
    assert predictions[:, 0].tolist() == list(range(500))
    assert json.loads((tmp_path / "sample/QIN_sample.json").read_text())["processes"] == size


@pytest.mark.slow
@pytest.mark.parametrize("model", ["DIN", "Transformer_DCN"])
def test_other_models(model, sample, tmp_path):
    changes = {"epochs": 1, "learning_rate": 1e-4}  # rounding errors grow with the rate, in one process as in two
    if model == "Transformer_DCN":
        changes |= {"transformer_dropout": 0.0, "mask_convention": "published"}
    if model == "DIN":
        changes |= {"attention_dropout": 0.0, "attention_hidden_activations": "Dice"}
    torch.set_num_threads(1)
    one = train(sample, tmp_path / "one", model, **changes)
    two = together(2, lambda: train(sample, tmp_path / "two", model, **changes))[0]
    apart = [abs(a["train_loss"] - b["train_loss"]) for a, b in zip(one["evaluations"], two["evaluations"])]
    assert max(apart) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_metrics_and_predictions_are_exact(size, sample, tmp_path):
    """The same weights, scored by one and by several processes: the same bits."""

    def score():
        prepared = prepare("QIN_sample", data=sample, overrides={**SETTINGS, "model_root": str(tmp_path)})
        from qin_zoo.experiment.predict import feed_split
        from qin_zoo.experiment.prepare import build_model

        dataset = prepared.open_dataset()
        model = build_model(prepared, dataset)
        with joined(-1) as group:
            model.join(group)
            predictions = model.predict(feed_split(dataset, "test", model))
            return model.evaluate(feed_split(dataset, "valid", model)), predictions.tolist()

    torch.set_num_threads(1)
    assert together(size, score) == [score()] * size


@pytest.mark.parametrize("rows", [1000, 1001, 257, 129, 6])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_row_once(rows, size):
    """And batches too small to share go to every process whole."""
    from qin_zoo.data.loader import ColumnLoader

    class Loader(ColumnLoader):
        def _open(self, data_path, task, weight):
            return Table(), {}

        def batch(self, rows):
            return rows

    class Table(dict):
        num_rows, columns, fingerprint = rows, {}, {}

    class Map:
        labels, features = (), {}

    def shares(split):
        loaders = [Loader(Map, "", split, 128, True, 7) for _ in range(size)]
        for rank, loader in enumerate(loaders):
            loader.take_share(rank, size)
        return [list(loader) for loader in loaders]

    for parts in zip(*shares("train"), strict=True):
        n = sum(len(part) for part in parts)
        if all(np.array_equal(part, parts[0]) for part in parts):
            assert len(parts[0]) < 2 * size or size == 1
        else:
            assert len(set(np.concatenate(parts).tolist())) == n
    visited = np.concatenate([np.unique(np.concatenate(parts)) for parts in zip(*shares("train"))])
    assert sorted(visited.tolist()) == list(range(rows))
    valid = [batch for share in shares("valid") for batch in share]
    assert np.concatenate(valid).tolist() == list(range(rows))


def test_batch_norm_of_several_processes():
    """Outputs, statistics and gradients are those of torch's BatchNorm1d on all rows."""
    g = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(7, 5, 3, generator=g) * 3 + 10, torch.randn(7, 5, 3, generator=g)
    plain = nn.BatchNorm1d(5)
    nn.init.uniform_(plain.weight)
    x0 = x.clone().requires_grad_()
    y0 = plain(x0)
    (y0 * upstream).sum().backward()
    state = {k: v.clone() for k, v in nn.BatchNorm1d(5).state_dict().items()}
    state["weight"] = plain.weight.detach().clone()

    def own():
        with joined(-1) as group:
            norm = SyncedBatchNorm1d(5)
            norm.load_state_dict(state)
            norm.group = group
            part = slice(0, 2) if group.rank == 0 else slice(2, 7)
            mine = x[part].clone().requires_grad_()
            y = norm(mine)
            (y * upstream[part]).sum().backward()
            group.sum_gradients(norm.parameters())
            values = (y, mine.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
            return [v.detach().numpy() for v in values]

    first, second = together(2, own)
    close = lambda a, b: np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-5)  # noqa: E731
    close(np.concatenate([first[0], second[0]]), y0)
    close(np.concatenate([first[1], second[1]]), x0.grad)
    for mine in (first, second):
        expected = (plain.weight.grad, plain.bias.grad, plain.running_mean, plain.running_var)
        for value, wanted in zip(mine[2:], expected):
            close(value, wanted)


def test_gradients_of_weights_that_one_process_did_not_use():
    def own():
        with joined(-1) as group:
            weight = nn.Parameter(torch.ones(3))
            if group.rank:
                (weight * 2).sum().backward()
            group.sum_gradients([weight])
            return weight.grad.tolist()

    assert together(2, own) == [[2.0] * 3] * 2


@pytest.mark.slow
def test_a_bad_row_of_one_process_stops_both(sample, tmp_path):
    from qin_zoo.models import ZooModel
    from qin_zoo.training.stability import NotFinite

    original = ZooModel.train_step

    def step(self, batch):
        if self._total_steps == 5 and self.group.rank == 1:
            batch.rows["label"][0] = float("nan")
        return original(self, batch)

    def run():
        ZooModel.train_step = step  # of this process only
        try:
            train(sample, tmp_path)
        except NotFinite as error:
            return str(error)

    messages = together(2, run)
    assert all("batch 5 (step 5)" in m for m in messages)
    assert "input 'label' is not finite in row" in messages[1]


@pytest.mark.slow
def test_dropout_differs_and_resume_is_exact(sample, tmp_path):
    """Stopped after step 30 and resumed: the same bits as without the stop."""

    class Died(Exception):
        pass

    def run(folder, fail=False, resume=False):
        seen = []

        def note(evaluation):
            seen.append(evaluation)
            if fail and len(seen) == 3:
                raise Died

        prepared = prepare(
            "QIN_sample",
            data=sample,
            overrides={**SETTINGS, "net_dropout": 0.3, "eval_steps": 10, "epochs": 3, "ema_decay": 0.9,
                       "model_root": str(folder)},
        )
        with contextlib.suppress(Died):
            run_experiment(prepared, folder, echo=lambda text: None, on_evaluation=note, resume=resume)
        return torch.rand(1).item()

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    random = together(2, run, whole)
    assert random[0] != random[1]
    together(2, run, parts, True)
    assert (parts / "sample/QIN_sample.checkpoints").is_dir()
    together(2, run, parts, False, True)
    states = [torch.load(f / "sample/QIN_sample.model", weights_only=True) for f in (whole, parts)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_clipping_uses_the_whole_gradient():
    """One step of two processes moves the weights as one step of one process does, clipped."""
    batch = random_item_batch(VOCAB, 8, batch=16, seed=3)

    def step():
        torch.manual_seed(0)
        model = qin_zoo.create_model(
            "QIN", item_table_feature_map(VOCAB, 8), model_id="t", embedding_dim=4, verbose=0, batch_norm=True,
            learning_rate=0.1, optimizer="SGD", embedding_regularizer=0.1,
        )  # fmt: skip
        model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 0.01, 1, 0
        model.train()
        with joined(-1) as group:
            model.join(group)
            part = slice(group.rank * 5, 5 + group.rank * 11) if group.size > 1 else slice(0, 16)
            own = type(batch)(
                {k: v[part] for k, v in batch.rows.items()}, batch.history[part], batch.target[part], batch.items
            )
            loss = float(model.train_step(own))
        return loss, float(model.gradient_norm), [p.detach().numpy() for p in model.parameters()]

    alone, (first, second) = step(), together(2, step)
    for mine in (first, second):
        assert mine[0] == pytest.approx(alone[0], rel=1e-6)
        assert mine[1] == pytest.approx(alone[1], rel=1e-5)
        for a, b in zip(mine[2], alone[2]):
            np.testing.assert_allclose(a, b, atol=1e-7)


COMMAND = [sys.executable, "-m", "qin_zoo", "run", "QIN_sample", "--devices", "2"]


def settings(**changes):
    values = {**SETTINGS, "epochs": 1, "eval_steps": 8, **changes}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.slow
def test_the_command(sample, tmp_path):
    done = subprocess.run([*COMMAND, "--data", sample, *settings()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^epoch ", done.stdout, flags=re.M)) == 3, "one process speaks"
    assert (tmp_path / "checkpoints/sample/QIN_sample.submission.zip").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_is_interrupted_and_resumed(sample, tmp_path):
    command = [*COMMAND, "--data", sample, *settings(epochs=200, eval_steps=24)]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: the launcher and every process
    start = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - start < 60
    assert process.returncode == 130
    assert "with a checkpoint" in err
    done = subprocess.run(
        [*COMMAND, "--data", sample, "--resume", *settings(epochs=3, eval_steps=24)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Resumed after step" in done.stdout


def test_the_command_fails_with_one_message(tmp_path):
    done = subprocess.run([*COMMAND, "--data", str(tmp_path / "no")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("is no folder") == 1
