"""`qin-zoo new` outside the repository, followed by its own test and a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from qin_zoo.cli import main


def qin_zoo(*args) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    return done.value.code or 0


@pytest.mark.slow
def test_new_then_its_test_then_a_run(tmp_path, monkeypatch, sample):
    monkeypatch.chdir(tmp_path)
    assert qin_zoo("new", "MyFirstModel") == 0
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_my_first_model.py"]
    done = subprocess.run(test, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    run = ["run", "MyFirstModel_sample", "--plugin", "my_first_model.py", "--data", sample, "--set", "epochs=1"]
    assert qin_zoo(*run) == 0
    assert Path("checkpoints/sample/MyFirstModel_sample.submission.zip").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("my model", "class name"), ("QIN", "already"), ("../Evil", "class name"), ("Twice", "exists")]
)
def test_refused(tmp_path, monkeypatch, capsys, name, words):
    monkeypatch.chdir(tmp_path)
    if name == "Twice":
        assert qin_zoo("new", name) == 0
        Path("twice.py").write_text("mine")
    assert qin_zoo("new", name) == 1
    assert words in capsys.readouterr().err
    assert name != "Twice" or Path("twice.py").read_text() == "mine"
