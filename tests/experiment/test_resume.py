"""Trainings that are killed, stopped or out of disk go on to the very same result."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import start
from trained import train

from qin_zoo.errors import CheckpointError, QinZooError
from qin_zoo.training.checkpoint import Checkpoint, CheckpointStore
from qin_zoo.training.stop import Stopped


def result(folder):
    """Everything of a run that must not depend on when it was killed."""
    record = json.loads((folder / "sample/QIN_sample.json").read_text())
    for evaluation in record["evaluations"]:
        del evaluation["seconds"]
    weights = torch.load(folder / "sample/QIN_sample.model", weights_only=True)
    predictions = (folder / "sample/QIN_sample.prediction.csv").read_bytes()
    return [record[key] for key in ("evaluations", "valid", "test", "parameters")], weights, predictions


def assert_same(folder, expected):
    (numbers, weights, predictions), (numbers0, weights0, predictions0) = result(folder), expected
    assert numbers == numbers0
    assert weights.keys() == weights0.keys()
    assert all(torch.equal(weights[name], weights0[name]) for name in weights)
    assert predictions == predictions0
    assert not (folder / "sample/QIN_sample.checkpoints").exists()


@pytest.fixture(scope="module")
def uninterrupted(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    start = time.perf_counter()
    train(sample, folder)
    return result(folder), time.perf_counter() - start


def test_checkpoints_change_nothing(sample, tmp_path, uninterrupted):
    train(sample, tmp_path, checkpoint_steps=None)
    assert_same(tmp_path, uninterrupted[0])


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
def test_killed_at_a_random_moment(number, sample, tmp_path, uninterrupted):
    """Killed once, twice or three times, at any moment from the first step to the report."""
    whole, seconds = uninterrupted
    g = random.Random(number)
    kills, latest = 0, 0.8
    while not kills:
        shutil.rmtree(tmp_path / "sample", ignore_errors=True)
        for _ in range(g.randint(1, 3)):
            process = start(train, sample, tmp_path, True)
            process.join(g.uniform(0.02, latest) * seconds)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
        latest /= 2  # it was done before it could be killed
    train(sample, tmp_path, resume=True)
    assert_same(tmp_path, whole)


def train_until(sample, folder, name, call):
    """Dies at the given call of a function of `os`: in the middle of saving something."""
    original, calls = getattr(os, name), 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, name, counted)
    train(sample, folder, resume=True)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("call", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 20))])
def test_killed_while_saving(name, call, sample, tmp_path, uninterrupted):
    process = start(train_until, sample, tmp_path, name, call)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.rglob(".*.tmp")) or name == "fsync"
    train(sample, tmp_path, resume=True)
    assert_same(tmp_path, uninterrupted[0])
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(number, sample, tmp_path, uninterrupted):
    def stop_soon(sample, folder):
        def echo(text):
            if text.startswith("epoch"):
                os.kill(os.getpid(), number)

        try:
            train(sample, folder, echo=echo)
        except Stopped as stopped:
            os._exit(0 if stopped.number == number and stopped.step == 9 else 1)
        os._exit(2)

    process = start(stop_soon, sample, tmp_path)
    process.join()
    assert process.exitcode == 0
    train(sample, tmp_path, resume=True)
    assert_same(tmp_path, uninterrupted[0])


class Died(Exception):
    pass


def die_after(evaluations):
    """An echo that fails at the given evaluation, so that checkpoints stay behind."""
    seen = []

    def echo(text):
        seen.append(text)
        if sum(line.startswith("epoch") for line in seen) == evaluations:
            raise Died

    return echo


@pytest.fixture(scope="module")
def died(sample, tmp_path_factory):
    """A run that died after three evaluations; tests go on with copies."""
    folder = tmp_path_factory.mktemp("died")
    with pytest.raises(Died):
        train(sample, folder, echo=die_after(3))
    return folder


@pytest.fixture
def checkpoints(died, tmp_path):
    """The files of its checkpoints, in the test's folder."""
    shutil.copytree(died, tmp_path, dirs_exist_ok=True)
    return sorted((tmp_path / "sample/QIN_sample.checkpoints").iterdir())


QUICK = {(".pt", "cut"), (".pt", "gone"), (".json", "flip"), (".json", "empty")}
DAMAGES = [(suffix, damage) for suffix in (".pt", ".json") for damage in ("cut", "flip", "empty", "gone")]


@pytest.mark.parametrize(
    ("suffix", "damage"), [d if d in QUICK else pytest.param(*d, marks=pytest.mark.slow) for d in DAMAGES]
)
def test_a_damaged_checkpoint_is_passed_over(suffix, damage, sample, tmp_path, uninterrupted, checkpoints):
    newest = [f for f in checkpoints if f.suffix == suffix][-1]
    content = newest.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes({"cut": content[:middle], "flip": flipped, "empty": b""}[damage])
    said = []
    train(sample, tmp_path, resume=True, echo=said.append)
    if damage != "gone" or suffix == ".pt":
        assert any("damaged" in line for line in said)
    assert any("Resumed after step" in line for line in said)
    assert_same(tmp_path, uninterrupted[0])


def test_no_planted_object_is_made(tmp_path):
    class Planted:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "planted",))

    store = CheckpointStore(tmp_path / "c", warn=lambda text: None)
    store.save(Checkpoint(1, {}, {"x": Planted()}))
    assert store.latest() is None
    assert not (tmp_path / "planted").exists()


@pytest.mark.usefixtures("checkpoints")
def test_other_parameters_or_data_are_refused(sample, tmp_path):
    with pytest.raises(CheckpointError, match=r"other parameters: learning_rate was 0.005, and is 0.1"):
        train(sample, tmp_path, resume=True, learning_rate=0.1)
    files = sorted((tmp_path / "sample/QIN_sample.checkpoints").iterdir())
    assert len(files) == 4, "nothing was lost"


@pytest.mark.usefixtures("checkpoints")
def test_more_epochs_may_follow(sample, tmp_path):
    record = train(sample, tmp_path, resume=True, epochs=4, early_stop_patience=3)
    assert record["evaluations"][-1]["epoch"] == 4


def test_a_finished_run_is_not_repeated(sample, tmp_path):
    train(sample, tmp_path)
    said = []
    train(sample, tmp_path, resume=True, echo=said.append)
    assert len(said) == 1
    assert "finished already" in said[0]


def test_another_seed_is_another_run(sample, tmp_path):
    first = train(sample, tmp_path, epochs=1, seed=1)
    said = []
    second = train(sample, tmp_path, epochs=1, seed=2, resume=True, echo=said.append)
    assert not any("finished already" in line for line in said)
    assert second["valid"] != first["valid"]
    with pytest.raises(Died):
        train(sample, tmp_path / "stopped", echo=die_after(3), seed=1)
    with pytest.raises(CheckpointError, match=r"other parameters: seed was 1, and is 2"):
        train(sample, tmp_path / "stopped", resume=True, seed=2)


def test_evaluations_without_gain_are_counted_across_a_stop(sample, tmp_path):
    """Nothing is learned, so nothing is better than the first evaluation: two more, and training is over."""
    still = {"learning_rate": 1e-20, "batch_norm": False, "epochs": 9, "early_stop_patience": 2, "eval_steps": None}
    still |= {"embedding_regularizer": 0, "accumulation_steps": 1, "min_lr": 0}

    def stop(text):
        if text.startswith("epoch   2"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(sample, tmp_path, echo=stop, **still)
    record = train(sample, tmp_path, resume=True, **still)
    assert [(e["epoch"], e["best"]) for e in record["evaluations"]] == [(1, True), (2, False), (3, False)]


@pytest.mark.usefixtures("checkpoints")
def test_a_new_run_says_that_it_could_resume(sample, tmp_path, uninterrupted):
    said = []
    train(sample, tmp_path, echo=said.append)
    assert any("--resume" in line for line in said)
    assert_same(tmp_path, uninterrupted[0])


@pytest.mark.usefixtures("checkpoints")
def test_a_new_run_replaces_what_another_one_left(sample, tmp_path):
    """The newest checkpoint is the new run's, though an older run had come further."""
    with pytest.raises(Died):
        train(sample, tmp_path, echo=die_after(1), overwrite=True, learning_rate=0.01)
    names = [f.stem for f in (tmp_path / "sample/QIN_sample.checkpoints").iterdir()]
    assert sorted(set(names)) == ["step-000000006", "step-000000008"]
    assert train(sample, tmp_path, resume=True, learning_rate=0.01)["evaluations"][-1]["epoch"] == 3


def test_only_two_checkpoints_are_kept(checkpoints):
    assert [f.suffix for f in checkpoints] == [".json", ".pt"] * 2


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path):
    store = CheckpointStore(tmp_path / "c", warn=lambda text: None)
    for step in (1, 2):
        store.save(Checkpoint(step, {}, {"x": torch.tensor(step)}))
    later = CheckpointStore(tmp_path / "c", warn=lambda text: None)  # another process, after a crash
    damage = tmp_path / "c/step-000000002.pt"
    damage.write_bytes(damage.read_bytes()[:-1] + b"?")
    later.begin(resume=True)
    assert later.latest().step == 1
    later.save(Checkpoint(3, {}, {"x": torch.tensor(3)}))
    (tmp_path / "c/step-000000003.pt").write_bytes(b"")
    assert later.latest().step == 1, "the last whole one is still there"


def test_tensors_of_another_checkpoint_are_not_taken(tmp_path):
    """They are whole and can be loaded: only the checksum tells."""
    store = CheckpointStore(tmp_path / "c", warn=lambda text: None)
    for step in (1, 2):
        store.save(Checkpoint(step, {}, {"x": torch.tensor(step)}))
    shutil.copyfile(tmp_path / "c/step-000000001.pt", tmp_path / "c/step-000000002.pt")
    assert store.latest().step == 1


def test_a_full_disk(sample, tmp_path, uninterrupted, monkeypatch):
    """The message names file and cause, what was there stays, and the run can go on."""
    original, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(28, "No space left on device")
        return original(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QinZooError, match=r"Could not write .*No space left on device.*unchanged"):
        train(sample, tmp_path)
    monkeypatch.undo()
    train(sample, tmp_path, resume=True)
    assert_same(tmp_path, uninterrupted[0])
