"""The command line, as a person uses it: on the item table and on FuxiCTR's fields, and twice."""

import csv
import io
import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

from qin_zoo.cli import build_app, main

SMALL = ["--set", "epochs=2", "--set", "embedding_dim=4", "--set", "batch_size=256"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def qin_zoo(*args) -> int:
    """Runs a command in this process; its exit status."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    return done.value.code or 0


class TestRun:
    def test_everything_is_written(self, sample, capsys):
        assert qin_zoo("run", "QIN_sample", "--data", sample, *SMALL) == 0
        out = capsys.readouterr()
        assert "Error" not in out.err
        assert re.search(r"epoch +1 .*valid AUC", out.out)
        folder = Path("checkpoints/sample")
        names = {f.name for f in folder.iterdir()}
        suffixes = (".model", ".log", ".json", ".md", ".png", ".events", ".prediction.csv", ".submission.zip")
        assert names == {f"QIN_sample{s}" for s in suffixes} | {".QIN_sample.lock"}

        record = json.loads((folder / "QIN_sample.json").read_text())
        assert record["params"]["embedding_dim"] == 4
        assert [e["epoch"] for e in record["evaluations"]] == [1, 2]
        assert record["valid"].keys() == {"AUC", "logloss", "gAUC"}
        assert record["rows"] == {"train": 3000, "valid": 600, "test": 500}
        assert {"torch", "fuxictr", "qin_zoo"} <= record["environment"].keys()
        assert re.fullmatch("[0-9a-f]{32}", record["data"]["train"]["blake2b"])
        assert record["reachable"]["best_auc"] > record["reachable"]["blind_auc"] > 0.5

        rows = list(csv.DictReader(io.StringIO((folder / "QIN_sample.prediction.csv").read_text())))
        assert [r["ID"] for r in rows] == [str(i) for i in range(500)]
        assert all(0 < float(r["Task2"]) < 1 for r in rows)
        with zipfile.ZipFile(folder / "QIN_sample.submission.zip") as z:
            assert z.namelist() == ["prediction.csv"]
            assert z.read("prediction.csv") == (folder / "QIN_sample.prediction.csv").read_bytes()
        report = (folder / "QIN_sample.md").read_text()
        assert "best reachable valid AUC" in report
        assert "QIN_sample.png" in report
        line = Path("QIN.csv").read_text()
        assert "[exp_id] QIN_sample,[dataset_id] sample,[train] N.A.,[val] AUC: " in line
        assert "[Metrics]" in (folder / "QIN_sample.log").read_text()

    def test_twice_gives_the_same_and_a_second_line(self, sample, capsys):
        records = []
        for _ in range(2):
            assert qin_zoo("run", "DIN_sample", "--data", sample, *SMALL) == 0
            records.append(json.loads(Path("checkpoints/sample/DIN_sample.json").read_text()))
        assert records[0]["valid"] == records[1]["valid"]
        assert len(Path("DIN.csv").read_text().splitlines()) == 2

    @pytest.mark.parametrize("model", ["QIN", "DIN"])
    def test_fuxictr_fields(self, model, tiny_seq, capsys):
        assert qin_zoo("run", "--expid", f"{model}_tiny_seq", "--data", tiny_seq) == 0
        record = json.loads(Path(f"checkpoints/tiny_seq/{model}_tiny_seq.json").read_text())
        assert record["test"].keys() == {"AUC", "logloss"}
        assert record["reachable"] is None

    def test_predict_repeats_the_run(self, sample, capsys):
        qin_zoo("run", "QIN_sample", "--data", sample, *SMALL)
        first = Path("checkpoints/sample/QIN_sample.prediction.csv").read_bytes()
        assert qin_zoo("predict", "QIN_sample", "--data", sample, "--out", "elsewhere", *SMALL) == 0
        assert Path("elsewhere/QIN_sample.prediction.csv").read_bytes() == first
        assert qin_zoo("predict", "QIN_sample", "--data", sample, "--split", "valid", *SMALL) == 0
        record = json.loads(Path("checkpoints/sample/QIN_sample.json").read_text())
        assert f"AUC {record['valid']['AUC']:.6f}" in capsys.readouterr().out

    def test_run_expid_does_the_same(self, sample, tmp_path, monkeypatch):
        script = REPOSITORY / "experiments" / "run_expid.py"
        # as FuxiCTR's, the script works from a fixed folder, so a copy of the experiments stands in for it
        home = tmp_path / "repository"
        (home / "experiments").mkdir(parents=True)
        (home / "experiments" / "run_expid.py").write_text(script.read_text())
        (home / "data").mkdir()
        (home / "data" / "sample").symlink_to(sample)
        config = REPOSITORY / "experiments" / "QIN"
        small = tmp_path / "config"
        small.mkdir()
        text = (config / "model_config.yaml").read_text().replace("epochs: 6", "epochs: 1")
        text = text.replace("max_len: 64", "max_len: 8").replace("embedding_dim: 16", "embedding_dim: 4")
        (small / "model_config.yaml").write_text(text)
        (small / "dataset_config").symlink_to(REPOSITORY / "dataset_configs")
        arguments = ["run_expid.py", "--config", str(small), "--expid", "QIN_sample", "--gpu=-1"]
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(home / "experiments" / "run_expid.py"), run_name="__main__")
        assert (home / "checkpoints/sample/QIN_sample.submission.zip").exists()
        assert (home / "config.csv").exists()

    def test_a_model_that_knows_only_fuxictr(self, sample, tmp_path):
        """Written for the public triple; neither Ray nor this project is needed for it to train."""
        (tmp_path / "plain.py").write_text(PUBLIC_MODEL)
        (tmp_path / "model_config.yaml").write_text(
            "Base: {metrics: [AUC, logloss], early_stop_patience: 2}\n"
            "Plain_sample: {model: PlainPooling, dataset_id: sample, epochs: 1, batch_size: 256, learning_rate: 0.01}\n"
        )
        (tmp_path / "dataset_config").symlink_to(REPOSITORY / "dataset_configs")
        args = ["run", "Plain_sample", "--config", tmp_path, "--plugin", tmp_path / "plain.py", "--data", sample]
        assert qin_zoo(*args) == 0
        assert json.loads(Path("checkpoints/sample/Plain_sample.json").read_text())["valid"]["AUC"] > 0


PUBLIC_MODEL = """
import torch
from torch import nn
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.layers import FeatureEmbedding


class PlainPooling(BaseModel):
    def __init__(self, feature_map, model_id="PlainPooling", gpu=-1, embedding_dim=8, learning_rate=1e-3, **kwargs):
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        self.dim = sum(
            s.get("embedding_dim", embedding_dim) for s in feature_map.features.values() if s.get("source") == "item"
        )
        self.out = nn.Linear(2 * self.dim + 2 * embedding_dim, 1)
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        batch_dict, item_dict, mask = inputs
        names = ("likes_level", "views_level")
        context = self.embedding_layer({n: batch_dict[n] for n in names}, flatten_emb=True)
        items = self.embedding_layer(item_dict, flatten_emb=True).view(mask.shape[0], -1, self.dim)
        history = (items[:, :-1] * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"y_pred": torch.sigmoid(self.out(torch.cat([context, items[:, -1], history], -1)))}

    def get_labels(self, inputs):
        return super().get_labels(inputs[0])
"""


class TestListAndInfo:
    def test_list(self, capsys):
        assert qin_zoo("list") == 0
        out = capsys.readouterr().out
        assert "QIN" in out
        assert "DIN" in out
        assert qin_zoo("list", "q*") == 0
        assert "DIN_" not in capsys.readouterr().out

    def test_the_list_is_short_at_80_columns_and_whole_where_it_is_asked(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        assert qin_zoo("list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) < 40
        assert max(map(len, lines)) <= 100  # the last line is a hint
        assert max(map(len, lines[:-1])) <= 80
        assert qin_zoo("list", "senet") == 0
        out = capsys.readouterr().out
        assert "DIN_SENet_ml-100k" in out
        assert "QIN_sample" not in out
        assert qin_zoo("list", "--dataset", "ml-100k") == 0
        out = capsys.readouterr().out
        assert "QIN_ml-100k" in out
        assert "QIN_sample" not in out
        assert qin_zoo("list", "--dataset", "ml-100") == 1
        assert "Did you mean 'ml-100k'" in capsys.readouterr().err

    def test_machines_get_json(self, capsys):
        assert qin_zoo("list", "--json") == 0
        models = {m["model"]: m for m in json.loads(capsys.readouterr().out)}
        assert {"expid": "QIN_sample", "dataset_id": "sample"}.items() <= next(
            e for e in models["QIN"]["experiments"] if e["expid"] == "QIN_sample"
        ).items()
        assert qin_zoo("info", "epochs", "--json") == 0
        (key,) = json.loads(capsys.readouterr().out)
        assert (key["default"], key["expected"]) == (10, "a whole number of at least 1")
        assert qin_zoo("info", "DIN", "--json") == 0
        parameters = {p["name"]: p for p in json.loads(capsys.readouterr().out)["parameters"]}
        assert parameters["learning_rate"]["default"] == "0.001"

    @pytest.mark.parametrize(
        ("key", "words"),
        [
            ("epochs", r"by default 10 .*Passes over"),
            ("batch_size", "by default 1024 "),
            ("max_len", "Items of the history"),
            ("seed", "by default 1029 "),
            ("on_nan", r"one of stop, rollback, by default stop"),
            ("train_fraction", "a number from 0 to 1, by default 1"),
            ("checkpoint_steps", "every ten minutes"),
            ("num_row", "num_row of QIN, by default 2"),
            ("vocab_size", "vocab_size of feature_cols"),
        ],
    )
    def test_a_key_is_explained(self, key, words, capsys):
        assert qin_zoo("info", key) == 0
        assert re.search(words, " ".join(capsys.readouterr().out.split()))

    def test_an_unknown_key_is_told_the_nearest(self, capsys):
        assert qin_zoo("info", "epohcs") == 1
        assert "Did you mean 'epochs'" in capsys.readouterr().err

    def test_completion_knows_the_commands(self):
        asked = {"COMP_WORDS": "qin-zoo ru", "COMP_CWORD": "1", "_QIN_ZOO_COMPLETE": "complete_bash"}
        program = [sys.executable, "-c", "from qin_zoo.cli import build_app; build_app()(prog_name='qin-zoo')"]
        done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, **asked})
        assert done.stdout.split() == ["run", "runs"]

    @pytest.mark.parametrize("command", ["list", "--help"])
    def test_imports_nothing_heavy(self, command):
        """What makes it answer at once: neither torch nor FuxiCTR, nor for help what reads signatures."""
        heavy = ["torch", "fuxictr", "ray", "pandas", "sklearn", "matplotlib", "qin_zoo.cli.run"]
        heavy = heavy if command == "list" else [*heavy[:-1], "pydantic", "yaml"]
        program = (
            "import sys; from qin_zoo.cli import main\n"
            f"try: main(['{command}'])\n"
            "except SystemExit as e: assert not e.code\n"
            f"print([m for m in {heavy} if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize("arguments", [["--help"], [], ["rnu"]])
    def test_help_is_that_of_the_whole_app(self, arguments, capsys):
        """The list of commands is made without their options; typer makes the same of all there is."""
        qin_zoo(*arguments)
        lean = capsys.readouterr()
        with pytest.raises(SystemExit):
            build_app()(args=arguments)
        assert "calibrate" in lean.out or "Did you mean 'run'" in lean.err
        assert lean == capsys.readouterr()

    def test_info(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "160")
        assert qin_zoo("info", "QIN") == 0
        out = capsys.readouterr().out
        assert "31,244,293 parameters" in out
        assert re.search(r"num_row .*linear maps summed", out)
        assert re.search(r"learning_rate .*0.001 .*of the optimiser", out)
        assert "QIN_sample: needs its data" in out

    @pytest.mark.parametrize("command", [[], ["run"], ["predict"], ["list"], ["info"], ["demo"], ["data", "sample"]])
    def test_help(self, command, capsys):
        assert qin_zoo(*command, "--help") == 0
        assert "Usage" in capsys.readouterr().out

    def test_version(self, capsys):
        assert qin_zoo("--version") == 0
        assert capsys.readouterr().out.startswith("qin-zoo ")


class TestSample:
    def test_data_sample(self, capsys):
        args = ["data", "sample", "--rows", "500", "--items", "60", "--seed", "3", "out"]
        assert qin_zoo(*args) == 0
        assert "reachable" in capsys.readouterr().out
        assert {"train.parquet", "valid.parquet", "test.parquet", "item_info.parquet"} <= set(os.listdir("out"))


def imported(arguments: list[str], modules: list[str], folder: Path) -> tuple[list[str], str]:
    """Which of the modules a command imports, and what it writes to standard error."""
    program = (
        "import sys; from qin_zoo.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        f"print(*[m for m in {modules} if m in sys.modules], sep=',')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [m for m in done.stdout.splitlines()[-1].split(",") if m], done.stderr


@pytest.mark.slow
def test_training_on_the_item_table_imports_nothing_heavy(sample, tmp_path):
    run = ["run", "QIN_sample", "--data", str(sample), "--set", "epochs=1", "--set", "max_len=8"]
    assert imported(run, ["ray", "sklearn", "scipy", "optuna", "pandas"], tmp_path) == ([], "")


def test_data_are_made_imported_and_checked_without_torch(tmp_path):
    """It alone takes as long to import as a small log takes; scikit-learn and pandas together nearly so."""
    heavy = ["torch", "fuxictr", "sklearn", "scipy", "pandas"]
    assert imported(["data", "sample", "small", "--rows", "300", "--items", "50"], heavy, tmp_path)[0] == []
    rows = [f"{user},{item},{(user + item) % 2},{user * 10 + item}" for user in range(20) for item in range(10)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,click,time", *rows]) + "\n")
    assert imported(["data", "import", "table", "log.csv", "shop"], heavy, tmp_path)[0] == []
    assert imported(["data", "check", "shop"], heavy, tmp_path)[0] == []
