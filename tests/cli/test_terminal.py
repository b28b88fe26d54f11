"""What reaches a terminal: ASCII where it knows no more, no escapes from files, no remnants of progress bars."""

import io
import os
import subprocess
import sys

import polars as pl
import pytest
from tqdm import tqdm

from qin_zoo.cli import main
from qin_zoo.errors import printable
from qin_zoo.log import above_bars
from qin_zoo.results.entry import Entry
from qin_zoo.results.store import Store

EVIL = "\x1b]0;owned\x07\x1b[2Jname\u202etxt\x9b31m"


def qin_zoo(*argv, **environment):
    command = [sys.executable, "-m", "qin_zoo", *map(str, argv)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, timeout=120)


def test_an_ascii_terminal_gets_the_nearest_letters(tmp_path):
    store = Store(tmp_path)
    for seed, auc in ((1, 0.69), (2, 0.70), (3, 0.71)):
        of = {"identity": str(seed), "setting": "s", "rows_of": "r", "split": "test", "rows": {"test": 100}}
        found = {"metrics": {"test": {"AUC": auc}}, "parameters": 1, "seconds": 1.0}
        store.add(Entry(experiment="E", seed=seed, model="M", dataset_id="d", **of, **found))
    done = qin_zoo("leaderboard", "--store", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode("ascii")
    assert "0.7000 +- 0.0100" in out
    assert "Mean +- standard deviation" in out


@pytest.mark.parametrize("command", ["stats", "head"])
def test_names_and_values_from_files_do_not_steer_the_terminal(command, tmp_path, capfd):
    pl.DataFrame({EVIL: [1, 2], "[red]b": [EVIL, "[bold]x"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(SystemExit) as end:
        main(["data", command, str(tmp_path / "x.parquet")])
    assert not end.value.code
    out = capfd.readouterr().out
    assert not set(out) & set("\x1b\x07\x9b\u202e")
    assert "[red]b" in out


def test_columns_of_ones_own_table_do_not_steer_the_terminal(tmp_path, capfd):
    rows = {"user_id": [1, 2, 3], "item_id": [4, 5, 4], "click": [0, 1, 1], EVIL: [1, 2, 3]}
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    with pytest.raises(SystemExit) as end:
        main(["data", "import", "table", str(tmp_path / "log.csv"), "--describe", str(tmp_path / "log.yaml")])
    assert not end.value.code
    out = capfd.readouterr().out
    assert not set(out) & set("\x1b\x07\x9b\u202e")
    assert "owned" in out


def test_an_error_quotes_names_without_their_escapes(tmp_path, capfd):
    pl.DataFrame({EVIL: [1], "label": [0.0]}).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(SystemExit) as end:
        main(["run", "QIN_sample", "--data", str(tmp_path)])
    assert end.value.code == 1
    err = capfd.readouterr().err
    assert not set(err) & set("\x1b\x07\x9b\u202e")
    assert err.startswith("Error: ")


def test_printable_shows_what_it_takes_out():
    assert printable("a\x1b[2Jb\tc\nd\u202e") == "a\\x1b[2Jb\tc\nd\\x202e"
    assert printable("Größe → 5 ± 1, 👨‍👩") == "Größe → 5 ± 1, 👨‍👩"


def test_a_line_stands_where_the_bar_was(monkeypatch):
    """The terminal is played: what is on it after the line holds no rest of the bar in front of it."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    say = above_bars(lambda line: print(line, file=sys.stdout))
    for _ in tqdm(range(3), "epoch 1/2", leave=False, disable=False, mininterval=0, ncols=60):
        say("epoch   1  train loss 0.5")
    lines = [screen(part) for part in terminal.getvalue().split("\n")]
    assert lines[:3] == ["epoch   1  train loss 0.5"] * 3
    assert lines[3] == ""


def screen(written: str) -> str:
    """What a line shows after carriage returns."""
    cells: list[str] = []
    for part in written.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()
