"""Studies with a tuning phase: the same for every model, resumed, under a budget, and told."""

import itertools
import threading
from multiprocessing import Pipe

import pytest

from qin_zoo.cli import main
from qin_zoo.experiment.record import read_record
from qin_zoo.results.entry import entry_of
from qin_zoo.study.plan import plan_runs, read_study
from qin_zoo.study.tuned import plan_line

FILE = """
experiments: [QIN_sample, MLP_sample]
seeds: [1, 2]
tuning:
  trials: 2
  space: {learning_rate: {low: 1.e-4, high: 1.e-2, log: true}}
  spaces: {QIN_sample: {num_row: [1, 2]}}
"""


class ThreadWorker:
    """Does what a worker does, in a thread of this process."""

    device = "CPU"

    def __init__(self, gpu, threads, train, lock=None):
        self.gpu, self.train, self.connection = gpu, train, None

    def send(self, job):
        self.connection, theirs = Pipe()
        threading.Thread(target=lambda: theirs.send(self.train(job, self.gpu, theirs)), daemon=True).start()

    def receive(self):
        return self.connection.recv()

    def stop(self, kill=False):
        return None


@pytest.fixture
def study(sample, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qin_zoo.processes.worker.Worker", ThreadWorker)
    files = [f"{split}_data={sample}/{split}.parquet" for split in ("train", "valid", "test")]
    small = ["epochs=1", "embedding_dim=4", "max_len=4", "batch_size=1024"]
    settings = [part for s in (*files, f"item_info={sample}/item_info.parquet", *small) for part in ("--set", s)]

    def run(text, *argv):
        (tmp_path / "s.yaml").write_text(text)
        try:
            main(["study", "s.yaml", *settings, *argv])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, capfd.readouterr()

    return run


def records(folder):
    found = {file.stem: read_record(file) for file in (folder / "checkpoints/sample").glob("*.json")}
    return {name: record for name, record in found.items() if record}


@pytest.mark.slow
def test_every_model_gets_the_same_and_the_best_is_run_with_the_seeds(study, tmp_path, capfd):
    status, shown = study(FILE, "--minutes", "0")
    assert status == 0, shown.err
    assert "4 of 4 runs are still to do: the time is over" in shown.out
    assert not records(tmp_path)
    status, shown = study(FILE)
    assert status == 0, shown.err
    found = records(tmp_path)
    trials = {name: record for name, record in found.items() if "trial_of" in record}
    runs = {name: record for name, record in found.items() if "trial_of" not in record}
    for model in ("QIN_sample", "MLP_sample"):
        own = [record for name, record in trials.items() if name.startswith(model)]
        assert len(own) == 2
        assert {record["params"]["seed"] for record in own} == {0}  # none of the study's
        best = max(own, key=lambda record: record["valid"]["AUC"])
        for seed in (1, 2):
            record = runs[f"{model}.plain.s{seed}"]
            assert record["params"]["learning_rate"] == best["params"]["learning_rate"]
            assert record["params"]["num_row"] == best["params"]["num_row"] if model == "QIN_sample" else True
            assert record["params"]["seed"] == seed
            assert record["tuning"]["trials"] == 2
            assert record["tuning"]["value"] == best["valid"]["AUC"]
            assert entry_of(record).tuning["asked"] == "2 trials"
    page = next((tmp_path / "checkpoints/studies").glob("*.md")).read_text()
    assert "Each was given 2 trials on the validation split." in page
    assert page.count("| 2 trials, 0.") == 2

    status, shown = study(FILE)  # again: nothing is left
    assert "2 finished before" in shown.out
    assert "4 runs: 4 finished before, 0 to do" in shown.out
    assert records(tmp_path).keys() == found.keys()
    with pytest.raises(SystemExit):
        main(["results", "add", "checkpoints", "--store", "store"])
    assert "4 new" in capfd.readouterr().out  # trials are no results


def test_minutes_end_a_search(study, tmp_path):
    text = FILE.replace("trials: 2", "minutes: 0.0001").replace("seeds: [1, 2]", "seeds: [1]")
    text = text.replace("QIN_sample, ", "").replace("  spaces: {QIN_sample: {num_row: [1, 2]}}", "")
    status, shown = study(text)
    assert status == 0, shown.err
    (record,) = [record for record in records(tmp_path).values() if "trial_of" not in record]
    assert (record["tuning"]["trials"], record["tuning"]["asked"]) == (1, "0.0001 minutes")
    assert "0 minutes of trials" not in shown.out
    status, shown = study(text)
    assert "1 runs: 1 finished before, 0 to do" in shown.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trials: 2", "trials: 2\n  minutes: 3"), "expected trials or minutes"),
        (("  trials: 2\n", ""), "expected trials or minutes"),
        (("trials: 2", "trails: 2"), "tuning.trails"),
        (("{QIN_sample: {", "{QIN_smaple: {"), "Did you mean 'QIN_sample'"),
        (("high: 1.e-2", "high: 1.e-5"), "s.yaml, tuning: the range of 'learning_rate' needs low below high"),
        (("num_row: [1, 2]", "num_rows: [1, 2]"), "num_rows"),
        (("num_row: [1, 2]", "rebuild_dataset: [true, false]"), "of the dataset"),
        (("seeds: [1, 2]", "seeds: [1]\nvariations: {a: {learning_rate: 0.1}}"), "nothing to vary in MLP_sample, a"),
    ],
)
def test_what_is_refused(change, message, study, tmp_path):
    assert change[0] in FILE
    status, shown = study(FILE.replace(*change))
    assert status == 1
    assert message in shown.err, shown.err
    assert "Traceback" not in shown.err
    assert not list(tmp_path.glob("checkpoints/sample/*.json"))


def test_of_lists_with_more_combinations_than_trials_none_is_tried_twice(study, tmp_path):
    lists = {"learning_rate": [1e-3, 2e-3, 3e-3], "net_dropout": [0.0, 0.1]}
    text = f"experiments: [MLP_sample]\nseeds: [1]\ntuning: {{trials: 5, space: {lists}}}"
    status, shown = study(text)
    assert status == 0, shown.err
    trials = [record["params"] for record in records(tmp_path).values() if "trial_of" in record]
    tried = {tuple(params[key] for key in lists) for params in trials}
    assert len(trials) == len(tried) == 5
    assert tried < {*itertools.product(*lists.values())}
    status, shown = study(text)
    assert "5 finished before" in shown.out
    assert len(records(tmp_path)) == 6


@pytest.mark.parametrize("trials", [1, 5, 6, 7])
def test_lists_with_as_many_combinations_as_trials_are_a_grid(trials, sample, tmp_path):
    file = tmp_path / "s.yaml"
    lists = {"learning_rate": [1e-3, 2e-3, 3e-3], "net_dropout": [0.0, 0.1]}
    file.write_text(f"experiments: [MLP_sample]\nseeds: [1]\ntuning: {{trials: {trials}, space: {lists}}}")
    data = {"overrides": {f"{split}_data": f"{sample}/{split}.parquet" for split in ("train", "valid", "test")}}
    data["overrides"]["item_info"] = f"{sample}/item_info.parquet"
    (run,) = plan_runs(read_study(file), file)
    search = plan_line(read_study(file), file, run, data)
    points = [tuple(search.space.point(index).values()) for index in range(search.trials)]
    assert len(points) == len({*points}) == min(trials, 6)
    if trials >= 6:
        assert points == [*itertools.product(*lists.values())]
