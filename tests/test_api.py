"""qin-zoo from Python: the same files and figures as the commands', objects that show themselves, nothing spilt."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from sklearn.metrics import log_loss, roc_auc_score

import qin_zoo as qz
from qin_zoo.cli import main

QUICK = {"epochs": 2, "embedding_dim": 4, "batch_size": 512}
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A run, and what its training printed."""
    import contextlib
    import io

    folder, out = tmp_path_factory.mktemp("api"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.chdir(folder)
        run = qz.train("QIN", qz.Dataset.open(sample), model_root=str(folder / "checkpoints"), **QUICK)
    return run, out.getvalue()


def labels(sample, split) -> np.ndarray:
    import polars as pl

    return pl.read_parquet(sample / f"{split}.parquet")["label"].to_numpy()


class TestDataset:
    def test_what_it_says_of_itself(self, sample):
        data = qz.Dataset.open(str(sample))
        assert data.rows == {"train": 3000, "valid": 600, "test": 500}
        assert data.features["item_tags"] == "sequence"
        assert "likes_level" in data._repr_html_()

    def test_no_folder(self, tmp_path):
        with pytest.raises(qz.QinZooError, match="no such folder"):
            qz.Dataset.open(tmp_path / "none")


class TestTrain:
    def test_figures_are_scikit_learns(self, trained, sample):
        run, _ = trained
        for split in ("train", "valid"):
            y_true, y_pred, found = labels(sample, split), run.predict(split), run.evaluate(split)
            assert y_pred.shape == y_true.shape
            assert found["AUC"] == pytest.approx(roc_auc_score(y_true, y_pred), abs=1e-6)
            assert found["logloss"] == pytest.approx(log_loss(y_true, y_pred), abs=1e-6)
        assert run.record["valid"]["AUC"] == pytest.approx(found["AUC"], abs=1e-6)
        assert run.evaluate() == found, "the test rows have no labels"

    def test_the_command_does_the_same(self, trained, sample, tmp_path, monkeypatch):
        run, _ = trained
        monkeypatch.chdir(tmp_path)
        changes = [text for key, value in QUICK.items() for text in ("--set", f"{key}={value}")]
        with pytest.raises(SystemExit) as done:
            main(["run", "QIN", "--data", str(sample), *changes])
        assert not done.value.code
        record = json.loads(Path("checkpoints/data/QIN.json").read_text())
        assert record["valid"] == run.record["valid"]
        assert record["sha256"]["prediction"] == run.record["sha256"]["prediction"]
        with open("checkpoints/data/QIN.prediction.csv") as file:
            theirs = [float(row["Task2"]) for row in csv.DictReader(file)]
        np.testing.assert_allclose(run.predict("test"), theirs, atol=1e-6)
        assert qz.load("QIN", sample).record["valid"] == run.record["valid"] == qz.load("QIN").record["valid"]

    def test_it_says_how_it_goes_and_spills_no_log(self, trained):
        _, said = trained
        assert "valid AUC" in said
        assert "Total number of parameters" not in said

    def test_logs_that_a_notebook_shows_stay_its_own(self, sample, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        shown = []
        handler = logging.Handler()
        handler.emit = shown.append
        logging.getLogger().addHandler(handler)
        try:
            run = qz.train("QNN", sample, quiet=True, **{**QUICK, "epochs": 1})
        finally:
            logging.getLogger().removeHandler(handler)
        assert not [record for record in shown if record.levelno < logging.WARNING]
        assert handler.level == logging.NOTSET
        assert capsys.readouterr().out == ""
        assert "Parameters:" in run.checkpoint.with_suffix(".log").read_text()

    def test_mistakes_are_ours(self, sample):
        with pytest.raises(qz.QinZooError, match=r"embeding_dim.*embedding_dim"):
            qz.train("QIN", sample, embeding_dim=4)
        with pytest.raises(qz.QinZooError, match="--data DIR"):
            qz.train("QIN")


class TestRun:
    def test_loaded_by_its_record(self, trained, tmp_path, monkeypatch):
        run, _ = trained
        monkeypatch.chdir(tmp_path)  # paths in a record may be relative; what is used lies beside it
        again = qz.load(run.checkpoint.with_suffix(".json"))
        np.testing.assert_array_equal(again.predict("valid"), run.predict("valid"))
        assert again.params == run.params

    def test_shows_itself(self, trained):
        run, _ = trained
        assert f"{run.record['valid']['AUC']:.4f}" in run._repr_html_()
        assert "QIN" in repr(run)
        assert run.curves._repr_png_().startswith(PNG)
        curve = run.curves["AUC"]
        assert curve.max() == pytest.approx(run.record["valid"]["AUC"], abs=1e-6)
        assert len(run.curves["train_loss"]) == len(curve)

    def test_explains(self, trained):
        pytest.importorskip("captum")
        run, _ = trained
        explained = run.explain(3, "test")
        assert explained._repr_png_().startswith(PNG)
        assert explained.explanation.prediction == pytest.approx(run.predict("test")[3], abs=1e-5)

    def test_calibrates_and_exports(self, sample, tmp_path, monkeypatch):
        pytest.importorskip("onnxruntime")
        from qin_zoo.serving import Scorer

        monkeypatch.chdir(tmp_path)
        run = qz.train("QIN", sample, quiet=True, history_matches=False, **QUICK)  # otherwise it has little to gain
        raw = run.predict("valid")
        run.calibrate()
        calibrated = run.predict("valid")
        assert log_loss(labels(sample, "valid"), calibrated) < log_loss(labels(sample, "valid"), raw)
        exported = run.export(tmp_path / "q.onnx")
        scores = Scorer(exported.path).score(
            history=[3, 17], candidates=[8, 9], context={"likes_level": 1, "views_level": 1}
        )
        assert len(scores) == 2

    def test_weights_that_are_not_the_records(self, trained, tmp_path):
        import shutil

        run, _ = trained
        for suffix in (".json", ".model"):
            shutil.copy(run.checkpoint.with_suffix(suffix), tmp_path / f"QIN{suffix}")
        with open(tmp_path / "QIN.model", "ab") as file:
            file.write(b"0")
        with pytest.raises(qz.QinZooError, match="SHA-256"):
            qz.load(tmp_path / "QIN.json")


def test_importing_loads_neither_torch_nor_polars():
    code = "import sys, qin_zoo; sys.exit(bool({'torch', 'polars', 'sklearn', 'fuxictr'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_every_name_that_is_promised_is_there():
    assert all(getattr(qz, name) is not None for name in qz.__all__)


def test_the_stub_names_what_is_there():
    """Editors and type checkers read ``__init__.pyi``, which no import checks."""
    import ast

    stub = ast.parse((REPOSITORY / "qin_zoo" / "__init__.pyi").read_text())
    imported = {a.asname: n.module for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imported == qz._WHERE
