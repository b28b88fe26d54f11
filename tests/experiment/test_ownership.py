"""Runs of one name, one after the other and at once: every result is of its own run, or is refused."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qin_zoo.distributed import ALONE
from qin_zoo.errors import CheckpointError, QinZooError
from qin_zoo.experiment.ownership import owned
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.files import LockFile, is_running, sole_writer
from qin_zoo.results.trained import find_run

SETTINGS = {"epochs": 1, "batch_size": 512, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8}
REPOSITORY = Path(__file__).resolve().parents[2]


def train(sample, folder, echo=lambda text: None, overwrite=False, **changes):
    torch.set_num_threads(1)
    prepared = prepare("QIN_sample", data=sample, overrides={**SETTINGS, "model_root": str(folder), **changes})
    return run_experiment(prepared, folder, echo=echo, overwrite=overwrite)


def contents(folder):
    """Weights, record, report, pictures, predictions: what a run leaves; the lock is nobody's result."""
    files = [path for path in sorted((folder / "sample").rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_with_other_parameters_is_numbered(sample, tmp_path):
    train(sample, tmp_path, seed=1)
    before, said = contents(tmp_path), []
    record = train(sample, tmp_path, echo=said.append, seed=7)
    after = contents(tmp_path)
    assert record["expid"] == "QIN_sample-2"
    assert any("seed 1 there, 7 here" in line and "QIN_sample-2" in line for line in said)
    assert {name: after[name] for name in before} == before
    assert "sample/QIN_sample-2.model" in after
    # the third and the first again: each finds its own
    assert train(sample, tmp_path, seed=8)["expid"] == "QIN_sample-3"
    assert train(sample, tmp_path, seed=7)["expid"] == "QIN_sample-2"
    assert train(sample, tmp_path, seed=1)["expid"] == "QIN_sample"
    assert train(sample, tmp_path, overwrite=True, seed=9)["params"]["seed"] == 9
    assert json.loads((tmp_path / "sample/QIN_sample.json").read_text())["params"]["seed"] == 9


def test_the_same_run_on_other_data_replaces_the_first(sample, tmp_path):
    train(sample, tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for file in sample.glob("*.parquet"):
        (data / file.name).write_bytes(file.read_bytes())
    (data / "test.parquet").write_bytes((data / "valid.parquet").read_bytes())
    prepared = prepare("QIN_sample", data=sample, overrides={**SETTINGS, "model_root": str(tmp_path)})
    changed = replace(prepared, params={**prepared.params, "test_data": str(data / "test.parquet")})
    record = json.loads((tmp_path / "sample/QIN_sample.json").read_text())
    record["params"]["test_data"] = str(data / "test.parquet")
    (tmp_path / "sample/QIN_sample.json").write_text(json.dumps(record))
    said = []
    again = run_experiment(changed, tmp_path, echo=said.append)
    assert again["expid"] == "QIN_sample"
    assert again["data"] != record["data"]
    assert any("was trained on other data before" in line for line in said)


def test_weights_of_nobody_known_are_not_replaced(sample, tmp_path):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample/QIN_sample.model").write_bytes(b"of FuxiCTR's script")
    assert train(sample, tmp_path)["expid"] == "QIN_sample-2"
    assert (tmp_path / "sample/QIN_sample.model").read_bytes() == b"of FuxiCTR's script"


def test_the_name_is_the_users(sample, tmp_path):
    record = train(sample, tmp_path, model_id="mine")
    assert record["expid"] == "mine"
    assert (tmp_path / "sample/mine.model").exists()


def test_the_same_run_is_refused_while_it_is_trained(sample, tmp_path):
    train(sample, tmp_path)
    held = LockFile(tmp_path / "sample/.QIN_sample.lock")
    assert held.acquire()
    with pytest.raises(QinZooError, match=rf"QIN_sample is being trained by process {os.getpid()}.*--name"):
        train(sample, tmp_path)
    with pytest.raises(QinZooError, match="is being trained by process"):
        train(sample, tmp_path, overwrite=True, seed=5)
    assert train(sample, tmp_path, seed=5)["expid"] == "QIN_sample-2"


@pytest.mark.parametrize("change", [{"max_len": 3}, {"num_row": 3}, {"learning_rate": 0.1}, {"train_fraction": 0.5}])
def test_any_parameter_that_counts_makes_another_run(change, sample, tmp_path):
    overrides = {**SETTINGS, "model_root": str(tmp_path)}
    prepared, other = (prepare("QIN_sample", data=sample, overrides=overrides | more) for more in ({}, change))
    with owned(prepared, {}, ALONE) as own:
        own.files.checkpoint.write_bytes(b"weights")
        assert not LockFile(own.files.lock).acquire(), "as long as it runs, its files are its own"
    with owned(prepared, {}, ALONE) as own:
        assert own.expid == "QIN_sample"
    with owned(other, {}, ALONE, echo=lambda text: None) as own:
        assert own.expid == "QIN_sample-2"


@pytest.mark.slow
def test_several_processes_at_once(sample, tmp_path):
    """Every run that ends well reports and keeps what it reports alone; the others are refused."""
    command = [sys.executable, "-m", "qin_zoo", "run", "QIN_sample", "--data", str(sample)]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]

    def start(folder, seed):
        return subprocess.Popen(
            [*command, "--set", f"seed={seed}", "--set", f"model_root={folder}"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    alone = {}
    for seed in (1, 2):
        process = start(tmp_path / f"alone{seed}", seed)
        process.communicate()
        alone[seed] = json.loads((tmp_path / f"alone{seed}/sample/QIN_sample.json").read_text())
    together = [(seed, start(tmp_path / "together", seed)) for seed in (1, 2, 1)]
    ended = [(seed, process.communicate()[0], process.returncode) for seed, process in together]
    for seed, output, status in ended:
        line = f"valid: AUC {alone[seed]['valid']['AUC']:.6f}"
        assert (line in output) if status == 0 else ("is being trained by process" in output), output
    assert {seed for seed, _, status in ended if status == 0} == {1, 2}
    kept = [json.loads(file.read_text()) for file in (tmp_path / "together/sample").glob("QIN_sample*.json")]
    for record in kept:
        assert record["valid"] == alone[record["params"]["seed"]]["valid"]


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True).stdout.split()
    return [int(number) for number in found]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_workers_end_with_their_launcher(sample, tmp_path):
    """SIGKILL of the launcher of --devices leaves nobody training, and nobody writing the files of the run."""
    command = [sys.executable, "-m", "qin_zoo", "run", "QIN_sample", "--data", str(sample), "--devices", "2"]
    for key, value in {**SETTINGS, "epochs": 500, "early_stop_patience": 500, "model_root": tmp_path}.items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with open(tmp_path / "output", "w") as output:
        launcher = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    waited = 0
    while not (tmp_path / "sample/QIN_sample.checkpoints").is_dir() and launcher.poll() is None and waited < 240:
        time.sleep(0.5)
        waited += 0.5
    workers = children(launcher.pid)
    assert len(workers) == 2, (tmp_path / "output").read_text()
    launcher.kill()
    launcher.wait()
    for _ in range(60):
        if not any(is_running(worker) for worker in workers):
            break
        time.sleep(0.5)
    assert not [worker for worker in workers if is_running(worker)]
    lock = LockFile(tmp_path / "sample/.QIN_sample.lock")
    assert lock.acquire(), "a resumed run may begin"


def test_commands_take_the_parameters_of_the_run(sample, tmp_path, capsys):
    record = train(sample, tmp_path, max_len=3)
    before = Path(record["files"]["prediction"]).read_bytes()
    overrides = [f"{key}={value}" for key, value in SETTINGS.items()] + [f"model_root={tmp_path}"]
    overrides.remove("max_len=8")  # the configuration's own is another one than the run's
    prepared, checkpoint = find_run("QIN_sample", None, None, data=sample, overrides=overrides)
    assert "max_len 3 (configured:" in capsys.readouterr().out
    files = predict_split(prepared, "test", checkpoint, echo=lambda text: None)
    assert files.prediction.read_bytes() == before


def test_a_record_from_elsewhere_is_predicted_where_it_lies(sample, tmp_path):
    """And not where it was trained, in whose place another run of that name may be by now."""
    record = train(sample, tmp_path)
    own = Path(record["files"]["prediction"])
    before = own.read_bytes()
    (tmp_path / "theirs").mkdir()
    for key in ("record", "checkpoint"):
        shutil.copy(record["files"][key], tmp_path / "theirs")
    own.write_text("another run's")
    prepared, checkpoint = find_run(str(tmp_path / "theirs" / Path(record["files"]["record"]).name))
    files = predict_split(prepared, "test", checkpoint, echo=lambda text: None)
    assert files.prediction == tmp_path / "theirs" / own.name
    assert files.prediction.read_bytes() == before
    assert own.read_text() == "another run's"


def test_weights_that_changed_after_the_run_are_refused(sample, tmp_path):
    record = train(sample, tmp_path)
    weights = Path(record["files"]["checkpoint"])
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or replaced after the run"):
        find_run(record["files"]["record"], None, None, data=sample)


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from qin_zoo.files import LockFile\n"
        "lock = LockFile(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, str(tmp_path / "x.lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert holder.stdout.readline().strip() == "True"
    with pytest.raises(QinZooError, match="writes here"), sole_writer(tmp_path / "x.lock", "writes here"):
        pass
    holder.kill()
    holder.wait()
    with sole_writer(tmp_path / "x.lock", "writes here"):
        pass
