"""`qin-zoo update`: before and after on the same rows, the gate, and the export behind it."""

# ruff: noqa: F811 (fixtures that are imported)

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from period_runs import run, without_pictures  # noqa: F401
from sklearn.metrics import log_loss, roc_auc_score

from qin_zoo.cli import main
from qin_zoo.errors import DataError
from qin_zoo.experiment.continued import prepare_continuation
from qin_zoo.experiment.prepare import build_model
from qin_zoo.experiment.repeat import prepare_repetition
from qin_zoo.experiment.run import run_experiment
from qin_zoo.models.weights import warm_start
from qin_zoo.training.trainer import size_for_batch_norm
from qin_zoo.update import update_run


def quiet(line):
    pass


def called(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def test_both_are_scored_on_the_new_rows(run, tmp_path):
    record, folders = run
    path = Path(record["files"]["record"])
    done = update_run(path, folders[1], results_folder=tmp_path, echo=quiet)
    label = pl.read_parquet(folders[1] / "test.parquet")["label"].to_numpy()
    after = np.loadtxt(done.files.prediction, delimiter=",", skiprows=1)[:, 1]
    assert done.split == "test"
    assert done.after["AUC"] == pytest.approx(roc_auc_score(label, after), abs=1e-9)
    prepared = prepare_continuation(path, folders[1])
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset)
    warm_start(model, str(path.with_suffix(".model")))
    before = np.concatenate([model(b)["y_pred"].view(-1).detach() for b in dataset.loader("test", shuffle=False)])
    assert done.before["logloss"] == pytest.approx(log_loss(label, before.astype(float)), abs=1e-6)
    assert done.differences["AUC"].mean == pytest.approx(done.after["AUC"] - done.before["AUC"])
    assert done.differences["AUC"].half > 0
    page = done.report.read_text()
    assert "continues r.json: 48 new rows" in page
    assert f"{done.before['AUC']:.6f}" in page
    change = done.differences["AUC"]
    assert done.passed == (-change.mean <= change.half)
    assert f"May get worse by {change.half:.4g} in AUC" in page
    strict = update_run(path, folders[1], allowed=0, name="strict", results_folder=tmp_path, echo=quiet)
    assert strict.differences["AUC"].mean == change.mean
    assert strict.passed == (change.mean >= 0)


def test_the_gate(run, tmp_path, capsys):
    """A model that unlearns, by a huge step, is not exported; the file of before stays."""
    record, folders = run
    out = tmp_path / "m.onnx"
    out.write_text("yesterday's")
    command = ["update", record["files"]["record"], "--data", str(folders[1]), "--export", str(out)]
    flipped = folders[1] / "train.parquet"
    rows = pl.read_parquet(flipped)
    easy = rows.with_columns(label=(pl.col("user") % 2).cast(pl.Int64))
    easy.write_parquet(folders[1] / "test.parquet")  # tomorrow follows a rule that today's rows deny
    easy.with_columns(label=1 - pl.col("label")).write_parquet(flipped)
    steps = ["--set", "learning_rate=5", "--set", "epochs=20", "--replay", "none", "--name", "bad"]
    assert called(*command, *steps) == 3
    said = capsys.readouterr()
    assert "AUC: WORSE than before" in said.out
    assert f"Not exported: the new model is worse than the old one on the new rows. {out} stays as it is." in said.err


@pytest.mark.parametrize(("metrics", "metric"), [(["AUC", "logloss"], "logloss"), (["AUC"], None)])
def test_new_rows_of_one_class(run, tmp_path, metrics, metric):
    """They have no AUC: another metric decides, and where there is none nothing is trained."""
    record, folders = run
    file, said = folders[1] / "test.parquet", []
    pl.read_parquet(file).with_columns(label=pl.lit(0)).write_parquet(file)
    asked = {"results_folder": tmp_path, "echo": said.append, "overrides": {"metrics": metrics}}
    if metric is None:
        with pytest.raises(DataError, match="AUC: no number on the test rows of the new data"):
            update_run(Path(record["files"]["record"]), folders[1], **asked)
        assert not said
        return
    done = update_run(Path(record["files"]["record"]), folders[1], allowed=1, **asked)
    scores = np.loadtxt(done.files.prediction, delimiter=",", skiprows=1)[:, 1]
    assert done.after["logloss"] == pytest.approx(-np.log(1 - scores).mean(), abs=1e-6)
    assert (done.metric, done.passed) == (metric, True)
    assert "AUC is no number on the test rows of the new data: logloss decides." in said


def test_passed_and_exported(run, tmp_path):
    pytest.importorskip("onnxscript")
    from qin_zoo.serving.scorer import Scorer

    record, folders = run
    out = tmp_path / "m.onnx"
    command = ["update", record["files"]["record"], "--data", str(folders[1]), "--export", str(out), "--allowed", "1"]
    assert called(*command, "--replay", "random") == 0
    assert Scorer(out).items == 35  # those of the new day, and padding


def test_a_day_is_shorter_than_what_was_between_two_looks(run, tmp_path, monkeypatch):
    """`run` on an imported folder looks twice an epoch, after more batches than the 2 of a day."""
    record, folders = run
    monkeypatch.chdir(tmp_path)
    path = Path(record["files"]["record"])
    often = prepare_repetition(path, overrides={"batch_size": 1, "eval_steps": 24}).prepared.named("often")
    again = run_experiment(often, tmp_path, echo=quiet)
    assert [e["step"] for e in again["evaluations"]] == [24, 48]
    changes = {"batch_size": 32, "epochs": 3}
    done = update_run(
        Path(again["files"]["record"]), folders[1], allowed=1, results_folder=tmp_path, echo=quiet, overrides=changes
    )
    assert [e["epoch"] for e in done.record["evaluations"]] == [1, 2, 3]


def test_a_day_goes_on_with_the_rate_that_the_weights_were_had_with(run, tmp_path):
    """That of the last look which was the best so far; where all begins anew, and by command, another one."""
    record, folders = run
    path = Path(record["files"]["record"])
    (look,) = record["evaluations"]
    looks = [{**look, "learning_rate": rate, "best": best} for rate, best in ((0.5, True), (0.2, True), (0.1, False))]
    path.write_text(json.dumps({**record, "evaluations": looks}))

    def rate(of=path, **changes):
        return prepare_continuation(of, folders[1], overrides=changes).params["learning_rate"]

    assert (rate(), rate(replay="all"), rate(learning_rate=0.3)) == (0.2, 0.5, 0.3)
    averaged = {**record, "params": {**record["params"], "ema_decay": 0.9}, "evaluations": looks}
    path.write_text(json.dumps(averaged))  # a quarter: an average is where a lower rate leads
    assert (rate(), rate(ema_decay=None), rate(learning_rate=0.3)) == (0.05, 0.05, 0.3)
    path.write_text(json.dumps({**record, "evaluations": looks}))
    done = update_run(path, folders[1], allowed=1, results_folder=tmp_path, echo=quiet)
    assert [e["learning_rate"] for e in done.record["evaluations"]] == [0.2]
    looks = [{**look, "learning_rate": 0.05} for look in done.record["evaluations"]]  # days do not wear it down
    done.files.record.write_text(json.dumps({**done.record, "evaluations": looks}))
    assert rate(done.files.record) == 0.2


def test_a_day_that_leaves_one_row_alone(run, tmp_path):
    """48 rows in batches of 47: batch norm has nothing to take of the last one. The next size that will do is taken."""
    record, folders = run
    lines = []
    repeated = prepare_repetition(Path(record["files"]["record"]), overrides={"batch_norm": True}).prepared
    again = run_experiment(repeated.named("norm"), tmp_path, echo=quiet)
    path = Path(again["files"]["record"])
    changes = {"batch_size": 47, "replay": "none"}
    done = update_run(path, folders[1], allowed=1, results_folder=tmp_path, echo=lines.append, overrides=changes)
    assert "  batch_size 48 instead of 47, which leaves one row alone, too few for batch norm" in lines
    assert done.record["evaluations"][0]["step"] == 1


@pytest.mark.parametrize(("rows", "size", "enough"), [(257, 64, 65), (4161, 64, 66), (5, 1, 3), (9, 4, 5), (8, 4, 4)])
def test_no_batch_of_one_row(rows, size, enough):
    norm = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
    assert size_for_batch_norm(norm, rows, size) == enough
    assert size_for_batch_norm(torch.nn.Linear(1, 1), rows, size) == size
    for batch in torch.zeros(rows, 1).split(enough):  # torch itself refuses one row
        norm(batch)


def test_rows_without_labels(run, tmp_path):
    record, folders = run
    for split in ("test", "valid"):
        file = folders[1] / f"{split}.parquet"
        pl.read_parquet(file).drop("label").write_parquet(file)
    with pytest.raises(DataError, match="label"):
        update_run(Path(record["files"]["record"]), folders[1], results_folder=tmp_path, echo=quiet)
