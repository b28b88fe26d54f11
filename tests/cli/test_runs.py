"""What was trained, listed, shown and compared; and runs that are asked for by name or short id."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from qin_zoo.cli import main
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.results.runs import find_runs, find_unfinished, resolve, resolve_one
from qin_zoo.study.plan import StudyRun

SMALL = {"embedding_dim": 4, "max_len": 8, "batch_size": 512, "num_layers": 1, "num_row": 2, "epochs": 2}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A folder with two runs of an experiment, and a study's run in two seeds; the working directory of the tests."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        for name, more in (("one", {}), ("two", {"num_layers": 2, "seed": 7})):
            prepared = prepare("QIN_sample", data=sample, overrides={**SMALL, **more}, name=name)
            run_experiment(prepared, folder, echo=quiet)
        for seed in (1, 2):
            of_study = StudyRun("QIN_sample", None, "wide", seed, {**SMALL, "embedding_dim": 6, "seed": seed}, None)
            run_experiment(of_study.prepare(data=sample), folder, echo=quiet)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("COLUMNS", "80")
    return trained


def called(*argv) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, argv)))
    return end.value.code or 0


def read(capsys, *argv):
    assert called(*argv) == 0
    return json.loads(capsys.readouterr().out)


def scores(file):
    with open(file) as lines:
        return np.array([float(row["Task2"]) for row in csv.DictReader(lines)])


def labels(sample):
    frame = pl.read_parquet(sample / "valid.parquet")
    return frame["label"].to_numpy(), frame["user_id"].to_numpy()


def test_the_list_names_every_run_the_newest_first(here, capsys):
    listed = read(capsys, "runs", "--json")
    assert [run["name"] for run in listed] == ["QIN_sample.wide.s2", "QIN_sample.wide.s1", "two", "one"]
    assert [(run["experiment"], run["variation"], run["seed"]) for run in listed[:2]] == [
        ("QIN_sample", "wide", 2),
        ("QIN_sample", "wide", 1),
    ]
    assert called("runs", "--last", 2) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "QIN_sample.wide.s2" in out
    assert "two " not in out
    assert "2 of 4 runs" in out
    assert read(capsys, "runs", "--json", "--dataset", "elsewhere") == []


def test_what_is_not_finished_is_told(here, capsys):
    stopped = here / "checkpoints/sample/half.checkpoints"
    stopped.mkdir()
    (stopped / "step-3.json").write_text("{}")
    try:
        assert [(files.expid, process) for files, process in find_unfinished()] == [("half", None)]
        (here / "checkpoints/sample/.half.lock").write_text(json.dumps({"process": os.getpid()}))
        assert [process for _, process in find_unfinished()] == [os.getpid()]
        assert called("runs") == 0
        assert f"sample/half: being trained by process {os.getpid()}" in capsys.readouterr().out
    finally:
        (stopped / "step-3.json").unlink()
        (here / "checkpoints/sample/.half.lock").unlink(missing_ok=True)
        stopped.rmdir()


def test_a_run_is_found_by_name_dataset_id_and_file(here):
    one = resolve_one("one")
    assert one.file == Path("checkpoints/sample/one.json")
    for text in ("sample/one", one.id, one.id[:5], f"#{one.entry.digest}", f"#{one.entry.identity[:6]}", str(one.file)):
        assert resolve_one(text).file == one.file
    line = resolve(f"#{resolve_one('QIN_sample.wide.s1').entry.setting[:4]}")  # as a leaderboard shows it
    assert sorted(run.entry.seed for run in line) == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("three", "No run 'three' in checkpoints, results"),
        ("QIN_sample.wide.s3", "Did you mean 'QIN_sample.wide.s"),
        ("other/one", "No run 'other/one'"),
        ("#0", "four letters or more"),
    ],
)
def test_what_is_no_run_is_said(here, text, words):
    with pytest.raises(QinZooError, match=words):
        resolve(text)


def test_a_name_of_two_runs_asks_which(here, tmp_path):
    (tmp_path / "sample").mkdir()
    copy = tmp_path / "sample/one.json"
    copy.write_bytes(Path("checkpoints/sample/two.json").read_bytes())
    with pytest.raises(QinZooError, match=r"'one' means 2 runs: #.* sample/one, #.* sample/one\. Say which"):
        resolve_one("one", [Path("checkpoints"), tmp_path])


def test_a_run_that_is_stored_too_is_there_once(here, tmp_path, capsys):
    run = resolve_one("one")
    assert called("results", "add", run.id, "two", "--store", tmp_path / "store") == 0
    assert "2 new" in capsys.readouterr().out
    both = find_runs([Path("checkpoints"), tmp_path / "store"])
    assert [found.is_stored for found in both] == [False] * 4
    assert resolve_one(run.id, [tmp_path / "store"]).is_stored
    listed = read(capsys, "results", "list", "--store", tmp_path / "store", "--json")
    assert sorted(entry["digest"][:6] for entry in listed) == sorted([run.id[1:], resolve_one("two").id[1:]])


@pytest.mark.parametrize("asked", ["name", "id", "record"])
def test_a_run_is_predicted(here, sample, tmp_path, capsys, asked):
    """Of a study, which no experiment is called as: its predictions have the AUC that its record holds."""
    run = resolve_one("QIN_sample.wide.s2")
    text = {"name": run.name, "id": run.id, "record": run.file}[asked]
    assert called("predict", text, "--split", "valid", "--out", tmp_path) == 0
    y_true, _ = labels(sample)
    auc = roc_auc_score(y_true, scores(tmp_path / "QIN_sample.wide.s2.valid.prediction.csv"))
    capsys.readouterr()
    shown = read(capsys, "runs", "show", text, "--json")
    assert shown["metrics"]["valid"]["AUC"] == pytest.approx(auc, abs=1e-6)
    assert shown["params"]["embedding_dim"] == 6
    assert shown["files"]["checkpoint"].endswith("QIN_sample.wide.s2.model")


def test_two_runs_are_compared_as_a_bootstrap_over_users_does(here, sample, tmp_path, capsys):
    """The difference and its interval are those of scikit-learn's AUC on the predictions, users drawn by numpy."""
    for name in ("one", "two"):
        assert called("predict", name, "--split", "valid", "--out", tmp_path) == 0
    capsys.readouterr()
    y_true, users = labels(sample)
    one, two = (scores(tmp_path / f"{name}.valid.prediction.csv") for name in ("one", "two"))
    rows = [np.flatnonzero(users == user) for user in np.unique(users)]
    rng, drawn = np.random.default_rng(3), []
    for _ in range(400):
        chosen = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        drawn.append(roc_auc_score(y_true[chosen], one[chosen]) - roc_auc_score(y_true[chosen], two[chosen]))
    found = read(capsys, "runs", "compare", "one", "two", "--json")
    told = found["metrics"]["AUC"]["difference"]
    assert told["mean"] == pytest.approx(roc_auc_score(y_true, one) - roc_auc_score(y_true, two), abs=1e-6)
    assert (told["interval"][1] - told["interval"][0]) / 2 == pytest.approx(1.96 * np.std(drawn), rel=0.15)
    differ = {d["what"]: (d["one"], d["other"]) for d in found["parameters"]}
    assert differ == {"num_layers": ("1", "2"), "seed": (found["one"][0]["seed"].__str__(), "7")}
    assert found["data"] == found["environment"] == []
    assert found["same_rows"]


def test_a_line_of_seeds_is_compared_on_a_page_of_80_columns(here, capsys):
    line = f"#{resolve_one('QIN_sample.wide.s1').entry.setting[:4]}"
    assert called("runs", "compare", line, "one", "--picture", "curves.png") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("A: #") == 2
    assert "embedding_dim" in out
    assert "and over seeds" in " ".join(out.split())
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_on_other_rows_are_not_subtracted(here, sample, tmp_path, capsys):
    for file in sample.glob("*.parquet"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pl.read_parquet(sample / "valid.parquet").head(300).write_parquet(tmp_path / "valid.parquet")
    root = {"model_root": str(tmp_path / "root")}
    run_experiment(prepare("QIN_sample", data=tmp_path, overrides={**SMALL, **root}, name="few"), tmp_path, echo=quiet)
    places = ("--root", "checkpoints", "--root", tmp_path / "root")
    found = read(capsys, "runs", "compare", "one", "few", *places, "--json")
    assert not found["same_rows"]
    assert "difference" not in found["metrics"]["AUC"]
    assert ("valid rows", "300") in {(d["what"], d["other"]) for d in found["data"]}
    assert called("runs", "compare", "one", "few", *places) == 0
    assert "cannot be subtracted" in capsys.readouterr().out


def test_an_experiment_or_run_that_is_neither_is_one_message(here, capsys):
    assert called("predict", "QIN_sampel") == 1
    assert "Did you mean 'QIN_sample'" in capsys.readouterr().err
