"""`qin-zoo calibrate`: the step beside the weights, used by predict and export, refused beside other weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from qin_zoo.cli import main
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.calibrate import _held_out
from qin_zoo.experiment.report import write_report
from qin_zoo.serving import Scorer

SMALL = ["--set", "epochs=1", "--set", "embedding_dim=4", "--set", "batch_size=512", "--set", "verbose=0"]
FOLDER = Path("checkpoints/sample")


def qin_zoo(*args) -> int:
    """Runs a command in this process; its exit status."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    return done.value.code or 0


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert qin_zoo("run", "QIN_sample", "--data", sample, *SMALL) == 0
    return folder


@pytest.fixture
def run(trained, sample, tmp_path, monkeypatch):
    """Runs a command on a copy of the trained model."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return lambda name, *args: qin_zoo(name, "QIN_sample", *args, "--data", sample, *SMALL)


def predictions(suffix: str = "") -> np.ndarray:
    return pl.read_csv(FOLDER / f"QIN_sample{suffix}.prediction.csv")["Task2"].to_numpy()


def test_a_report_says_how_to_mend_probabilities_that_are_far_off(trained, tmp_path):
    record = json.loads((trained / FOLDER / "QIN_sample.json").read_text())
    for ece, said in ((0.04, False), (0.1234, True)):
        write_report(tmp_path / "r.md", {**record, "calibration": {"valid": {"ece": ece}}})
        told = [line for line in (tmp_path / "r.md").read_text().splitlines() if "probabilities are off" in line]
        assert [f"off by {ece:.2f}" in line for line in told] == [True] * said
        assert all(f"`qin-zoo calibrate {record['files']['record']}`" in line for line in told)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_predict_and_export_give_calibrated_scores(run, sample, method, capsys):
    assert run("predict", "--split", "valid") == 0
    raw = predictions(".valid")
    assert run("calibrate", "--method", method) == 0
    found = json.loads((FOLDER / "QIN_sample.calibration.json").read_text())
    assert found["step"]["method"] == method
    assert found["fitted_on"] == {"split": "valid", "rows": 600}
    sides = found["results"]["valid"]
    assert sides["after"]["ECE"] < sides["before"]["ECE"]
    assert "fitted to these rows" in capsys.readouterr().out
    assert "optimistic" in (FOLDER / "QIN_sample.calibration.md").read_text()
    assert (FOLDER / "QIN_sample.calibration.png").stat().st_size > 5000

    assert run("predict", "--split", "valid") == 0
    assert f"calibrated: {method}" in capsys.readouterr().out
    calibrated = predictions(".valid")
    assert np.abs(calibrated - raw).max() > 1e-3
    assert (np.diff(calibrated[np.argsort(raw)]) >= -1e-12).all()

    assert run("export", "m.onnx") == 0
    scorer = Scorer("m.onnx")
    assert scorer.manifest["calibration"] == found["step"]
    rows = pl.read_parquet(sample / "valid.parquet").head(100)
    scores = [
        scorer.score(r["item_seq"], [r["item_id"]], {k: r[k] for k in ("likes_level", "views_level")})[0]
        for r in rows.iter_rows(named=True)
    ]
    np.testing.assert_allclose(scores, calibrated[:100], atol=1e-5)
    first = rows.row(0, named=True)  # so many that they are scored in several parts, the first ones full
    levels = {key: first[key] for key in ("likes_level", "views_level")}
    many = scorer.score(first["item_seq"], [first["item_id"]] * 600, levels)
    np.testing.assert_allclose(many, calibrated[0], atol=1e-5)


def test_without_a_step_nothing_changes(run):
    assert run("export", "m.onnx") == 0
    assert Scorer("m.onnx").manifest["calibration"] is None


def test_a_step_of_other_weights_is_refused(run, capsys):
    assert run("calibrate") == 0
    shutil.copy(FOLDER / "QIN_sample.calibration.json", "other.calibration.json")
    shutil.copy(FOLDER / "QIN_sample.model", "other.model")
    assert run("predict", "--checkpoint", "other.model") == 0  # the same weights elsewhere
    torch.save({name: 1.01 * weight for name, weight in torch.load("other.model").items()}, "other.model")
    capsys.readouterr()
    for command in (["predict"], ["export", "m.onnx"]):
        assert run(*command, "--checkpoint", "other.model") == 1
        assert "was fitted to other weights than other.model" in capsys.readouterr().err
    Path("other.calibration.json").write_text("{}")
    assert run("predict", "--checkpoint", "other.model") == 1
    assert "holds no calibration step. Fit it again" in capsys.readouterr().err


def test_a_new_training_drops_the_old_step(run):
    assert run("calibrate") == 0
    assert run("run") == 0
    assert not list(FOLDER.glob("*.calibration.*"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--method", "plat"], "expected platt or isotonic, found 'plat'. Did you mean 'platt'?"),
        (["--checkpoint", "none.model"], "No checkpoint at none.model"),
        (
            [
                part
                for change in ("task=regression", "loss=mse_loss", "metrics=[MSE]", "monitor=MSE", "monitor_mode=min")
                for part in ("--set", change)
            ],
            "only click probabilities",
        ),
    ],
)
def test_mistakes(run, capsys, args, said):
    assert run("calibrate", *args) == 1
    assert said in capsys.readouterr().err


def test_a_runs_report_tells_its_error(run):
    record = json.loads((FOLDER / "QIN_sample.json").read_text())
    report = (FOLDER / "QIN_sample.md").read_text()
    assert "| ECE |" in report
    assert f"{record['calibration']['valid']['ece']:.6f}" in report


def test_one_user_cannot_be_held_out_and_that_is_what_is_said():
    """Both labels are there, so that they are all alike is no answer."""
    label, score = np.array([0, 1, 0, 1, 1, 0]), np.array([0.1, 0.9, 0.6, 0.7, 0.4, 0.2])
    with pytest.raises(QinZooError, match=r"these 6 rows of 1 user\(s\) it cannot be fitted .* --set group_id=null"):
        _held_out("platt", label, score, np.array(["u"] * 6))
    assert _held_out("platt", np.tile(label, 9), np.tile(score, 9), None)["after"]["logloss"] < 1


def test_a_step_that_makes_held_out_rows_worse_is_not_kept(run, sample, monkeypatch, capsys):
    """The sample's true probabilities cannot be calibrated; twice their logits can, and Platt finds the half."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold, cross_val_predict

    truth = pl.read_parquet(sample / "truth/valid.parquet")["probability"].to_numpy().astype(np.float64)
    rows = pl.read_parquet(sample / "valid.parquet")
    y_true, users = rows["label"].to_numpy(), rows["user_id"].to_numpy()
    bent = IsotonicRegression(out_of_bounds="clip", y_min=1e-3, y_max=1 - 1e-3)
    held_out = cross_val_predict(bent, truth, y_true, groups=users, cv=GroupKFold(5))
    assert log_loss(y_true, held_out) > log_loss(y_true, truth)  # scikit-learn says the same of the same rows

    monkeypatch.setattr("qin_zoo.experiment.calibrate.predict_rows", lambda model, dataset, split: (truth, {}))
    assert run("calibrate", "--method", "isotonic") == 0
    assert "no step is kept: isotonic makes it worse" in capsys.readouterr().out
    assert not list(FOLDER.glob("*.calibration.*"))

    logits = 2 * np.log(truth / (1 - truth))
    monkeypatch.setattr(
        "qin_zoo.experiment.calibrate.predict_rows", lambda model, dataset, split: (1 / (1 + np.exp(-logits)), {})
    )
    assert run("calibrate") == 0
    found = json.loads((FOLDER / "QIN_sample.calibration.json").read_text())
    assert found["step"]["slope"] == pytest.approx(0.5, abs=0.15)
    assert found["held_out"]["after"]["logloss"] < found["held_out"]["before"]["logloss"]
    kept = (FOLDER / "QIN_sample.calibration.json").read_bytes()

    monkeypatch.setattr("qin_zoo.experiment.calibrate.predict_rows", lambda model, dataset, split: (truth, {}))
    assert run("calibrate", "--method", "isotonic") == 0
    assert (FOLDER / "QIN_sample.calibration.json").read_bytes() == kept
