"""`qin-zoo tune` as a person uses it: to its end, stopped, killed, shared, and with trials that fail."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from toy_search import ThreadWorker, project_fixture, tuner_file_fixture  # noqa: F401

from qin_zoo.cli import main
from qin_zoo.config.experiments import load_experiment
from qin_zoo.processes.worker import Crew
from qin_zoo.tuning.report import read_lines
from qin_zoo.tuning.space import read_space, write_base
from qin_zoo.tuning.study import SharedStudy, open_storage
from qin_zoo.tuning.tuner import plan_search
from qin_zoo.tuning.worker import Job, train

TUNE = Path("checkpoints/tune")
RESULTS = Path("checkpoints/small")


@pytest.fixture
def in_threads(monkeypatch):
    monkeypatch.setattr("qin_zoo.processes.worker.Worker", ThreadWorker)


def qin_zoo(*args) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    return done.value.code or 0


def start(*args) -> subprocess.Popen:
    command = [sys.executable, "-c", "from qin_zoo.cli import main; main()", *map(str, args)]
    out = open(f"out-{time.monotonic_ns()}.txt", "w+")
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    process.out = out
    return process


def output(process) -> str:
    process.out.seek(0)
    return process.out.read()


def trials() -> list:
    url = f"sqlite:///{TUNE}/search.db"
    (name,) = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=name, storage=url).trials


def table() -> list[dict]:
    (path,) = TUNE.glob("*.csv")
    return list(csv.DictReader(path.open()))


def wait_for(process, count: int):
    """Until so many of its trials are finished, and one more is under way."""
    for _ in range(900):
        assert process.poll() is None, output(process)
        if output(process).count("\n[") >= count:
            time.sleep(0.3)
            return
        time.sleep(0.1)
    raise AssertionError(output(process))


@pytest.mark.slow
def test_shared_killed_stopped_and_resumed(tuner_file, project):
    """Two tuners share a grid; one is killed in mid-trial, the other stopped with Ctrl-C; a third finishes."""
    file = tuner_file({"seed": [1, 2, 3, 4], "learning_rate": [1e-2, 2e-2], "pause": 0.04})
    command = ("tune", file, "--plugin", "toy.py")
    killed, stopped = start(*command), start(*command)
    wait_for(killed, 1)
    wait_for(stopped, 1)
    killed.kill()
    killed.wait()
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does, to every process
    assert stopped.wait(60) == 130, output(stopped)
    finished = {t.user_attrs["expid"]: t for t in trials() if t.state == TrialState.COMPLETE}
    assert 2 <= len(finished) < 8
    assert f"{len(finished)} of 8 trials are finished (" in output(stopped)
    assert "The same command goes on from here." in output(stopped)
    records = {expid: (RESULTS / f"{expid}.json").stat().st_mtime_ns for expid in finished}

    resumed = start(*command)
    assert resumed.wait(300) == 0, output(resumed)
    assert f"{len(finished)} finished before" in output(resumed)
    done = [t for t in trials() if t.state == TrialState.COMPLETE]
    assert sorted(t.user_attrs["slot"] for t in done) == list(range(8))
    assert len({t.user_attrs["tuner"] for t in done}) == 3
    for trial in done:  # told by exactly one of them
        told = [f"] {trial.user_attrs['expid']}: AUC" in output(p) for p in (killed, stopped, resumed)]
        assert told.count(True) == 1
    assert {expid: (RESULTS / f"{expid}.json").stat().st_mtime_ns for expid in finished} == records
    assert [line["state"] for line in table()] == ["finished"] * 8
    assert re.search(r"\n +8 +base_\d{3}_\w{8} .* finished", output(resumed))
    (results_csv,) = Path().glob("search-*.csv")
    assert len(results_csv.read_text().splitlines()) == 8
    assert not list(TUNE.glob(".*.lock"))


@pytest.mark.slow
def test_faults(tuner_file, project, capsys):
    """A trial that raises and one whose process dies are told, and the others go on."""
    assert qin_zoo("tune", tuner_file({"fault": ["raise", "die", "no"]}), "--plugin", "toy.py") == 0
    out = capsys.readouterr().out
    assert "failed: ValueError: the toy is broken" in out
    assert "failed: its process ended (exit status killed by signal 9; memory was probably short)" in out
    assert [(line["state"], line["params_fault"]) for line in table()] == [
        ("finished", "no"), ("failed", "raise"), ("failed", "die"),
    ]  # fmt: skip
    raised = table()[1]
    assert "the toy is broken" in raised["error"]
    assert {f.suffix for f in RESULTS.glob(f"{raised['expid']}.*")} == {".log"}
    assert "Traceback" in (RESULTS / f"{raised['expid']}.log").read_text()
    (page,) = TUNE.glob("*.md")
    assert "Importance and parallel coordinates need two finished trials" in page.read_text()
    assert f"- `{raised['expid']}`: ValueError" in page.read_text()


@pytest.mark.usefixtures("in_threads")
class TestInThreads:
    def test_nothing_succeeds(self, tuner_file, capsys):
        assert qin_zoo("tune", tuner_file({"seed": [1, 2], "fault": "raise"}), "--plugin", "toy.py") == 1
        assert "no trial succeeded" in capsys.readouterr().err
        assert [line["state"] for line in table()] == ["failed"] * 2

    def test_results(self, tuner_file, project, capsys):
        file = tuner_file({"units": [[64, 32], None], "seed": [1, 2]})
        assert qin_zoo("tune", file, "--plugin", "toy.py", "--set", "epochs=1") == 0
        out = capsys.readouterr().out
        lines = table()
        values = [float(line["value"]) for line in lines]
        assert values == sorted(values, reverse=True)
        assert [line["rank"] for line in lines] == ["1", "2", "3", "4"]
        assert {line["params_units"] for line in lines} == {"[64, 32]", "null"}
        for line in lines:
            record = json.loads((RESULTS / f"{line['expid']}.json").read_text())
            assert record["valid"]["AUC"] == pytest.approx(float(line["value"]), abs=1e-9)
            assert record["valid"]["AUC"] == pytest.approx(float(line["valid_AUC"]), abs=1e-9)
            assert record["params"]["epochs"] == 1
            assert record["params"]["seed"] == int(line["params_seed"])

        (page,) = TUNE.glob("*.md")
        text = page.read_text()
        best = lines[0]["expid"]
        for name in ("history", "importance", "parallel"):
            picture = page.with_suffix(f".{name}.png")
            assert picture.stat().st_size > 5000
            assert f"({picture.name})" in text
        block = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
        assert block[best]["epochs"] == 1
        command = f"qin-zoo run {best} --config {page.with_suffix('')} --plugin toy.py"
        assert command in text
        assert command in out
        assert load_experiment(page.with_suffix(""), best)["seed"] == int(lines[0]["params_seed"])
        before = float(lines[0]["value"])
        assert qin_zoo(*command.split()[1:]) == 0
        assert json.loads((RESULTS / f"{best}.json").read_text())["valid"]["AUC"] == pytest.approx(before, abs=1e-6)

        # given again, there is nothing to do; with another base it is another search, and says so
        assert qin_zoo("tune", file, "--plugin", "toy.py", "--set", "epochs=1") == 0
        assert "4 finished before" in capsys.readouterr().out
        file.write_text(file.read_text().replace("- 2\n", ""))
        assert qin_zoo("tune", file, "--plugin", "toy.py", "--set", "epochs=1") == 0
        assert f"this is a new search, search-{'x' * 8}"[:29] in capsys.readouterr().out
        assert len(list(TUNE.glob("*.md"))) == 2

    def test_ranges(self, tuner_file, capsys):
        file = tuner_file({"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "units": [[64, 32], [32, 64]]})
        options = ("--plugin", "toy.py", "--workers", 2, "--pruner", "none", "--set", "epochs=1", "--seed", 5)
        assert qin_zoo("tune", file, *options, "--trials", 3) == 0
        assert qin_zoo("tune", file, *options, "--trials", 5) == 0
        assert "3 finished before" in capsys.readouterr().out
        assert len({line["params_learning_rate"] for line in table()}) == 5
        assert {line["state"] for line in table()} == {"finished"}

    def test_smallest(self, tuner_file, capsys):
        """``monitor_mode: min``, and a monitor of several metrics."""
        file = tuner_file({"learning_rate": [1e-3, 5e-2], "monitor": {"logloss": 1, "AUC": -2}, "monitor_mode": "min"})
        assert qin_zoo("tune", file, "--plugin", "toy.py") == 0
        assert "smallest logloss -2 AUC" in capsys.readouterr().out
        lines = table()
        for line in lines:
            value = float(line["valid_logloss"]) - 2 * float(line["valid_AUC"])
            assert float(line["value"]) == pytest.approx(value)
        assert float(lines[0]["value"]) < float(lines[1]["value"])

    @pytest.mark.parametrize("best_only", [True, False])
    def test_a_trial_is_worth_what_its_weights_are(self, best_only, tuner_file, project):
        """The value of the kept weights, with a monitor of which less is better; the smallest trial is the best."""
        space = {"learning_rate": [0.3, 1e-3], "monitor": "logloss", "monitor_mode": "min", "epochs": 4}
        space |= {"save_best_only": best_only, "early_stop_patience": 9}
        assert qin_zoo("tune", tuner_file(space), "--plugin", "toy.py") == 0
        lines = table()
        assert [line["rank"] for line in lines] == ["1", "2"]
        assert float(lines[0]["value"]) < float(lines[1]["value"])
        falling = []
        for line in lines:
            record = json.loads((RESULTS / f"{line['expid']}.json").read_text())
            values = [e["metrics"]["logloss"] for e in record["evaluations"]]
            assert len(values) == 4
            assert float(line["value"]) == pytest.approx(record["valid"]["logloss"], abs=1e-9)
            assert float(line["value"]) == pytest.approx(min(values) if best_only else values[-1], abs=1e-6)
            falling.append(values[-1] == min(values))
            assert float(line["value"]) < max(values)
        assert falling.count(True) < 2 or best_only

    def test_timeout(self, tuner_file, capsys):
        assert qin_zoo("tune", tuner_file({"seed": [1, 2, 3]}), "--plugin", "toy.py", "--timeout", 0.001) == 0
        assert "0 of 3 trials are finished" in capsys.readouterr().err


class Connection:
    """A tuner that wants the trial pruned at its second evaluation."""

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def recv(self):
        return len(self.sent) == 2


def test_pruned_leaves_its_log_only(tuner_file, project):
    space = plan_search(read_space(tuner_file({"seed": [1, 2], "epochs": 5})), plugins=[project / "toy.py"]).space
    write_base(space, project / "base")
    job = Job("base_001_x", "base", project / "base", project / "base", {"seed": 2}, None, (project / "toy.py",))
    connection = Connection()
    kind, result = train(job, -1, connection)
    assert (kind, result["evaluations"]) == ("pruned", 2)
    assert [message[0] for message in connection.sent] == ["evaluation"] * 2
    assert result["value"] == max(message[1] for message in connection.sent)
    assert sorted(f.name for f in RESULTS.iterdir()) == [".base_001_x.lock", "base_001_x.log"]
    assert not list(project.glob("*.csv"))


def test_a_storage_lies_under_the_name_of_its_file(tuner_file, project):
    """SQLAlchemy takes %20 in a URL for a space, and what follows a ? for options."""
    file = tuner_file({"seed": [1, 2]})
    odd = file.rename(file.with_name("my%20search?a=b#c.yaml"))
    search = plan_search(read_space(odd), plugins=[project / "toy.py"])
    TUNE.mkdir(parents=True)
    open_storage(search.storage_url)
    assert [path.name for path in TUNE.iterdir()] == ["my%20search?a=b#c.db"]


@pytest.mark.parametrize(("monitor", "best"), [("logloss", 0.4), ("AUC", 0.9)])
def test_a_pruned_trial_is_worth_its_best_evaluation(monitor, best, tuner_file, project):
    mode = "min" if monitor == "logloss" else "max"
    file = tuner_file({"seed": [1, 2], "monitor": monitor, "monitor_mode": mode})
    search = plan_search(read_space(file), plugins=[project / "toy.py"])
    TUNE.mkdir(parents=True)
    study = SharedStudy(
        open_storage(search.storage_url), search.name, search.space, search.trials, search.direction, "t", search.folder
    )
    claim = study.claim()
    study.note(claim, expid="base_001_x")
    for step, value in enumerate((0.6, 0.4, 0.9, 0.5)):
        study.should_prune(claim, step, value)
    study.finish(claim, TrialState.PRUNED)
    (line,) = read_lines(search, study)
    assert (line.state, line.value) == ("pruned", best)


def test_devices(tuner_file, capsys):
    file = tuner_file({"seed": [1, 2]})
    assert qin_zoo("tune", file, "--plugin", "toy.py", "--gpu", 99) == 1
    assert "GPU 99 was asked for" in capsys.readouterr().err
    assert qin_zoo("tune", file, "--plugin", "toy.py", "--gpu", 0, "--workers", 2) == 2


def test_ctrl_c_while_a_training_is_being_prepared(project):
    crew = Crew([-1], 1, train)

    def fill():
        crew.take("its trial")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crew.run(fill, None, lambda text: None)
    assert list(crew.busy.values()) == ["its trial"]  # to be given back
