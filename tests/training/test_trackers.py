"""MLflow and Weights & Biases: what they keep is what the run recorded, asked of their own servers and files."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import pytest

from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.training.trackers import check_tracker

SMALL = {"embedding_dim": 4, "max_len": 8, "batch_size": 512, "num_layers": 1, "epochs": 2, "metrics": ["AUC"]}


def without(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def train(sample, folder, **changes):
    overrides = {**SMALL, "model_root": str(folder), **changes}
    return run_experiment(prepare("QIN_sample", data=sample, overrides=overrides), folder, echo=lambda line: None)


def test_a_package_that_is_not_there_is_said_before_the_training(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .*\[track\].* or pip install mlflow-skinny"):
        train(sample, tmp_path, tracker="mlflow")
    assert not list(tmp_path.rglob("*.model"))
    check_tracker(None)


def test_an_unknown_tracker_is_refused(sample, tmp_path):
    with pytest.raises(ConfigError, match=r"tracker.*one of mlflow, wandb"):
        train(sample, tmp_path, tracker="neptune")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tracking server of MLflow's, in a process of its own."""
    if importlib.util.find_spec("sqlalchemy") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("mlflow-skinny has no server: pip install mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, "PYTHONPATH": ""})
        try:
            for _ in range(240):
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def ask(server, path, **question):
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{path}", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=30))


@without("mlflow")
@pytest.mark.slow
def test_mlflow_holds_parameters_and_curves(server, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    record = train(sample, tmp_path, tracker="mlflow", test_data=str(sample / "valid.parquet"))
    (experiment,) = ask(server, "experiments/search", max_results=9, filter="name = 'sample'")["experiments"]
    (run,) = ask(server, "runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("QIN_sample", "FINISHED")
    params = {p["key"]: p["value"] for p in run["data"]["params"]}
    assert (params["embedding_dim"], params["model"], params["num_layers"]) == ("4", "QIN", "1")
    last = {m["key"]: m["value"] for m in run["data"]["metrics"]}
    assert last["best/AUC"] == pytest.approx(max(e["metrics"]["AUC"] for e in record["evaluations"]))
    assert last["test/AUC"] == pytest.approx(record["test"]["AUC"])
    where = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key="
    told = json.load(urllib.request.urlopen(f"{server}/api/2.0/mlflow/{where}valid/AUC", timeout=30))["metrics"]
    assert [(m["step"], m["value"]) for m in told] == [(e["step"], e["metrics"]["AUC"]) for e in record["evaluations"]]
    steps = json.load(urllib.request.urlopen(f"{server}/api/2.0/mlflow/{where}train/loss", timeout=30))["metrics"]
    assert [m["step"] for m in steps] == list(range(1, 13))


@without("mlflow")
def test_a_server_that_is_gone_ends_no_training(sample, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    record = train(sample, tmp_path, tracker="mlflow")
    assert len(record["evaluations"]) == 2
    assert sum("MLflow ends here" in r.message for r in caplog.records) == 1
    assert time.monotonic() - began < 60


def records(content: bytes):
    """Of a file of W&B, a log in LevelDB's form behind a header of 7 bytes: blocks of 32 KiB, records in parts."""
    assert content.startswith(b":W&B")
    place, parts = 7, []
    while place < len(content):
        if 32768 - place % 32768 < 7:  # no room for the head of a record
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + 7 : place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


@without("wandb")
@pytest.mark.slow
def test_wandb_offline_holds_parameters_and_curves(sample, tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    record = train(sample, tmp_path, tracker="wandb", test_data=str(sample / "valid.parquet"))
    (file,) = tmp_path.rglob("run-*.wandb")
    config, history, summary = {}, [], {}
    for data in records(file.read_bytes()):
        kept = wandb_internal_pb2.Record.FromString(data)
        for item in [*kept.run.config.update, *kept.config.update]:
            config[item.key] = json.loads(item.value_json)
        if kept.HasField("history"):
            history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in kept.history.item})
        for item in kept.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert (config["embedding_dim"], config["model"]) == (4, "QIN")
    told = [(row["_step"], row["valid/AUC"]) for row in history if "valid/AUC" in row]
    assert told == [(e["step"], pytest.approx(e["metrics"]["AUC"])) for e in record["evaluations"]]
    assert summary["best/AUC"] == pytest.approx(max(e["metrics"]["AUC"] for e in record["evaluations"]))
    assert summary["test/AUC"] == pytest.approx(record["test"]["AUC"])
