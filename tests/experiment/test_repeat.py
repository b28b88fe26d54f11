"""Runs repeated from their record, and runs that begin with older weights, through the command line."""

import json

import pytest

from qin_zoo.cli import main

SMALL = ["--set", "epochs=1", "--set", "embedding_dim=4", "--set", "max_len=8", "--set", "batch_size=256"]


@pytest.fixture
def run(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(*argv):
        try:
            main(["run", *map(str, argv), "--data", str(sample)])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, capsys.readouterr()

    assert command("QIN_sample", *SMALL)[0] == 0
    return command


def test_a_repetition_is_identical(run, tmp_path):
    first = (tmp_path / "checkpoints/sample/QIN_sample.json").read_bytes()
    code, shown = run("--from", "checkpoints/sample/QIN_sample.json")
    assert code == 0
    assert shown.out.count("identical") == 3, "the test rows have no labels"
    assert "data files are not" not in shown.out
    again = json.loads((tmp_path / "checkpoints/sample/QIN_sample.repeat.json").read_text())
    assert again["valid"] == json.loads(first)["valid"]
    assert (tmp_path / "checkpoints/sample/QIN_sample.json").read_bytes() == first


def test_a_stored_line_is_enough(run, tmp_path):
    (tmp_path / "checkpoints/sample/QIN_sample.json").rename(tmp_path / "run.json")
    with pytest.raises(SystemExit) as done:
        main(["results", "add", "run.json", "--store", "store"])
    assert not done.value.code
    (line,) = (tmp_path / "store").rglob("*.json")
    code, shown = run("--from", line)
    assert code == 0
    assert shown.out.count("identical") == 3
    assert "data files are not" not in shown.out
    entry = json.loads(line.read_text())
    del entry["params"]["feature_cols"]
    line.write_text(json.dumps(entry))
    code, shown = run("--from", line)
    assert code == 1
    assert "stored without its feature_cols" in shown.err


def test_what_differs_is_said(run, tmp_path):
    file = tmp_path / "checkpoints/sample/QIN_sample.json"
    record = json.loads(file.read_text())
    record["environment"]["torch"] = "1.0"
    record["data"]["train"]["blake2b"] = "0"
    record["valid"]["AUC"] = 0.1
    file.write_text(json.dumps(record))
    _, shown = run("--from", file)
    assert "torch: 1.0 then, " in shown.out
    assert "data files are not those" in shown.out
    assert "recorded 0.100000" in shown.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("params"), "no record of a run"),
        (lambda r: r["params"].update(model="os.system"), "model"),
        (lambda r: r["params"].update(embedding_initializer="__import__('os').system('touch x')"), "initializer"),
        (lambda r: r["params"].update(dataset_id="../x"), "dataset_id"),
        (lambda r: r.update(expid="../x"), "name of the run"),
        (lambda r: r.update(plugins=["evil.py"]), "--plugin evil.py if you trust it"),
    ],
)
def test_records_that_are_refused(change, message, run, tmp_path):
    record = json.loads((tmp_path / "checkpoints/sample/QIN_sample.json").read_text())
    change(record)
    (tmp_path / "bad.json").write_text(json.dumps(record))
    code, shown = run("--from", "bad.json")
    assert code == 1
    assert message in shown.err
    assert not (tmp_path / "x").exists()


def test_init_from(run):
    code, shown = run("QIN_sample", *SMALL, "--init-from", "checkpoints/sample/QIN_sample.model")
    assert code == 0
    assert "weights taken over as they are" in shown.out
    code, shown = run("QIN_sample", *SMALL, "--init-from", "nowhere.model")
    assert code == 1
    assert "No checkpoint at nowhere.model" in shown.err


def test_one_experiment(run):
    assert run("QIN_sample", "--from", "x.json")[0] == 2
    assert run()[0] == 2
